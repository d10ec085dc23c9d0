"""FP8 against bf16: the same hybrid on the same tokens by each precision, with several seeds.

    python bench/training.py shards PACKAGES FOLDER      token shards of real source packages
    python bench/training.py run FOLDER OUT              a run for each precision and seed
    python bench/training.py gap OUT [--plot docs/fp8.png]

`shards` curates what it is given (archives or folders) and learns the tokenizer on it. `run` skips
runs that are finished; on a CPU, and with --emulate on a GPU too, FP8 is computed by its
definition. `gap` prints a JSON line a precision: loss over the last tenth of the steps and held-out
bits per byte against the baseline's, relative, at equal seeds and after equal steps; a run that was
cut short counts as far as it came. `--size tiny` is for two cores (minutes a run), `large` for a
GPU of one's own: 153M parameters, 300M tokens, twelve minutes a run on an H200.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from cairn.model import Decoder, ModelConfig, build
from cairn.ops import fp8, keep_freed_memory
from cairn.tokens import PretrainingStream, Tokenizer, TokenShards
from cairn.tokens.batch import Batch
from cairn.train import Loss, NextToken, TrainSettings, train
from cairn.train.heldout import bits_per_byte
from cairn.train.objective import Tokens
from cairn.train.precision import pick_device

PRECISIONS = ("bf16", "current", "block")
SHAPE = dict(
    pattern="M-M-M*-M-M-M-", vocab_size=0, head_dim=64, key_value_heads=2, mamba_head_dim=64,
    state_size=128, groups=2, chunk_size=128, max_positions=8192,
)  # fmt: skip
SIZES = {  # model, tokens, settings: widths in multiples of 16, most of 128
    "tiny": (
        dict(
            pattern="M-M*-M-", hidden_size=64, intermediate_size=256, attention_heads=4,
            head_dim=16, mamba_heads=16, mamba_head_dim=8, state_size=16, groups=1, chunk_size=64,
        ),
        250_000,
        dict(sequences=8, sequence_length=256, lr=5e-3, warmup=10),
    ),
    "small": (
        dict(hidden_size=384, intermediate_size=1536, attention_heads=6, mamba_heads=16),
        20_000_000,
        dict(sequences=32, sequence_length=1024, lr=2e-3, warmup=40),
    ),
    "large": (
        dict(
            pattern="M-M-M*-M-M-M*-M-", hidden_size=1024, intermediate_size=4608,
            attention_heads=16, key_value_heads=4, mamba_heads=32,
        ),
        300_000_000,
        dict(sequences=32, sequence_length=2048, lr=1e-3, warmup=200),
    ),
}  # fmt: skip
HELD_OUT = {"tiny": 8, "small": 200, "large": 200}  # files


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("shards")
    one.add_argument("packages", type=Path, nargs="+")
    one.add_argument("folder", type=Path)
    one.add_argument("--vocab", type=int, default=8192)
    one.add_argument("--sample-bytes", type=int, default=10**9, help="that the tokenizer learns on")
    one.add_argument("--heldout", type=float, default=0.02, help="share of files")
    one = verbs.add_parser("run")
    one.add_argument("folder", type=Path)
    one.add_argument("out", type=Path)
    one.add_argument("--size", choices=SIZES, default="small")
    one.add_argument("--tokens", type=int)
    one.add_argument("--precisions", nargs="+", default=PRECISIONS)
    one.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    one.add_argument("--device", default="auto")
    one.add_argument("--emulate", action="store_true", help="FP8 by its definition, on a GPU too")
    one.add_argument("--first", type=int, help="break off after as many steps")
    one.add_argument("--sequences", type=int, help="of a step")
    one.add_argument("--sequence-length", type=int)
    one.add_argument("--jobs", type=int, default=1, help="runs at a time, a process each")
    one = verbs.add_parser("gap")
    one.add_argument("out", type=Path)
    one.add_argument("--baseline", default="bf16")
    one.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    {"shards": make_shards, "run": run, "gap": gap}[arguments.verb](arguments)


def make_shards(arguments: argparse.Namespace) -> None:
    from cairn.base import Ref
    from cairn.base.make import make
    from cairn.curate import Curate
    from cairn.tokens import LearnTokenizer, Tokenize

    corpus, words = Ref("corpus"), Ref("words")
    plan = {
        "corpus": Curate(sources=tuple(str(path) for path in arguments.packages)),
        "words": LearnTokenizer(
            corpus=corpus, vocab_size=arguments.vocab, sample_bytes=arguments.sample_bytes
        ),
        "shards": Tokenize(corpus=corpus, tokenizer=words, heldout=arguments.heldout),
    }
    make(plan, arguments.folder, report=lambda text: print(text, flush=True))


# -- runs ----------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> None:
    """Each run in a process of its own, where there are several."""
    runs = [(p, s) for p in arguments.precisions for s in arguments.seeds]
    if len(runs) == 1:
        return learn(arguments, *runs[0])

    def child(precision: str, seed: int) -> int:
        given = [str(arguments.folder), str(arguments.out), "--size", arguments.size]
        for name in ("tokens", "first", "sequences", "sequence_length"):
            if getattr(arguments, name):
                given += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
        given += ["--emulate"] if arguments.emulate else []
        given += ["--device", arguments.device, "--precisions", precision, "--seeds", str(seed)]
        log = arguments.out / f"{precision}-{seed}.log"
        with log.open("w") as output:
            command = [sys.executable, __file__, "run", *given]
            return subprocess.run(command, stdout=output, stderr=output).returncode

    arguments.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        ended = list(pool.map(lambda one: child(*one), runs))
    for (precision, seed), code in zip(runs, ended, strict=True):
        if code:
            print(f"{precision}-{seed} ended with {code}: see its log in {arguments.out}")
    if any(ended):
        sys.exit(1)


class BreakOffError(Exception):
    """As many steps as wanted are done."""


class Ahead:
    """A stream whose next batch is made while the GPU computes; batches come one after another."""

    def __init__(self, stream: PretrainingStream) -> None:
        self.stream, self.pool = stream, ThreadPoolExecutor(1)
        self.next: tuple[Sequence[int], Future[Batch]] | None = None

    def batch(self, samples: Sequence[int]) -> Batch:
        known = self.next if self.next and self.next[0] == samples else None
        found = known[1].result() if known else self.stream.batch(samples)
        after = range(samples[-1] + 1, samples[-1] + 1 + len(samples))
        self.next = after, self.pool.submit(self.stream.batch, after)
        return found


class First(NextToken):
    """The objective for a number of micro-batches."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self, model: Decoder, batch: Tokens) -> Loss:
        if self.left == 0:
            raise BreakOffError
        self.left -= 1
        return super().__call__(model, batch)


