"""`cairn serve` on the command line: its options, and what they mean to the server."""

import argparse
from pathlib import Path
from typing import Any

from cairn.base import UserError
from cairn.base.parser import positive, size

STATES = ("float32", "float16", "int8")


def add_arguments(one: argparse.ArgumentParser) -> None:
    """Every option of the verb."""
    one.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a model's folder")
    one.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on (default: 127.0.0.1)"
    )
    one.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    one.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="answer to this name too"
    )
    one.add_argument("--name", help="the model's name in the API (default: the folder's)")
    one.add_argument(
        "--slots", type=positive, metavar="N", help="sequences at a time (default: what fits)"
    )
    one.add_argument(
        "--capacity", type=positive, metavar="N", help="tokens of a sequence (default: what fits)"
    )
    one.add_argument(
        "--attribution", type=Path, metavar="INDEX", help="an index, for POST /v1/trace"
    )
    one.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=CHECKPOINT",
        help="serve one more model",
    )
    one.add_argument(
        "--keys", type=Path, metavar="FILE", help="API keys, one a line (or CAIRN_API_KEYS=a,b)"
    )
    one.add_argument(
        "--admin-keys", type=Path, metavar="FILE", help="for /admin (or CAIRN_ADMIN_KEYS)"
    )
    one.add_argument(
        "--weights", type=Path, metavar="ROOT", help="folder of checkpoints for /admin/weights"
    )
    one.add_argument(
        "--queue",
        type=positive,
        default=1024,
        metavar="N",
        help="open completions before 429 (default: 1024)",
    )
    one.add_argument(
        "--grace",
        type=_seconds,
        default=10,
        metavar="S",
        help="seconds for running requests at the end (default: 10)",
    )
    _add_memory(one)
    _add_speed(one)


def _add_memory(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--memory",
        type=size,
        metavar="SIZE",
        help="for keys and states, 2GB say (default: what fits)",
    )
    one.add_argument("--state", choices=STATES, help="type of recurrent states (default: float32)")
    one.add_argument(
        "--host-cache", type=size, metavar="SIZE", help="keep evicted prefixes in host memory"
    )
    one.add_argument(
        "--every", type=positive, metavar="N", help="keep a state every N tokens of a prompt too"
    )
    one.add_argument(
        "--cache", type=Path, metavar="DIR", help="folder where prefixes survive a restart"
    )
    one.add_argument(
        "--cache-size", type=size, metavar="SIZE", help="at most in --cache (default: 16GiB)"
    )
    one.add_argument(
        "--self-check", type=positive, metavar="N", help="compute every Nth cached answer again"
    )


def _add_speed(one: argparse.ArgumentParser) -> None:
    one.add_argument("--float8", action="store_true", help="keep matrices in 8 bits")
    one.add_argument("--invariant", action="store_true", help="the same bits in any batch")
    one.add_argument(
        "--ranks",
        type=positive,
        default=1,
        metavar="N",
        help="processes that share the model, one a GPU (default: 1)",
    )
    one.add_argument("--guess", type=positive, metavar="N", help="guess N tokens ahead")
    one.add_argument(
        "--draft", type=Path, metavar="CHECKPOINT", help="a small model that guesses (with --guess)"
    )


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return number


def keywords(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `serve` takes, beside the checkpoint; UserError for options that go against each other
    and files of keys that have none."""
    from cairn.engine.options import Caching, Speculation
    from cairn.serve import Keys, Limits, folders_by_name

    if arguments.draft is not None and arguments.guess is None:
        raise UserError("--draft", str(arguments.draft), "guesses nothing", "add --guess 4")
    if arguments.cache_size is not None and arguments.cache is None:
        raise UserError("--cache-size", arguments.cache_size, "bounds nothing", "add --cache DIR")
    kept = {
        "host_bytes": arguments.host_cache,
        "every": arguments.every,
        "disk_bytes": arguments.cache_size,
    }
    kept = {name: value for name, value in kept.items() if value is not None}
    if arguments.invariant and kept:
        problem = "keeps no prefixes, so nothing goes to --host-cache, --every or --cache-size"
        raise UserError("--invariant", True, problem, "leave them out")
    prefixes, disk = not arguments.invariant, arguments.cache
    same = "host", "port", "name", "slots", "capacity", "attribution", "weights", "grace"
    same = *same, "float8", "invariant", "ranks", "memory"
    return {
        **{name: getattr(arguments, name) for name in same},
        "more": folders_by_name(arguments.also),
        "limits": Limits(open_requests=arguments.queue),
        "keys": Keys.read(arguments.keys, "CAIRN_API_KEYS"),
        "admin_keys": Keys.read(arguments.admin_keys, "CAIRN_ADMIN_KEYS"),
        "caching": Caching(prefixes=prefixes, disk=disk, check=arguments.self_check, **kept),
        "speculation": arguments.guess and Speculation(most=arguments.guess, model=arguments.draft),
        "allow_hosts": arguments.allow_host,
        "state_dtype": arguments.state,
    }
