"""Withdrawal from shards, and what else in a runs folder held the files of those who asked.

The shards are those that `Tokenize` would make of the smaller corpus, byte for byte, but for the
tokenizer: it was learned when the files were still there, and stays.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import Manifest, Recipe, Ref, UserError, Work, find_manifest, pattern_of
from cairn.curate import Curate
from cairn.curate.corpus import LEDGER, parts_of
from cairn.curate.optout import OptOut
from cairn.curate.withdrawal import Withdraw, covered_rows, link
from cairn.tokens import Tokenize
from cairn.tokens.shards import DOCUMENTS, TOKENS, TokenShards
from cairn.tokens.tokenizer import TRAVELLING, Tokenizer
from cairn.tokens.tokenizing import SPLITS, write_documents, write_index

CHUNK = 2**24  # tokens copied at once
NAMED = 5  # repositories that are named
# Documents of a split beside what the corpus now says of their rows.
JOINED = """
    SELECT d.document, coalesce(l.content_id = d.content_id, false) AS same,
        coalesce(l.verdict = 'keep', false) AS kept
    FROM read_parquet($documents, hive_partitioning = false) d
    LEFT JOIN read_parquet($ledger, hive_partitioning = false) l ON l.row = d.ledger_row
    ORDER BY d.document
"""
KEPT = """
    SELECT count(*) FROM read_parquet($ledger, hive_partitioning = false) WHERE verdict = 'keep'