def learn(arguments: argparse.Namespace, precision: str, seed: int) -> None:
    """One run; facts.json comes last."""
    out = arguments.out / f"{precision}-{seed}"
    if (out / "facts.json").exists():
        return
    if torch.get_num_threads() > 1 and arguments.jobs > 1:
        torch.set_num_threads(1)
    keep_freed_memory()
    shards = arguments.folder / "shards" if (arguments.folder / "shards").exists() else None
    shards = shards or arguments.folder
    widths, tokens, given = SIZES[arguments.size]
    tokens = arguments.tokens or tokens
    chosen = {name: getattr(arguments, name) for name in ("sequences", "sequence_length")}
    given = given | {name: value for name, value in chosen.items() if value}
    settings = TrainSettings(
        tokens=tokens, seed=seed, precision=precision, save_every=10**6, **given
    )
    tokenizer = Tokenizer.load(shards)
    config = ModelConfig(**(SHAPE | widths | {"vocab_size": tokenizer.vocab_size}))
    model = build(config, seed, pick_device(arguments.device))
    training = TokenShards.open(shards / "train", verify=False)
    stream = Ahead(PretrainingStream(training, tokenizer, settings.sequence_length, seed=seed))
    objective = First(arguments.first) if arguments.first else NextToken()
    try:
        with fp8.emulation(arguments.emulate):
            facts = train(model, objective, stream, settings, out)
    except BreakOffError:
        return
    held = TokenShards.open(shards / "heldout", verify=False)
    facts |= {
        "precision": precision,
        "seed": seed,
        "parameters": config.parameters,
        "tokens_in_shards": int(training.index["tokens"]),
        "bits_per_byte": bits_per_byte(model, held, tokenizer, HELD_OUT[arguments.size]),
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        "emulated": arguments.emulate or model.device.type == "cpu",
    }
    for old in (out / "resume").glob("*/*"):
        old.unlink()
    (out / "facts.json").write_text(json.dumps(facts))


# -- what came out -------------------------------------------------------------------------------


