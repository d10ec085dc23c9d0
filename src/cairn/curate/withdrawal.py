"""Withdrawal: a corpus without the files of those who asked since it was made.

Only parts that hold such files are written anew. The ledger keeps a row for each, as dropped by
the rule opt_out. What other rules once dropped stays dropped, also copies of a withdrawn file.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import (
    Manifest,
    Recipe,
    Ref,
    UserError,
    Work,
    note,
    pattern_of,
    progress,
    write_json,
    write_text,
)
from cairn.base.artifact import VOLATILE
from cairn.curate.corpus import FILES, LEDGER, parts_of
from cairn.curate.optout import COVERED, FACTS, OptOut

RULE = "opt_out"
REPORTS = ("report.json", "report.md", "report.html")
SHOWN = 5  # requests without a file that are named


@dataclass(frozen=True, kw_only=True)
class Withdraw(Recipe):
    """Take the files of new requests out of a corpus that stands (StarCoder2, section 3)."""

    corpus: Ref
    """The corpus, by Curate or by an earlier Withdraw."""
    requests: tuple[str, ...]
    """Files that name repositories, owners or SWHIDs, one a line."""

    def __post_init__(self) -> None:
        if isinstance(self.requests, str):
            raise UserError("requests", self.requests, "is one text", "give a tuple: (text,)")
        if not self.requests:
            raise UserError("requests", self.requests, "name no list", "give files of requests")

    def inputs(self) -> dict[str, str]:
        """The requests that the lists hold now."""
        found = OptOut.read([Path(one).expanduser() for one in self.requests])
        return {"requests": found.digest}

    def run(self, work: Work) -> dict[str, Any]:
        """Write files/, ledger/ and the reports of the smaller corpus."""
        found = OptOut.read([Path(one).expanduser() for one in self.requests])
        sources = sources_of(work.manifest(self.corpus))
        return withdraw(work, work.input(self.corpus), found, sources)

    def headline(self, facts: dict[str, Any]) -> str:
        """What went and what is left."""
        out, kept = facts["withdrawn"], facts["kept"]
        left = f"{kept['files']:,} files kept, {kept['bytes'] / 1e6:.1f} MB"
        return f"{out['files']:,} files withdrawn, {left}"


def sources_of(manifest: Manifest) -> list[str]:
    """The sources that a corpus was read from, as its report names them."""
    return manifest.facts.get("sources") or manifest.recipe.get("sources") or [manifest.name]


def withdraw(work: Work, corpus: Path, opt_out: OptOut, sources: list[str]) -> dict[str, Any]:
    """Fill `work.out` with the corpus but for what `opt_out` covers; returns facts."""
    withdrawn = covered_rows(corpus, opt_out)
    rows = np.array(sorted(withdrawn), np.int64)
    with progress("withdrawing", unit="parts") as bar:
        for kind, key in ((LEDGER, "row"), (FILES, "ledger_row")):
            for part in parts_of(corpus, kind):
                name = f"{kind}/{part.name}"
                if not work.has(name):
                    with work.part(name) as path:
                        if _holds(part, key, rows):
                            _rewrite(part, path, key, rows, withdrawn)
                        else:
                            link(part, path)
                bar.advance(1)
    for path in sorted(corpus.iterdir()):
        lasting = path.is_file() and path.name not in (*REPORTS, *VOLATILE)
        if lasting and not path.name.startswith(".") and not work.has(path.name):
            link(path, work.out / path.name)
    facts = _report(work.out, corpus, sources)
    if not facts["kept"]["files"]:
        raise UserError("requests", len(opt_out), "leave nothing of the corpus", "check the lists")
    silent = _without_files(corpus, opt_out)
    if silent:
        shown = ", ".join(silent[:SHOWN]) + (", ..." if len(silent) > SHOWN else "")
        note(f"{len(silent):,} requests match no file that was seen: {shown}")
    before = json.loads((corpus / "report.json").read_text(encoding="utf-8"))["kept"]
    return {
        "withdrawn": {key: before[key] - facts["kept"][key] for key in ("files", "bytes")},
        **{key: facts[key] for key in ("seen", "kept", "licences")},
        "requests": len(opt_out),
        "requests_sha256": opt_out.digest,
        "requests_without_files": len(silent),
        "sources": sources,
    }


def covered_rows(corpus: Path, opt_out: OptOut) -> dict[int, str]:
    """Ledger rows of kept files that requests cover, each with the reason."""
    query = COVERED.format(files="files", row="row", requests="requests")
    found: dict[int, str] = {}
    with duckdb.connect() as connection:
        connection.register("requests", opt_out.table())
        for part in parts_of(corpus, LEDGER):
            connection.execute(
                "CREATE OR REPLACE TEMP VIEW files AS "
                f"SELECT * FROM {_quoted(part)} WHERE verdict = 'keep'"
            )
            found.update(connection.execute(query).fetchall())
    return found


def _without_files(corpus: Path, opt_out: OptOut) -> list[str]:
    """Values of requests that no row of the ledger has, kept or not."""
    facts = FACTS.format(files="files", row="row")
    query = f"SELECT DISTINCT r.value FROM ({facts}) f JOIN requests r USING (field, value)"
    left = {value for _, value in opt_out.requests}
    with duckdb.connect() as connection:
        connection.register("requests", opt_out.table())
        for part in parts_of(corpus, LEDGER):
            connection.execute(
                f"CREATE OR REPLACE TEMP VIEW files AS SELECT * FROM {_quoted(part)}"
            )
            left -= {value for (value,) in connection.execute(query).fetchall()}
    return sorted(left)


def _quoted(part: Path) -> str:
    name = pattern_of(part).replace("'", "''")
    return f"read_parquet('{name}', hive_partitioning = false)"


def _holds(part: Path, key: str, rows: np.ndarray) -> bool:
    return bool(np.isin(pq.read_table(part, columns=[key])[key].to_numpy(), rows).any())


def _rewrite(part: Path, path: Path, key: str, rows: np.ndarray, why: dict[int, str]) -> None:
    """A part of the ledger with the rows marked as dropped, or a part of files without them."""
    source = pq.ParquetFile(part)
    with pq.ParquetWriter(path, source.schema_arrow, compression="zstd") as writer:
        for number in range(source.num_row_groups):
            table = source.read_row_group(number)
            hit = np.isin(table[key].to_numpy(), rows)
            table = _marked(table, hit, why) if key == "row" else table.filter(pa.array(~hit))
            writer.write_table(table)


def _marked(table: pa.Table, hit: np.ndarray, why: dict[int, str]) -> pa.Table:
    reasons = [why.get(row) for row in table["row"].to_pylist()]
    drops, rules = ["drop"] * len(hit), [RULE] * len(hit)
    for name, new in (("verdict", drops), ("rule", rules), ("reason", reasons)):
        old = table[name].to_pylist()
        values = [one if taken else kept for taken, one, kept in zip(hit, new, old, strict=True)]
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(values, pa.string()))
    return table


def link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _report(out: Path, corpus: Path, sources: list[str]) -> dict[str, Any]:
    from cairn.curate.page import page
    from cairn.curate.report import markdown, summarise

    before = json.loads((corpus / "report.json").read_text(encoding="utf-8"))
    facts = {**before, **summarise(out / LEDGER)}
    write_json(out / "report.json", facts)
    write_text(out / "report.md", markdown(facts, sources))
    write_text(out / "report.html", page(facts, sources, out / LEDGER))
    return facts