"""


@dataclass(frozen=True, kw_only=True)
class WithdrawTokens(Recipe):
    """Take out of shards what has been withdrawn from their corpus."""

    shards: Ref
    """The shards, by Tokenize or by an earlier WithdrawTokens."""
    corpus: Ref
    """Their corpus as Withdraw left it."""

    def run(self, work: Work) -> dict[str, Any]:
        """Write train/, heldout/ and the tokenizer without the withdrawn documents."""
        return withdraw(work, work.input(self.shards), work.input(self.corpus))

    def headline(self, facts: dict[str, Any]) -> str:
        """What went and what is left."""
        out, left = (
            facts["withdrawn"],
            f"{facts['tokens']:,} tokens of {facts['documents']:,} files",
        )
        return f"{out['documents']:,} documents of {out['tokens']:,} tokens withdrawn, {left}"


def withdraw(work: Work, shards: Path, corpus: Path) -> dict[str, Any]:
    """Fill `work.out` with the shards of what `corpus` still keeps; returns facts.

    UserError where the corpus is not that of the shards.
    """
    tokenizer = Tokenizer.load(shards)
    ledger = [pattern_of(path) for path in parts_of(corpus, LEDGER)]
    keep = {split: _kept(shards / split, ledger) for split in SPLITS}
    with duckdb.connect() as connection:
        count = connection.execute(KEPT, {"ledger": ledger}).fetchall()[0][0]
    left = sum(int(mask.sum()) for mask in keep.values())
    if left != count:
        problem = f"keeps {count:,} files where the shards hold {left:,} of them"
        raise UserError("corpus", str(corpus), problem, "encode it with Tokenize")
    if not keep["train"].any():
        raise UserError("corpus", str(corpus), "leaves nothing to train on", "encode another one")
    facts: dict[str, Any] = {"vocab_size": tokenizer.vocab_size}
    withdrawn = {"documents": 0, "tokens": 0}
    for split, mask in keep.items():
        before = TokenShards.open(shards / split, verify=False)  # make verified it just now
        with work.part(split) as folder:
            folder.mkdir()
            found = _write(folder, before, mask, tokenizer)
        withdrawn["documents"] += len(before) - found["documents"]
        withdrawn["tokens"] += before.index["tokens"] - found["tokens"]
        prefix = "" if split == "train" else "heldout_"
        facts.update({prefix + key: value for key, value in found.items()})
    for name in TRAVELLING:
        if (shards / name).is_file() and not work.has(name):
            link(shards / name, work.out / name)
    return {**facts, "withdrawn": withdrawn}


def _kept(split: Path, ledger: list[str]) -> np.ndarray:
    """Whether the corpus keeps each document, bool [documents]."""
    documents = pattern_of(split / DOCUMENTS)
    with duckdb.connect() as connection:
        query = connection.execute(JOINED, {"documents": documents, "ledger": ledger})
        found = query.fetchnumpy()
    if not np.asarray(found["same"], bool).all():
        problem = "has other files in the ledger rows of these documents"
        mend = "name the corpus that they were made of, or what Withdraw left of it"
        raise UserError("shards", str(split), problem, mend)
    return np.asarray(found["kept"], bool)


def _write(
    folder: Path, before: TokenShards, keep: np.ndarray, tokenizer: Tokenizer
) -> dict[str, Any]:
    if keep.all():
        for name in (TOKENS, DOCUMENTS):
            link(before.folder / name, folder / name)
        counts = {key: before.index[key] for key in ("documents", "tokens", "bytes", "kinds")}
        return write_index(folder, counts, tokenizer)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], keep, [False]]))).reshape(-1, 2)
    ends = before.offsets + before.lengths
    with (folder / TOKENS).open("wb") as file:
        for first, stop in edges.tolist():  # runs of documents that stay
            for start in range(int(before.offsets[first]), int(ends[stop - 1]), CHUNK):
                end = min(start + CHUNK, int(ends[stop - 1]))
                file.write(before.tokens[start:end].tobytes())
    counts = write_documents(folder, [before.documents.filter(pa.array(keep))])
    return write_index(folder, counts, tokenizer)


def withdrawing(
    plan: Mapping[str, Recipe], held: Collection[str], requests: tuple[str, ...], suffix: str
) -> dict[str, Recipe]:
    """What a plan needs beside it, corpora first: each that is in `held` again, without the files.

    Names are those of the plan with `suffix` after an underscore.
    """
    made: dict[str, Recipe] = {}
    for name, recipe in plan.items():
        if name in held and isinstance(recipe, Curate | Withdraw):
            made[f"{name}_{suffix}"] = Withdraw(corpus=Ref(name), requests=requests)
    for name, recipe in plan.items():
        corpus = f"{recipe.corpus.name}_{suffix}" if isinstance(recipe, Tokenize) else ""
        if name in held and corpus in made:
            made[f"{name}_{suffix}"] = WithdrawTokens(shards=Ref(name), corpus=Ref(corpus))
    return made


def affected(runs: Path, opt_out: OptOut) -> list[dict[str, Any]]:
    """Every artifact in a runs folder that holds, or learned from, files that requests cover.

    Keys: artifact, kind, what (holds | learned from), files, train_tokens (of the documents, where
    shards tell; else None), repositories (the first few), note. In order of the names. A corpus and
    shards are judged by what they hold, all others by the parents that they were made from; the
    note says where one of those is missing or was made anew, so that nothing is known of it.
    """
    folders = sorted(path for path in Path(runs).iterdir() if path.is_dir())
    manifests = {path.name: manifest for path in folders if (manifest := find_manifest(path))}
    known: dict[str, Held] = {}
    rows = []
    for name, manifest in manifests.items():
        held = _held(Path(runs), name, manifests, opt_out, known)
        if held.files or held.note:
            rows.append(
                {
                    "artifact": name,
                    "kind": manifest.kind,
                    "what": "holds" if held.own else "learned from",
                    "files": len(held.files),
                    "train_tokens": sum(n for _, n in held.tokens) if held.tokens else None,
                    "repositories": sorted({repo for repo, _, _ in held.files})[:NAMED],
                    "note": held.note,
                }
            )
    return rows


@dataclass(frozen=True)
class Held:
    """What one artifact holds of the files that requests cover: (repository, path, content id)."""

    files: frozenset[tuple[str, str, str]]
    train: frozenset[tuple[str, str, str]]  # those of them that descendants learn from
    tokens: frozenset[tuple[str, int]]  # of their training documents, by the shards' name
    own: bool
    note: str = ""


def _held(
    runs: Path, name: str, manifests: dict[str, Manifest], opt_out: OptOut, known: dict[str, Held]
) -> Held:
    if name not in known:
        folder = runs / name
        if (folder / LEDGER).is_dir():
            files = frozenset(_of_corpus(folder, opt_out))
            known[name] = Held(files, files, frozenset(), True)
        elif (folder / SPLITS[0] / DOCUMENTS).is_file():
            known[name] = _of_shards(runs, name, manifests, opt_out)
        else:
            known[name] = _of_parents(runs, name, manifests, opt_out, known)
    return known[name]


def _of_corpus(folder: Path, opt_out: OptOut) -> Iterator[tuple[str, str, str]]:
    rows = set(covered_rows(folder, opt_out))
    names = ["row", "repo_name", "path", "content_id"]
    for part in parts_of(folder, LEDGER) if rows else ():
        for row in pq.read_table(part, columns=names).to_pylist():
            if row["row"] in rows:
                yield row["repo_name"], row["path"], row["content_id"]


def _of_shards(runs: Path, name: str, manifests: dict[str, Manifest], opt_out: OptOut) -> Held:
    """By the rows of the corpus; by name and content of the documents where it is not there."""
    corpus, note = _corpus_of(runs, name, manifests)
    rows = set(covered_rows(corpus, opt_out)) if corpus is not None else set()
    found: dict[str, frozenset[tuple[str, str, str]]] = {}
    tokens = 0
    columns = ["ledger_row", "repo_name", "path", "content_id", "length"]
    for split in SPLITS:
        documents = pq.read_table(runs / name / split / DOCUMENTS, columns=columns).to_pylist()
        out = [
            one
            for one in documents
            if one["ledger_row"] in rows or (corpus is None and opt_out.covers(one))
        ]
        found[split] = frozenset((one["repo_name"], one["path"], one["content_id"]) for one in out)
        tokens += sum(one["length"] for one in out) if split == SPLITS[0] else 0
    files = found["train"] | found["heldout"]
    return Held(files, found["train"], frozenset({(name, tokens)}), True, note)


def _corpus_of(runs: Path, name: str, manifests: dict[str, Manifest]) -> tuple[Path | None, str]:
    """The corpus that shards were made of, or None and why it cannot be asked."""
    for parent in manifests[name].parents.values():
        stands = manifests.get(parent["name"])
        if stands is None:
            continue
        if (runs / parent["name"] / LEDGER).is_dir():
            if stands.digest == parent["digest"]:
                return runs / parent["name"], ""
            return None, f"{parent['name']} was made anew since: judged by name and content"
    return None, "its corpus is not here: judged by name and content"


def _of_parents(
    runs: Path, name: str, manifests: dict[str, Manifest], opt_out: OptOut, known: dict[str, Held]
) -> Held:
    files: set[tuple[str, str, str]] = set()
    tokens: set[tuple[str, int]] = set()
    notes = []
    for parent in manifests[name].parents.values():
        stands = manifests.get(parent["name"])
        if stands is None or stands.digest != parent["digest"]:
            why = "is missing" if stands is None else "was made anew since"
            notes.append(f"{parent['name']} {why}: not known")
            continue
        held = _held(runs, parent["name"], manifests, opt_out, known)
        files |= held.train
        tokens |= held.tokens
        notes += [held.note] if held.note else []
    learned = frozenset(files)
    return Held(learned, learned, frozenset(tokens), False, "; ".join(dict.fromkeys(notes)))
