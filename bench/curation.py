"""Speed and memory of curation on real source packages, and near deduplication beside peers.

    python bench/curation.py PACKAGES [--sizes 500MB,1GB,2GB] [--benchmarks FOLDER]
        [--datatrove PYTHON] [--data-juicer PYTHON] [--sample 100MB] [--only whole|rules|near]

PACKAGES is a folder that bench/packages.py filled. One JSON line per measurement:

whole  every rule on, from archives to the corpus, by size: seconds, MB/s of unpacked bytes and
       files/s, of the stages too, and the most memory (PSS) of all its processes at one time.
rules  what single rules cost, on one core, over a sample of the files that have a language.
near   near deduplication from a folder of that sample to Parquet, here (read, hashed, named its
       language, exact duplicates and the ledger as well; `every rule`: with licences and quality
       too) and by the peers, each in an environment of its own, on the same files with as many
       processes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cairn.base.make import make
from cairn.curate import Curate, languages, licences, near, pipeline, read_files, rules
from cairn.curate.finish import contamination
from cairn.curate.licences import CLASSES
from cairn.curate.redact import redact
from cairn.sources.digest import digest

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
PEERS = ("datatrove", "data-juicer")
PULSE = 0.2  # seconds between two looks at memory


def in_bytes(text: str) -> int:
    return int(float(text[:-2]) * UNITS[text[-2:].upper()])


def archives(folder: Path, wanted: int) -> tuple[list[str], int]:
    """The first packages with as many unpacked bytes, and how many those are."""
    found: list[str] = []
    total = 0
    for one in json.loads((folder / "sizes.json").read_text()).values():
        if total >= wanted:
            break
        found += [str(folder / name) for name in one["files"]]
        total += one["bytes"]
    if total < wanted:
        raise SystemExit(f"{folder} holds {total:,} bytes of {wanted:,}: run bench/packages.py")
    return found, total


def memory_of(process: int) -> int:
    """Bytes (PSS: what is shared counts once) of a process and all below it."""
    total, todo = 0, [process]
    while todo:
        one = Path("/proc") / str(todo.pop())
        try:
            lines = (one / "smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
            for task in (one / "task").iterdir():
                todo += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # it has ended
    return total


def measured(arguments: list[str]) -> dict[str, Any]:
    """This script run with `arguments` in a process of its own: its JSON line, its most memory."""
    command = [sys.executable, __file__, *arguments]
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    while child.poll() is None:
        peak = max(peak, memory_of(child.pid))
        time.sleep(PULSE)
    assert child.stdout is not None
    lines = child.stdout.read().splitlines()
    if child.returncode:
        raise SystemExit(child.returncode)
    wall = time.perf_counter() - start
    return json.loads(lines[-1]) | {"wall_seconds": wall, "peak_gb": peak / 1e9}


def timed(made: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    """The function, with the seconds that it takes written down."""

    def run(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return made(*given, **named)
        finally:
            seconds[name] = time.perf_counter() - start

    return run


def run_whole(sources: list[str], benchmarks: str | None, out: Path) -> None:
    """One curation with every rule; prints its seconds by stage."""
    seconds: dict[str, float] = {}
    for stage in ("_read", "_decide", "_write"):
        setattr(pipeline, stage, timed(getattr(pipeline, stage), stage[1:], seconds))
    start = time.perf_counter()
    make({"corpus": Curate(sources=tuple(sources), benchmarks=benchmarks)}, out)
    seconds["whole"] = time.perf_counter() - start
    report = json.loads((out / "corpus" / "report.json").read_text())
    facts = {name: report[name] for name in ("seen", "kept", "malware")}
    print(json.dumps({"seconds": seconds} | facts))


def whole(packages: Path, size: str, benchmarks: str | None, keep: Path | None) -> dict[str, Any]:
    """What a size costs."""
    sources, count = archives(packages, in_bytes(size))
    with tempfile.TemporaryDirectory(prefix="curation-") as scratch:
        out = keep / size if keep is not None else Path(scratch)
        task = json.dumps([sources, benchmarks, str(out)])
        found = measured(["whole-task", task])
    rate = {name: count / 1e6 / taken for name, taken in found["seconds"].items()}
    seen = found["seen"]["files"]
    files = {name: seen / taken for name, taken in found["seconds"].items()}
    row = {"bench": "curation", "what": "whole", "size": size, "unpacked_bytes": count}
    return row | found | {"mb_per_second": rate, "files_per_second": files}


def write_sample(packages: Path, wanted: int, folder: Path) -> None:
    """Files of a curation that kept all it could, as files again, until there are enough bytes."""
    sources, _ = archives(packages, min(8 * wanted, in_bytes("1GB")))
    recipe = Curate(
        sources=tuple(sources),
        licenses=tuple(CLASSES),
        licence_tool="off",
        near_duplicates=False,
        redact="off",
        malware="off",
    )
    with tempfile.TemporaryDirectory(prefix="curation-") as scratch:
        make({"corpus": recipe}, Path(scratch))
        rows = [
            row
            for batch in read_files(Path(scratch) / "corpus")
            for row in batch.select(["content_id", "path", "content", "kind"]).to_pylist()
            if row["kind"] == "source"
        ]
    rows.sort(key=lambda row: row["content_id"])
    left = wanted
    taken: Counter[str] = Counter()  # how many files of a name there are: a folder has one
    for row in rows:
        if left <= 0:
            return
        name = Path(row["path"]).name
        path = folder / f"{taken[name] // 100}" / f"{taken[name] % 100}" / name
        taken[name] += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["content"].encode())
        left -= path.stat().st_size
    raise SystemExit(f"{packages} holds too little for a sample of {wanted:,} bytes")


def read_sample(folder: Path) -> Iterator[tuple[str, bytes, str]]:
    """(path, bytes, text) of each file."""
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        raw = path.read_bytes()
        yield str(path.relative_to(folder)), raw, raw.decode("utf-8")


def costs(folder: Path, benchmarks: str | None) -> Iterator[dict[str, Any]]:
    """What each rule costs on one core."""
    files = list(read_sample(folder))
    total = sum(len(raw) for _, raw, _ in files)
    named = [languages.language_of(path, text) for path, _, text in files]
    thresholds = rules.Thresholds()
    work: dict[str, Callable[[int], Any]] = {
        "hashes": lambda n: digest([files[n][1]], len(files[n][1]), keep=True),
        "language": lambda n: languages.language_of(files[n][0], files[n][2]),
        "generated": lambda n: languages.is_generated(files[n][0], files[n][2]),
        "licence header": lambda n: licences.header(files[n][2]),
        "quality": lambda n: rules.judge(files[n][2], named[n], files[n][0], thresholds),
        "near sketch": lambda n: near.sketch(files[n][2]),
        "redact": lambda n: redact(files[n][2]),
    }
    if benchmarks is not None:
        search = contamination(benchmarks)
        work["decontaminate"] = lambda n: search.find(files[n][2])
    for name, step in work.items():
        step(0)  # what is built at first use
        start = time.perf_counter()
        for number in range(len(files)):
            step(number)
        taken = time.perf_counter() - start
        row = {"bench": "curation", "what": "rule", "rule": name, "seconds": taken}
        yield row | {"mb_per_second": total / 1e6 / taken, "files_per_second": len(files) / taken}


def run_near(folder: Path, out: Path, rules: bool) -> None:
    """Near deduplication by cairn; prints what the peers' script prints."""
    recipe = Curate(
        sources=(str(folder),),
        licenses=tuple(CLASSES),
        licence_tool="templates" if rules else "off",
        quality=rules,
        excluded_extensions=False,
        repository_duplicates=False,
        redact="off",
        malware="off",
    )
    start = time.perf_counter()
    make({"corpus": recipe}, out)
    taken = time.perf_counter() - start
    ledger = pq.read_table(out / "corpus" / "ledger", columns=["rule"])
    report = json.loads((out / "corpus" / "report.json").read_text())
    removed = sum(rule == "near_duplicate" for rule in ledger["rule"].to_pylist())
    seen = report["seen"]["files"]
    print(json.dumps({"seconds": taken, "seen": seen, "kept": seen - removed}))


