"""A small corpus of two tongues and nasty characters, its tokenizer, shards and index."""

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cairn.base import Recipe, Ref, Work
from cairn.base.make import make
from cairn.tokens import IndexAttribution, LearnTokenizer, Tokenize, Tokenizer, TokenShards

LICENCES = {"alpha": ["MIT"], "beta/two": ["Apache-2.0", "BSD-3-Clause"], "gamma": []}
STANDARD_LIBRARY = [
    "abc.py",
    "argparse.py",
    "ast.py",
    "bisect.py",
    "calendar.py",
    "copy.py",
    "csv.py",
    "dataclasses.py",
    "enum.py",
    "fnmatch.py",
    "fractions.py",
    "functools.py",
    "heapq.py",
    "json/decoder.py",
    "keyword.py",
    "queue.py",
    "random.py",
    "sched.py",
    "shutil.py",
    "statistics.py",
    "string.py",
    "textwrap.py",
    "types.py",
    "uuid.py",
    "zipfile.py",
]


def blob_id(text: str) -> str:
    """Git's SHA-1 of a blob."""
    raw = text.encode("utf-8")
    return hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()


def sources() -> list[tuple[str, str, str]]:
    """(repository, path, text), sorted as a corpus is."""
    library = Path(sysconfig.get_paths()["stdlib"])
    rows = []
    for number, name in enumerate(STANDARD_LIBRARY):
        text = (library / name).read_text(encoding="utf-8")
        rows.append(("alpha" if number % 3 else "beta/two", f"lib/{name}", text))
    for number in range(30):
        strange = "größe 中文字符 🙂👩\u200d👧 e\u0301"
        text = f"# {number} {strange}\r\ndef f{number}(x):\n\treturn x + {number}\n"
        rows.append(("gamma", f"pfad/dätei_{number:02d}.py", text))
    rows.append(("gamma", "pfad/empty.py", ""))
    rows.append(("gamma", "pfad/marks.py", "x = '<|endoftext|><file_sep><fim_middle>'\n"))
    return sorted(rows)


def write_corpus(folder: Path, rows: list[tuple[str, str, str]], parts: int = 2) -> Path:
    """A corpus folder's files/ with the columns that this room reads."""
    table = pa.table(
        {
            "ledger_row": pa.array([3 * place + 1 for place in range(len(rows))], pa.int64()),
            "content_id": [blob_id(text) for _, _, text in rows],
            "repo_name": [repository for repository, _, _ in rows],
            "path": [path for _, path, _ in rows],
            "language": ["Python"] * len(rows),
            "license_type": ["permissive" if LICENCES[r] else "no_license" for r, _, _ in rows],
            "detected_licenses": pa.array([LICENCES[r] for r, _, _ in rows], pa.list_(pa.string())),
            "length_bytes": pa.array([len(t.encode()) for _, _, t in rows], pa.int64()),
            "content": [text for _, _, text in rows],
        }
    )
    (folder / "files").mkdir(parents=True)
    size = -(-len(rows) // parts)
    for part in range(parts):
        path = folder / "files" / f"part-{part:05d}.parquet"
        pq.write_table(table.slice(part * size, size), path)
    return folder


@dataclass(frozen=True, kw_only=True)
class GivenCorpus(Recipe):
    """Stands for Curate: the corpus of this file."""

    parts: int = 2

    def run(self, work: Work) -> dict[str, Any]:
        write_corpus(work.out, sources(), self.parts)
        return {}


PLAN = {
    "corpus": GivenCorpus(),
    "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=2048),
    "shards": Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.1),
    "index": IndexAttribution(shards=Ref("shards"), block_bytes=300_000),
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifacts corpus, words, shards and index."""
    folder = tmp_path_factory.mktemp("runs")
    make(PLAN, folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(made: Path) -> Tokenizer:
    return Tokenizer.load(made / "words")


@pytest.fixture(scope="session")
def shards(made: Path) -> TokenShards:
    return TokenShards.open(made / "shards" / "train")


@pytest.fixture(scope="session")
def texts() -> dict[tuple[str, str], str]:
    """Every file's text by repository and path."""
    return {(repository, path): text for repository, path, text in sources()}
