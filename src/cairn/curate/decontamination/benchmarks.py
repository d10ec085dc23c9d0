"""Items of benchmarks, read from a folder that the user has: cairn ships none of them.

    humaneval/  humaneval_infilling/  humaneval_pack/LANGUAGE/  multipl_e_*/  mbpp/  mbxp/  apps/
    gsm8k/  math500/  aime24/  aime25/  ds1000/  cruxeval/  ifeval*/  bfcl/

each with the benchmark's own JSON or JSON lines, also gzipped. A benchmark of another name is read
where it is asked for by that name: its rows are searched for the fields in GENERIC.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn.base import UserError
from cairn.base.config import nearest

# What the report's code exempts: solutions that many people write.
GENERIC_SOLUTIONS = frozenset(
    {"return x + y", "return len(string)", "return n**2", "return ''.join(strings)"}
)
MBPP_TEST = range(11, 511)
GENERIC = (
    "prompt", "question", "problem", "docstring", "description", "text", "instruction",
    "canonical_solution", "solution", "code",
)  # fmt: skip
Row = dict[str, Any]
Parts = Iterator[tuple[str, str, str]]  # id, part, text


@dataclass(frozen=True)
class Item:
    """One part of one problem: reported: the report searches for it."""

    benchmark: str
    id: str
    part: str
    text: str
    reported: bool

    @property
    def name(self) -> str:
        """As in `humaneval HumanEval/3: docstring`."""
        return f"{self.benchmark} {self.id}: {self.part}"


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark's files are, and what of a row is an item."""

    patterns: tuple[str, ...]
    parts: Callable[[Row], Parts]
    reported: bool = False


def known_in(folder: Path) -> list[str]:
    """Names of the benchmarks that have files in the folder."""
    return [name for name in BENCHMARKS if _files(folder, name)]


def read_items(folder: Path, tests: Sequence[str] | None) -> tuple[list[Item], list[Path]]:
    """Items of the benchmarks named in `tests` (None: of all that are there), and their files.

    UserError names a benchmark that is not there, and a file that is damaged.
    """
    if not folder.is_dir():
        raise UserError("benchmarks", str(folder), "is no folder", "give one with humaneval/, say")
    there = known_in(folder)
    chosen = list(tests) if tests is not None else there
    if not chosen:
        mend = f"known: {', '.join(BENCHMARKS)}"
        raise UserError("benchmarks", str(folder), "holds no benchmark that is known", mend)
    items: list[Item] = []
    read: list[Path] = []
    for name in chosen:
        files = _files(folder, name)
        if not files:
            mend = f"in {folder} there are: {', '.join(there) or 'none'}"
            hint = nearest(name, BENCHMARKS)
            raise UserError("tests", name, f"has no file in the folder ({hint})", mend)
        for path in files:
            items += _items(folder, name, path)
        read += files
    return items, read


def _files(folder: Path, name: str) -> list[Path]:
    known = BENCHMARKS.get(name)
    if known is None and not re.fullmatch(r"[\w.-]+", name):
        return []
    patterns = known.patterns if known else (f"{name}/*.json*",)
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})


def _items(folder: Path, name: str, path: Path) -> Iterator[Item]:
    known = BENCHMARKS.get(name) or Benchmark((), _generic)
    inside = path.relative_to(folder).as_posix()
    label = re.sub(r"\.jsonl?(\.gz)?$", "", inside) if _several(known) else name
    try:
        for number, row in enumerate(_rows(path)):
            for key, part, text in known.parts(row):
                if text and text.strip():
                    yield Item(label, key or str(number), part, text, known.reported)
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        problem = f"is damaged or of another layout ({type(error).__name__}: {error})"
        raise UserError("benchmarks", str(path), problem, "fetch it anew") from None


def _several(benchmark: Benchmark) -> bool:
    """Whether a benchmark has more than one file, so that an item's name needs the file's."""
    return any("*" in pattern.removesuffix("*") for pattern in benchmark.patterns)


def _rows(path: Path) -> Iterator[Row]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    if text.lstrip().startswith("["):
        yield from json.loads(text)
        return
    yield from (json.loads(line) for line in text.split("\n") if line.strip())


