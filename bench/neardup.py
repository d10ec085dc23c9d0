"""Hold cairn's near duplicates against exact Jaccard similarity, over files of real packages.

    python bench/neardup.py PACKAGES [--files 20000] [--ray .venv-cluster/bin/python]

PACKAGES is a folder that bench/packages.py filled. The files are a seeded sample of what curation
finds a language for, without exact copies. All pairs of a language whose word 5-grams have a
Jaccard similarity of 0.6 or more are found, exactly: by an inverted index with a prefix filter.
Recall is the share of pairs at 0.8 that share a band and are verified, precision the share of those
at 0.6 among all such. Fails where one is too low, or where clusters differ with parts or order.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import cairn
from cairn.base import UserError
from cairn.curate import Curate, near
from cairn.curate.annotate import ANNOTATED, Annotation, annotate
from cairn.curate.decide import Decision, decide
from cairn.curate.licences import CLASSES
from cairn.curate.local import Local
from cairn.curate.optout import OptOut
from cairn.curate.rendering import Limits, Rendering
from cairn.curate.rules import Thresholds
from cairn.sources.origins import MAX_BYTES, read_batches

LEAST = 60  # hundredths: pairs of this similarity and more are all found
ALIKE = 0.8
RECALL, PRECISION = 0.97, 0.95  # of pairs at ALIKE, and of duplicates at LEAST
WORDS = re.compile(r"\w+")
VERIFIED = Curate.near_similarity
# Two sets of this similarity share one of their rarest shingles (the prefix filter); and what can
# still be shared from the first such shingle on is enough (the positional filter).
CANDIDATES = """
    SELECT DISTINCT a.file AS one, b.file AS other FROM prefix a JOIN prefix b
    ON a.shingle = b.shingle AND a.file < b.file
        AND 100 * a.size >= $least * b.size AND 100 * b.size >= $least * a.size
        AND (100 + $least) * (1 + least(a.size - a.place - 1, b.size - b.place - 1))
            >= $least * (a.size + b.size)
    ORDER BY ALL
"""
COLLISIONS = """
    SELECT DISTINCT a.file AS one, b.file AS other FROM keys a JOIN keys b
    ON a.band = b.band AND a.key = b.key AND a.file < b.file ORDER BY ALL
