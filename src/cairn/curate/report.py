"""What happened to the files: counts and bytes by stage, rule, licence, language, repository."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from cairn.base import pattern_of
from cairn.curate.rules import RULES

BY = """
    SELECT coalesce({key}, '') AS {name}, count(*) AS files, sum(length_bytes)::BIGINT AS bytes
    FROM read_parquet($ledger, hive_partitioning = false) {where}
    GROUP BY ALL ORDER BY bytes DESC, {name} LIMIT {most}
"""
KEPT = "WHERE verdict = 'keep'"
MOST = 1000  # repositories and licences that are listed, the largest: there may be millions
COUNTED = """
    SELECT count(DISTINCT (repo_name, origin_url))
    FROM read_parquet($ledger, hive_partitioning = false) WHERE verdict = 'keep'
"""
REDACTED = """
    SELECT redactions, count(*) FROM read_parquet($ledger, hive_partitioning = false)
    WHERE verdict = 'keep' AND redactions <> '' GROUP BY redactions
"""
FIRST = ("unreadable", "link", "size", "binary", "empty", "language")
LAST = (
    *("licence", "opt_out", "extension", "repository_duplicate"),
    *("exact_duplicate", "near_duplicate"),
    *(rule.__name__ for rule in RULES),
    *("selection", "cap", "malware", "contaminated"),
)


def step_of(rule: str) -> tuple[int, int, str]:
    """Where a rule stands in the order in which they are taken.

    Between what a file says by itself and what it is beside others stand the rules of threads,
    notebooks and other kinds, by name.
    """
    if rule in FIRST:
        return 0, FIRST.index(rule), ""
    return (2, LAST.index(rule), "") if rule in LAST else (1, 0, rule)


def summarise(ledger: Path) -> dict[str, Any]:
    """Counts for report.json, from the ledger alone."""
    parts = sorted(pattern_of(path) for path in ledger.glob("part-*.parquet"))
    with duckdb.connect() as connection:

        def rows(key: str, name: str, where: str) -> list[dict[str, Any]]:
            query = BY.format(key=key, name=name, where=where, most=MOST)
            found = connection.execute(query, {"ledger": parts})
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

        verdicts = {row["verdict"]: row for row in rows("verdict", "verdict", "")}
        none = {"files": 0, "bytes": 0}
        kept = {key: verdicts.get("keep", none)[key] for key in none}
        dropped = {key: verdicts.get("drop", none)[key] for key in none}
        redactions = connection.execute(REDACTED, {"ledger": parts}).fetchall()
        repositories = connection.execute(COUNTED, {"ledger": parts}).fetchall()[0][0]
        return {
            "seen": {key: kept[key] + dropped[key] for key in none},
            "kept": kept,
            "rules": sorted(
                rows("rule", "rule", "WHERE verdict = 'drop'"),
                key=lambda row: step_of(row["rule"]),
            ),
            "licences": rows("license_type", "license_type", KEPT),
            "detected": rows("array_to_string(detected_licenses, ' AND ')", "licence", KEPT),
            "languages": rows("language", "language", KEPT),
            "kinds": rows("kind", "kind", KEPT),
            "repositories": rows("repo_name", "repository", KEPT),
            "repository_count": repositories,
            "redactions": _redactions(redactions),
        }


def _redactions(shown: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Sums over texts as the ledger has them, `email 2, key 1` say, each with how many have it."""
    counts: dict[str, int] = {}
    for text, files in shown:
        for item in text.split(", "):
            kind, _, count = item.rpartition(" ")
            counts[kind] = counts.get(kind, 0) + int(count) * files
    return dict(sorted(counts.items()))


def markdown(facts: dict[str, Any], sources: Sequence[str]) -> str:
    """report.md."""
    parts = ["# Corpus\n", "Sources: " + ", ".join(f"`{source}`" for source in sources) + "\n"]
    parts += ["## From seen to kept\n", _table(funnel(facts))]
    for key, title in (
        ("licences", "Kept by class of licence"),
        ("detected", "Kept by detected licence"),
        ("languages", "Kept by language"),
        ("kinds", "Kept by kind"),
        ("repositories", "Kept by repository"),
    ):
        parts += [f"## {title}\n", _table(facts[key])]
    rows = [{"kind": kind, "replaced": count} for kind, count in facts["redactions"].items()]
    parts += ["## Personal data and secrets replaced\n", _table(rows)]
    return "\n".join(parts)


def funnel(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """What each rule drops of what the rules before it left, first to last."""
    left = facts["seen"]
    rows = [{"step": "seen", "dropped": 0, "dropped bytes": 0, **left}]
    for row in facts["rules"]:
        left = {key: left[key] - row[key] for key in left}
        dropped = {"dropped": row["files"], "dropped bytes": row["bytes"]}
        rows.append({"step": row["rule"], **dropped, **left})
    return [*rows, {"step": "kept", "dropped": 0, "dropped bytes": 0, **facts["kept"]}]


def _table(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "(none)\n"
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |"]
    lines.append("|" + "|".join("---" if i == 0 else "---:" for i in range(len(keys))) + "|")
    for row in rows:
        cells = (f"{v:,}" if isinstance(v, int) else _cell(v) or "(none)" for v in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: str) -> str:
    """A name in a cell of Markdown, whatever the file system allowed in it."""
    plain = " ".join(value.split()).replace("\\", "\\\\").replace("|", "\\|")
    return plain.replace("&", "&amp;").replace("<", "&lt;")