def _humaneval(row: Row) -> Parts:
    quote = '"""' if '"""' in row["prompt"] else "'''"
    yield row["task_id"], "docstring", row["prompt"].rsplit(quote, 2)[1]
    if row["canonical_solution"].strip() not in GENERIC_SOLUTIONS:
        yield row["task_id"], "solution", row["canonical_solution"]


def _infilling(row: Row) -> Parts:
    name = "/".join(row["task_id"].split("/")[1:3])
    yield name, "program", row["prompt"] + row["canonical_solution"] + row["suffix"]


def _mbpp(row: Row) -> Parts:
    if row["task_id"] in MBPP_TEST:
        key = str(row["task_id"])
        yield key, "docstring", row["text"] if "text" in row else row["prompt"]
        yield key, "solution", row["code"]


def _apps(row: Row) -> Parts:
    yield str(row["id"] if "id" in row else row["problem_id"]), "docstring", row["question"]


def _gsm8k(row: Row) -> Parts:
    yield "", "question", row["question"]


def _ds1000(row: Row) -> Parts:
    prompt = row["prompt"]
    for mark in ("SOLUTION START", "BEGIN SOLUTION"):  # what follows is the same in all
        prompt = prompt.split(mark)[0]
    yield str(row.get("metadata", {}).get("problem_id", "")), "prompt", prompt


def _multipl_e(row: Row) -> Parts:
    yield row["name"], "prompt", row["prompt"]


def _mbxp(row: Row) -> Parts:
    yield row["task_id"], "prompt", row["prompt"]
    yield row["task_id"], "solution", row["canonical_solution"] or ""


def _pack(row: Row) -> Parts:
    for part in ("docstring", "canonical_solution", "buggy_solution"):
        yield row["task_id"], part.replace("_", " "), row[part]


def _cruxeval(row: Row) -> Parts:
    yield row["id"], "code", row["code"]


def _problem(row: Row) -> Parts:
    yield str(row.get("id", "")), "problem", row["problem"]


def _ifeval(row: Row) -> Parts:
    yield str(row["key"]), "prompt", row["prompt"]


def _bfcl(row: Row) -> Parts:
    said = [turn["content"] for turns in row["question"] for turn in turns]
    yield row["id"], "question", "\n".join(said)


def _generic(row: Row) -> Parts:
    key = next((str(row[name]) for name in ("task_id", "id", "name", "key") if name in row), "")
    for field in GENERIC:
        if isinstance(row.get(field), str):
            yield key, field, row[field]


BENCHMARKS = {
    "humaneval": Benchmark(("humaneval/HumanEval.jsonl*",), _humaneval, reported=True),
    "mbpp": Benchmark(("mbpp/*mbpp.json*",), _mbpp, reported=True),
    "apps": Benchmark(("apps/test.jsonl*",), _apps, reported=True),
    "gsm8k": Benchmark(("gsm8k/test.jsonl*",), _gsm8k, reported=True),
    "ds1000": Benchmark(("ds1000/*.jsonl*",), _ds1000, reported=True),
    "humaneval_infilling": Benchmark(("humaneval_infilling/*.jsonl*",), _infilling),
    "humaneval_pack": Benchmark(("humaneval_pack/*/*.jsonl*",), _pack),
    "multipl_e_humaneval": Benchmark(("multipl_e_humaneval/*.jsonl*",), _multipl_e),
    "multipl_e_mbpp": Benchmark(("multipl_e_mbpp/*.jsonl*",), _multipl_e),
    "mbxp": Benchmark(("mbxp/*.jsonl*",), _mbxp),
    "cruxeval": Benchmark(("cruxeval/cruxeval.jsonl*",), _cruxeval),
    "math500": Benchmark(("math500/*.jsonl*",), _problem),
    "aime24": Benchmark(("aime24/*.jsonl*",), _problem),
    "aime25": Benchmark(("aime25/*.jsonl*",), _problem),
    "ifeval": Benchmark(("ifeval*/*.jsonl*",), _ifeval),
    "bfcl": Benchmark(("bfcl/BFCL_*.json*",), _bfcl),
}
