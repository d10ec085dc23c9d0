"""The command line: every verb's arguments, and what `--help` says of them."""

import argparse
from collections.abc import Callable
from pathlib import Path

from cairn.base.parser import Parser, positive
from cairn.serve.arguments import STATES, add_arguments  # no more of the room than its options

Verb = Callable[[str, str], argparse.ArgumentParser]
GIVEN = "ARTIFACT | NAME=VALUE | a.b=c"  # besides an artifact a plan's parameters, and its fields
SHORTEST = 24  # bytes of a match that `trace` and `--trace` tell
RUNS = "where artifacts live (default: runs)"
GREEDY = "of drawing; 0 is greedy (default: 0)"


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from cairn import __version__

    parser = Parser(prog="cairn", description="Make efficient language models.")
    parser.add_argument("--version", action="version", version=f"cairn {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text)

    _add_make_and_show(verb)
    _add_provenance(verb)
    _add_use(verb)
    return parser


def _add_make_and_show(verb: Verb) -> None:
    one = verb("make", "Make an artifact of a plan, and what is missing below it.")
    one.add_argument("plan", type=Path, metavar="PLAN", help="a Python file that defines `plan`")
    one.add_argument(
        "rest",
        nargs="*",
        default=[],
        metavar=GIVEN,
        help="what to make (default: all), and what to change",
    )
    one.add_argument(
        "--as", dest="sibling", metavar="NAME", help="make a changed copy, called NAME"
    )
    one.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help=RUNS)

    one = verb("show", "Show a plan's resolved recipes, or a model's size and cost.")
    one.add_argument(
        "what",
        metavar="PLAN | PRESET | CHECKPOINT",
        help="a file, a name (docs/models.md) or a folder",
    )
    one.add_argument(
        "rest",
        nargs="*",
        default=[],
        metavar=GIVEN,
        help="of a plan: what to show, and what to change",
    )
    one.add_argument(
        "--context", type=positive, metavar="N", help="tokens in memory a sequence (default: 8192)"
    )
    one.add_argument("--batch", type=positive, metavar="N", help="sequences at a time (default: 1)")
    one.add_argument(
        "--gpus",
        type=positive,
        metavar="N",
        help="share weights, or a plan's training, over N GPUs",
    )
    one.add_argument(
        "--device",
        metavar="NAME",
        help="this one, H200 say (cpu is measured; default for a model: six GPUs)",
    )
    types = ("float32", "bfloat16", "float16")
    one.add_argument("--dtype", choices=types, help="type of weights and keys (default: bfloat16)")
    one.add_argument("--paths", action="store_true", help="which code serves each layer here")
    one.add_argument("--float8", action="store_true", help="with --paths: matrices in 8 bits")
    one.add_argument("--state", choices=STATES, help="with --paths: type of recurrent states")
    one.add_argument("--json", action="store_true", help="machine-readable")


def _add_provenance(verb: Verb) -> None:
    one = verb("trace", "Where an artifact, a training step or a text came from.")
    one.add_argument("artifact", type=Path, metavar="RUN", help="an artifact's folder")
    which = one.add_mutually_exclusive_group()
    which.add_argument(
        "--step", type=int, metavar="N", help="list the files in the batch of this step"
    )
    which.add_argument("--text", help="find the longest matches in the training data")
    one.add_argument(
        "--minimum",
        type=positive,
        default=SHORTEST,
        metavar="N",
        help=f"shortest match of --text, in bytes (default: {SHORTEST})",
    )
    one.add_argument("--json", action="store_true", help="machine-readable")

    one = verb("report", "One page of plots of trained artifacts, or of runs.")
    one.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="checkpoints, or a folder of them"
    )
    one.add_argument(
        "--out", type=Path, metavar="PAGE", help="the page (default: training.html in the first)"
    )

    one = verb("lookup", "Is this in the corpus, and if not, which rule dropped it.")
    one.add_argument("corpus", type=Path, metavar="CORPUS", help="a corpus folder")
    one.add_argument(
        "query", metavar="SWHID | URL | FILE", help="also a repository, an owner, the end of a path"
    )
    one.add_argument("--json", action="store_true", help="machine-readable")

    one = verb("withdraw", "Take out who asks to be left out, and tell what had it.")
    one.add_argument(
        "plan", type=Path, metavar="PLAN", help="the plan whose artifacts are looked through"
    )
    one.add_argument(
        "requests",
        type=Path,
        nargs="+",
        metavar="LIST",
        help="lists of repositories, owners, SWHIDs",
    )
    one.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help=RUNS)
    one.add_argument(
        "--suffix",
        default="withdrawn",
        metavar="NAME",
        help="ends the names of the smaller ones (default: withdrawn)",
    )
    one.add_argument("--list", action="store_true", help="only tell which artifacts had the files")


def _add_use(verb: Verb) -> None:
    one = verb("generate", "One completion; with --suffix, fill-in-the-middle.")
    one.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a model's folder")
    one.add_argument("--prompt", required=True, metavar="TEXT", help="the text to go on with")
    one.add_argument("--suffix", metavar="TEXT", help="the text after the gap")
    one.add_argument(
        "--max-tokens", type=positive, default=64, metavar="N", help="at most (default: 64)"
    )
    one.add_argument("--temperature", type=float, default=0.0, metavar="T", help=GREEDY)
    one.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="of the likeliest tokens only (default: 1)",
    )
    one.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    one.add_argument("--trace", action="store_true", help="and where the text was learned from")
    one.add_argument("--json", action="store_true", help="machine-readable")

    one = verb("chat", "Talk with a checkpoint; an empty line or Ctrl-D ends it.")
    one.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a model's folder")
    one.add_argument(
        "--max-tokens",
        type=positive,
        default=256,
        metavar="N",
        help="at most, of an answer (default: 256)",
    )
    one.add_argument("--temperature", type=float, default=0.0, metavar="T", help=GREEDY)

    add_arguments(verb("serve", "Serve a checkpoint over an OpenAI-compatible HTTP API."))

    one = verb("evaluate", "Scores of a checkpoint, with n and standard error.")
    one.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a model's folder")
    one.add_argument("tasks", nargs="+", metavar="TASK", help="docs/evaluation.md lists them")
    one.add_argument("--data", type=Path, metavar="DIR", help="folder of benchmark files")
    one.add_argument(
        "--limit", type=positive, metavar="N", help="at most this many examples of each task"
    )
    one.add_argument("--json", action="store_true", help="machine-readable")

    one = verb("bench", "Run a measurement of bench/: one JSON line each.")
    one.add_argument("name", metavar="NAME", help="of a script in bench/")
    one.add_argument("--json", action="store_true", help="accepted: output is JSON lines already")