"""


@dataclass(frozen=True)
class Sets:
    """Word 5-grams of files: those of file f are shingles[starts[f]:starts[f + 1]], rare first."""

    shingles: np.ndarray
    starts: np.ndarray

    def of(self, file: int) -> np.ndarray:
        return self.shingles[self.starts[file] : self.starts[file + 1]]

    def jaccard(self, pairs: np.ndarray) -> np.ndarray:
        """Exact similarity float64 [E] of pairs int64 [E, 2]."""
        found = np.empty(len(pairs))
        for place, (one, other) in enumerate(pairs.tolist()):
            a, b = self.of(one), self.of(other)
            both = len(np.intersect1d(a, b, assume_unique=True))
            found[place] = both / (len(a) + len(b) - both)
        return found


def word_grams(texts: Sequence[str]) -> Sets:
    """The distinct word 5-grams of each text. Numbers stand for them one to one: nothing is hashed.

    A gram of n words is numbered by the gram of n - 1 words that it begins with and its last word.
    """
    numbers: dict[str, int] = {}
    found = [
        np.array([numbers.setdefault(w, len(numbers)) for w in WORDS.findall(t.lower())], np.int64)
        for t in texts
    ]
    lengths = np.array([len(one) for one in found])
    words = np.concatenate([*found, np.zeros(near.NGRAM, np.int64)])
    grams = words
    for step in range(1, near.NGRAM):
        follows = grams[:-1] * len(numbers) + words[step : step + len(grams) - 1]
        grams = np.unique(follows, return_inverse=True)[1].reshape(-1)
    counts = np.maximum(lengths - near.NGRAM + 1, 0)
    file = np.repeat(np.arange(len(texts)), counts)
    begins = np.repeat(np.cumsum(lengths) - lengths - (np.cumsum(counts) - counts), counts)
    gram = grams[np.arange(len(file)) + begins]
    pairs = np.unique(file << 32 | gram)  # distinct within each file
    gram = pairs & 0xFFFFFFFF
    rank = np.empty(int(gram.max(initial=0)) + 1, np.int64)
    rank[np.argsort(np.bincount(gram), kind="stable")] = np.arange(len(rank))
    pairs = np.sort((pairs >> 32 << 32) | rank[gram])
    starts = np.searchsorted(pairs >> 32, np.arange(len(texts) + 1))
    return Sets(pairs & 0xFFFFFFFF, starts)


def connect() -> duckdb.DuckDBPyConnection:
    """DuckDB in bounded memory; what does not fit goes to a file."""
    return duckdb.connect(config={"memory_limit": "3GB", "temp_directory": "/tmp/neardup.spill"})


def similar(sets: Sets, least: int = LEAST) -> tuple[np.ndarray, np.ndarray]:
    """All pairs int64 [E, 2] of at least `least` hundredths, and their similarity float64 [E]."""
    sizes = np.diff(sets.starts)
    file = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(file)) - sets.starts[file]
    size = sizes[file]
    often = np.bincount(sets.shingles, minlength=1)[sets.shingles] > 1
    inside = often & (place <= size - -(-least * size // 100))
    prefix = pa.table(  # noqa: F841 (DuckDB finds it by name)
        {
            "file": file[inside],
            "shingle": sets.shingles[inside],
            "place": place[inside],
            "size": size[inside],
        }
    )
    with connect() as connection:
        found = connection.execute(CANDIDATES, {"least": least}).fetchnumpy()
    pairs = np.stack([found["one"], found["other"]], 1).astype(np.int64)
    shares = sets.jaccard(pairs)
    alike = shares >= least / 100 - 1e-12
    return pairs[alike], shares[alike]


def colliding(found: np.ndarray) -> np.ndarray:
    """All pairs int64 [E, 2] of files that share a band; of keys int64 [files, BANDS]."""
    keys = pa.table(  # noqa: F841 (DuckDB finds it by name)
        {
            "file": np.repeat(np.arange(len(found)), found.shape[1]),
            "band": np.tile(np.arange(found.shape[1]), len(found)),
            "key": found.reshape(-1),
        }
    )
    with connect() as connection:
        found = connection.execute(COLLISIONS).fetchnumpy()
    return np.stack([found["one"], found["other"]], 1).astype(np.int64)


@dataclass(frozen=True)
class Compared:
    """Pairs of one language: exactly similar ones, and those that share a band."""

    alike: np.ndarray  # int64 [E, 2], rows of the sample
    similarity: np.ndarray
    found: np.ndarray
    exact: np.ndarray
    estimate: np.ndarray

    def counts(self, verified: float) -> dict[str, int]:
        """How many pairs there are of each sort."""
        found = {tuple(pair) for pair in self.found[self.estimate >= verified].tolist()}
        alike = self.alike[self.similarity >= ALIKE].tolist()
        exact = self.exact[self.estimate >= verified]
        return {
            "alike": len(alike),
            "recalled": sum(tuple(pair) in found for pair in alike),
            "found": len(found),
            "right": int((exact >= LEAST / 100).sum()),
        }


def compare(table: pa.Table) -> dict[str, Compared]:
    """Each language of a sample: exact similarity of texts beside bands and signatures."""
    languages = np.array(table["language"].to_pylist())
    done = {}
    for language in sorted(set(languages)):
        rows = np.flatnonzero(languages == language)
        some = table.take(rows)
        sets = word_grams(some["content"].to_pylist())
        alike, similarity = similar(sets)
        found = colliding(np.array(some["bands"].to_pylist(), np.int64))
        compact = np.frombuffer(b"".join(some["signature"].to_pylist()), np.uint8)
        compact = compact.reshape(len(rows), near.PERMUTATIONS)
        estimate = near.similarity(compact[found[:, 0]], compact[found[:, 1]])
        done[language] = Compared(
            rows[alike], similarity, rows[found], sets.jaccard(found), estimate
        )
    return done


def rates(counts: dict[str, int]) -> tuple[float, float]:
    """Recall at 0.8 and precision at 0.6; 1 where there is nothing to find."""
    recall = counts["recalled"] / counts["alike"] if counts["alike"] else 1.0
    return recall, counts["right"] / counts["found"] if counts["found"] else 1.0


def total(done: dict[str, Compared], verified: float) -> dict[str, int]:
    """Counts of all languages together."""
    every = [one.counts(verified) for one in done.values()]
    return {name: sum(counts[name] for counts in every) for name in every[0]}


def write_parts(table: pa.Table, folder: Path, parts: int) -> list[tuple[int, Path]]:
    """The sample as `parts` Parquet files, without contents, as curation reads them."""
    place = table.column_names.index("content")
    bare = table.set_column(place, "content", pa.nulls(len(table), pa.string()))
    edges = np.linspace(0, len(table), parts + 1).astype(int)
    folder.mkdir()
    for number, (start, stop) in enumerate(pairwise(edges)):
        pq.write_table(bare.slice(start, stop - start), folder / f"part-{number:06d}.parquet")
    return [(0, path) for path in sorted(folder.glob("part-*.parquet"))]


def clusters(parts: list[tuple[int, Path]], folder: Path, ray: bool = False) -> dict[str, str]:
    """What stays instead of each near duplicate, by content ids, as curation decides."""
    wanted = Decision(
        tuple(CLASSES), True, False, OptOut.read([]), False, False, {}, near_similarity=VERIFIED
    )
    decided = folder / "decided.parquet"
    if ray:
        from cairn.curate.cluster import Cluster

        with Cluster(os.cpu_count() or 1, folder / "shuffled") as driver:
            decide(parts, wanted, decided, folder / "spill", driver)
    else:
        decide(parts, wanted, decided, folder / "spill", Local(1))
    names = [name for _, p in parts for name in pq.read_table(p)["content_id"].to_pylist()]
    kept = pq.read_table(decided, columns=["duplicate_of"])["duplicate_of"].to_pylist()
    return {names[row]: names[of] for row, of in enumerate(kept) if of is not None}


def invariance(table: pa.Table, ray: str | None) -> tuple[dict[str, str], list[str]]:
    """The clusters, and in which forms of the same sample they differ."""
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    with tempfile.TemporaryDirectory(prefix="neardup-") as name:
        folder = Path(name)
        first: dict[str, str] = {}
        differ = []
        forms = {"1 part": (table, 1), "4 parts": (table, 4), "16 parts": (table, 16)}
        for form, (rows, count) in (forms | {"16 parts, shuffled": (shuffled, 16)}).items():
            parts = write_parts(rows, folder / form, count)
            found = clusters(parts, folder / form)
            first = first or found
            if found != first:
                differ.append(form)
        if ray is not None:
            line = [ray, str(Path(__file__)), str(folder / form), "--clusters"]
            source = str(Path(cairn.__file__).parents[1])  # that Python may not have it installed
            environment = os.environ | {"PYTHONPATH": source}
            subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env=environment)
            if json.loads((folder / form / "clusters.json").read_text()) != first:
                differ.append("ray")
    return first, differ


def sample(folder: Path, files: int, seed: int, share: float) -> pa.Table:
    """`files` annotated files that have a language and a sketch, the least by a seeded hash."""
    archives = [path for path in sorted(folder.iterdir()) if path.suffix != ".json"]
    archives.sort(key=lambda path: -path.stat().st_size)
    read = partial(chosen, seed=seed, share=share)
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        table = pa.concat_tables(pool.map(read, archives))
    order = np.argsort([drawn(one, seed) for one in table["content_id"].to_pylist()], kind="stable")
    ids = np.array(table["content_id"].to_pylist())[order]
    first = np.sort(np.unique(ids, return_index=True)[1])  # exact copies go, as in curation
    if len(first) < files:
        raise SystemExit(f"{folder} has {len(first):,} such files in a share of {share}: raise it")
    return table.take(order[first[:files]])


def drawn(content_id: str, seed: int) -> float:
    """Between 0 and 1, by content and seed alone."""
    digest = hashlib.sha256(f"{seed}:{content_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def chosen(archive: Path, seed: int, share: float) -> pa.Table:
    """About a share of an archive's files, annotated as curation does it."""
    wanted = Annotation(MAX_BYTES, Thresholds(), Rendering(Limits()))
    found = [annotate(batch, wanted) for batch in batches(archive, seed, share)]
    table = pa.Table.from_batches(found, ANNOTATED)
    return table.filter(table["bands"].is_valid())