def beside(folder: Path, pythons: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Near deduplication of the sample, by cairn and by each peer."""
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory(prefix="curation-") as scratch:
        for by in ("cairn, every rule", "cairn"):
            task = [str(folder), f"{scratch}/{by}", by != "cairn"]
            found = measured(["near-task", json.dumps(task)])
            ours = total / 1e6 / found["seconds"]
            yield {"bench": "curation", "what": "near", "by": by, "mb_per_second": ours} | found
        script = Path(__file__).with_name("curation_peers.py")
        for peer, python in pythons.items():
            command = [python, str(script), peer, str(folder), f"{scratch}/{peer}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            if done.returncode:
                raise SystemExit(f"{peer} failed: {' '.join(command)}")
            found = json.loads(done.stdout.splitlines()[-1])
            rate = total / 1e6 / found["seconds"]
            row = {"bench": "curation", "what": "near", "by": peer, "mb_per_second": rate}
            yield row | found | {"cairn_is_faster": ours / rate}


def show(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


def main() -> int:
    if sys.argv[1:2] == ["whole-task"]:
        sources, benchmarks, out = json.loads(sys.argv[2])
        run_whole(sources, benchmarks, Path(out))
        return 0
    if sys.argv[1:2] == ["near-task"]:
        folder, out, every = json.loads(sys.argv[2])
        run_near(Path(folder), Path(out), every)
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("packages", type=Path)
    parser.add_argument("--sizes", default="500MB,1GB,2GB")
    parser.add_argument("--benchmarks", help="a folder of test sets, to decontaminate against")
    parser.add_argument("--sample", default="100MB")
    parser.add_argument("--only", choices=("whole", "rules", "near"))
    parser.add_argument("--keep", type=Path, help="where the corpora of --sizes are kept")
    for peer in PEERS:
        parser.add_argument(f"--{peer}", metavar="PYTHON", help="of an environment that has it")
    arguments = parser.parse_args()
    given = vars(arguments)
    pythons = {peer: given[peer.replace("-", "_")] for peer in PEERS}
    if arguments.only in (None, "whole"):
        for size in arguments.sizes.split(","):
            show(whole(arguments.packages, size, arguments.benchmarks, arguments.keep))
    if arguments.only == "whole":
        return 0
    with tempfile.TemporaryDirectory(prefix="curation-sample-") as scratch:
        folder = Path(scratch)
        write_sample(arguments.packages, in_bytes(arguments.sample), folder)
        if arguments.only in (None, "rules"):
            for row in costs(folder, arguments.benchmarks):
                show(row)
        if arguments.only in (None, "near"):
            for row in beside(folder, {name: one for name, one in pythons.items() if one}):
                show(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