def gap(arguments: argparse.Namespace) -> None:
    found = runs_in(arguments.out)
    base = found[arguments.baseline]
    for precision, runs in found.items():
        line: dict[str, Any] = {"precision": precision, "seeds": sorted(runs)}
        for name in ("parameters", "tokens", "emulated", "device"):
            line[name] = next(iter(runs.values())).get(name)
        line["steps"] = [len(runs[seed]["steps"]) for seed in sorted(runs)]
        line["end"] = [round(end_of(runs[s], len(runs[s]["steps"])), 5) for s in sorted(runs)]
        paired = [(runs[seed], base[seed]) for seed in sorted(runs) if seed in base]
        line["end_gap_percent"] = [
            round(100 * (end_of(a, steps) / end_of(b, steps) - 1), 3)
            for a, b in paired
            for steps in [min(len(a["steps"]), len(b["steps"]))]
        ]
        whole = [(a, b) for a, b in paired if "bits_per_byte" in a and "bits_per_byte" in b]
        key = "bits_per_byte"
        line[key] = [round(a[key], 5) for a, _ in whole]
        line[f"{key}_gap_percent"] = [round(100 * (a[key] / b[key] - 1), 3) for a, b in whole]
        line |= {f"mean_{key}": mean(line[key]) for key in GAPS if line[key]}
        line |= _counted(runs)
        print(json.dumps(line))
    if len(base) > 1:
        steps = min(len(one["steps"]) for one in base.values())
        ends = [end_of(one, steps) for one in base.values()]
        spread = round(100 * stdev(ends) / mean(ends), 3)
        print(json.dumps({"seed_spread_percent": spread, "after_steps": steps}))
    if arguments.plot:
        plot(found, arguments.baseline, arguments.plot)


GAPS = ("end_gap_percent", "bits_per_byte_gap_percent")


def runs_in(out: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Facts and steps by precision and seed; a run that was cut short has steps alone."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(out.glob("*-*/metrics.jsonl")):
        precision, _, seed = path.parent.name.rpartition("-")
        known = path.with_name("facts.json")
        facts = json.loads(known.read_text()) if known.exists() else {}
        facts["steps"] = [json.loads(line) for line in path.read_text().splitlines()]
        found.setdefault(precision, {})[int(seed)] = facts
    return found


def end_of(facts: dict[str, Any], steps: int) -> float:
    """Mean loss over the last tenth of the first `steps`."""
    losses = [row["loss"] for row in facts["steps"][:steps]]
    return mean(losses[-max(1, steps // 10) :])


def _counted(runs: dict[int, dict[str, Any]]) -> dict[str, float]:
    """FP8 counts over all steps and seeds: sums of NaN and overflow, mean underflow."""
    steps = [row for facts in runs.values() for row in facts["steps"] if "fp8_nan" in row]
    if not steps:
        return {}
    line: dict[str, float] = {name: sum(row[name] for row in steps) for name in COUNTS}
    for role in fp8.ROLES:
        line[f"fp8_underflow_{role}"] = mean(row[f"fp8_underflow_{role}"] for row in steps)
    return line


COUNTS = ("fp8_nan", "fp8_overflow")
COLOURS = {"bf16": "black", "fp32": "tab:gray", "current": "tab:blue", "block": "tab:orange"}
POINTS = 200  # of a drawn line, each the mean of as many steps as that takes
WINDOW = 25  # steps at least that a drawn gap is the mean of


def plot(found: dict[str, dict[int, dict[str, Any]]], baseline: str, path: Path) -> None:
    """Losses above, gaps to the baseline at the same seed below; a line a seed."""
    import matplotlib

    matplotlib.use("svg" if path.suffix == ".svg" else "agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True)
    most = 1.0  # per cent, of what is drawn whole in the second half
    for precision, runs in found.items():
        for number, (seed, facts) in enumerate(runs.items()):
            steps = facts["steps"]
            tokens = [row["tokens"] / 1e6 for row in steps]
            losses = [row["loss"] for row in steps]
            style: dict[str, Any] = dict(color=COLOURS.get(precision), lw=0.8, alpha=0.8)
            style["label"] = precision if number == 0 else None
            each = max(1, len(steps) // POINTS)
            above.plot(thinned(tokens, each), thinned(losses, each), **style)
            if precision != baseline and seed in found[baseline]:
                against = [row["loss"] for row in found[baseline][seed]["steps"]]
                ratios = [100 * (a / b - 1) for a, b in zip(losses, against, strict=False)]
                each = max(WINDOW, each)
                drawn = thinned(ratios, each)
                below.plot(thinned(tokens[: len(ratios)], each), drawn, **style)
                most = max([most, *(abs(one) for one in drawn[len(drawn) // 2 :])])
    above.set_ylabel("loss (nats a token)")
    above.set_yscale("log")
    above.legend()
    below.axhline(0, color="black", lw=0.6)
    below.set_ylim(-1.05 * most, 1.05 * most)
    below.set_ylabel(f"loss over {baseline}'s, same seed (%)")
    below.set_xlabel("million tokens")
    below.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def thinned(values: list[float], each: int) -> list[float]:
    """Means of as many values in a row."""
    return [mean(values[at : at + each]) for at in range(0, len(values), each)]


if __name__ == "__main__":
    main()