def batches(archive: Path, seed: int, share: float) -> Iterator[pa.RecordBatch]:
    try:
        for batch in read_batches(str(archive)):
            names = batch["content_id"].to_pylist()
            yield batch.filter(pa.array([drawn(name, seed) < share for name in names]))
    except UserError as error:
        print(f"left out: {error}", file=sys.stderr)


def show(done: dict[str, Compared], shown: int = 20) -> None:
    """A row for all languages, as verified and as bands alone have it, and for the largest."""
    print(f"{'':22}{'J>=0.8':>8}{'recall':>8}{'pairs':>9}{'precision':>11}")
    rows = {"all, bands alone": total(done, -1.0), "all, verified": total(done, VERIFIED)}
    most = sorted(done, key=lambda name: -len(done[name].found))[:shown]
    rows |= {name: done[name].counts(VERIFIED) for name in most if len(done[name].found)}
    for name, counts in rows.items():
        recall, precision = rates(counts)
        print(f"{name:22}{counts['alike']:8,}{recall:8.3f}{counts['found']:9,}{precision:11.3f}")


def facts(table: pa.Table, done: dict[str, Compared], found: dict[str, str]) -> dict[str, float]:
    """What is asked for, and how the clusters fare."""
    names = table["content_id"].to_pylist()
    place = {name: row for row, name in enumerate(names)}
    pairs = [one.alike[one.similarity >= ALIKE] for one in done.values()]
    together = [
        found.get(names[a], names[a]) == found.get(names[b], names[b])
        for a, b in np.concatenate(pairs).tolist()
    ]
    alike = {tuple(pair) for one in done.values() for pair in one.alike.tolist()}
    kept = [tuple(sorted((place[one], place[of]))) in alike for one, of in found.items()]
    recall, precision = rates(total(done, VERIFIED))
    _, unverified = rates(total(done, -1.0))
    return {
        "files": len(table),
        "pairs_at_0.6": len(alike),
        "recall_at_0.8": recall,
        "precision_at_0.6": precision,
        "precision_of_bands_alone": unverified,
        "recall_of_clusters": float(np.mean(together)) if together else 1.0,
        "dropped": len(found),
        "dropped_alike_the_kept": float(np.mean(kept)) if kept else 1.0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("packages", type=Path)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.3, help="of the files that are looked at")
    parser.add_argument("--sample", type=Path, help="where the sample is kept, and read again")
    parser.add_argument("--ray", help="a Python with Daft and Ray, to compare clusters")
    parser.add_argument("--clusters", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.clusters:  # parts of a sample, under Ray
        parts = [(0, path) for path in sorted(arguments.packages.glob("part-*.parquet"))]
        found = clusters(parts, arguments.packages, ray=True)
        (arguments.packages / "clusters.json").write_text(json.dumps(found))
        return 0
    if arguments.sample is not None and arguments.sample.exists():
        table = pq.read_table(arguments.sample)
    else:
        table = sample(arguments.packages, arguments.files, arguments.seed, arguments.share)
        if arguments.sample is not None:
            pq.write_table(table, arguments.sample)
    done = compare(table)
    show(done)
    found, differ = invariance(table, arguments.ray)
    measured = facts(table, done, found)
    print(json.dumps(measured | {"clusters_differ": differ}))
    good = measured["recall_at_0.8"] >= RECALL and measured["precision_at_0.6"] >= PRECISION
    return 0 if good and not differ else 1


if __name__ == "__main__":
    sys.exit(main())
