"""report.html: one page, no requests, to browse what happened to the files.

The funnel by stage, languages, licences, clusters of near duplicates with examples, and for every
rule some of the files that it dropped with the reason.
"""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb

from cairn.base import pattern_of
from cairn.curate.report import funnel

SAMPLES = 12  # of each rule
CLUSTERS = 20
MEMBERS = 8  # shown of a cluster
LANGUAGES = 25  # shown at once

LEDGER = "read_parquet($ledger, hive_partitioning = false)"
# Which rows are shown is settled first, and then those alone are read: a ledger may be large, and a
# join or an order over all of it would hold it in memory.
CHOSEN = f"""
    SELECT unnest(min({{'hash': sha256(content_id), 'row': row}}, {SAMPLES})).row AS row
    FROM {LEDGER} WHERE verdict = 'drop' GROUP BY rule
"""
SAMPLED = f"""
    SELECT rule, repo_name, path, origin_url, length_bytes, reason FROM {LEDGER}
    WHERE row IN ({{rows}}) ORDER BY rule, sha256(content_id), row
"""
LARGEST = f"""
    SELECT duplicate_of AS row FROM {LEDGER} WHERE rule = 'near_duplicate'
    GROUP BY duplicate_of ORDER BY count(*) DESC, duplicate_of LIMIT {CLUSTERS}
"""
CLUSTERED = f"""
    WITH members AS (
        SELECT duplicate_of, count(*) AS size, count(DISTINCT repo_name) AS repositories,
            sum(length_bytes)::BIGINT AS bytes,
            list(repo_name || ': ' || path ORDER BY row)[:{MEMBERS}] AS shown
        FROM {LEDGER} WHERE rule = 'near_duplicate' AND duplicate_of IN ({{rows}})
        GROUP BY duplicate_of
    ), kept AS (
        SELECT row, repo_name, path, language FROM {LEDGER} WHERE row IN ({{rows}})
    )
    SELECT k.repo_name, k.path, k.language, m.size + 1 AS size, m.repositories, m.bytes, m.shown
    FROM members m JOIN kept k ON k.row = m.duplicate_of ORDER BY m.size DESC, k.row
"""
SIZES = f"""
    SELECT size, count(*) AS clusters FROM (
        SELECT count(*) + 1 AS size FROM {LEDGER} WHERE rule = 'near_duplicate'
        GROUP BY duplicate_of
    ) GROUP BY size ORDER BY size
"""


def page(facts: dict[str, Any], sources: Sequence[str], ledger: Path) -> str:
    """The page of a corpus from its report's facts and its ledger."""
    parts = sorted(pattern_of(path) for path in ledger.glob("part-*.parquet"))
    with duckdb.connect() as connection:

        def rows(query: str) -> list[dict[str, Any]]:
            found = connection.execute(query, {"ledger": parts})
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

        def shown(query: str, chosen: str) -> list[dict[str, Any]]:
            numbers = ", ".join(str(row["row"]) for row in rows(chosen)) or "-1"
            return rows(query.format(rows=numbers))

        body = [
            _head(facts, sources),
            _section("funnel", "From seen to kept", _funnel(facts)),
            _section("languages", "Languages", _bars(facts["languages"], "language", LANGUAGES)),
            _section("kinds", "Kinds", _bars(facts["kinds"], "kind", LANGUAGES)),
            _section("licences", "Licences", _licences(facts)),
            _section(
                "repositories", "Repositories", _bars(facts["repositories"], "repository", 20)
            ),
            _section(
                "clusters", "Near duplicates", _clusters(shown(CLUSTERED, LARGEST), rows(SIZES))
            ),
            _section("rules", "What each rule dropped", _rules(facts, shown(SAMPLED, CHOSEN))),
            _section("redactions", "Personal data and secrets replaced", _redactions(facts)),
        ]
    template = files("cairn.curate").joinpath("page.html").read_text(encoding="utf-8")
    return template.replace("<!-- body -->", "\n".join(body))


def _section(key: str, title: str, inside: str) -> str:
    return f'<section id="{key}"><h2>{escape(title)}</h2>\n{inside}\n</section>'


def _head(facts: dict[str, Any], sources: Sequence[str]) -> str:
    seen, kept = facts["seen"], facts["kept"]
    figures = (
        (f"{kept['files']:,}", f"files kept of {seen['files']:,}"),
        (size(kept["bytes"]), f"kept of {size(seen['bytes'])}"),
        (f"{facts['repository_count']:,}", "repositories"),
        (f"{len(facts['languages']):,}", "languages"),
    )
    cards = "".join(f"<div><b>{number}</b><span>{what}</span></div>" for number, what in figures)
    listed = "".join(f"<li><code>{escape(source)}</code></li>" for source in sources)
    return (
        f'<div class="figures">{cards}</div>\n<details><summary>{len(sources):,} sources</summary>'
        f"<ul>{listed}</ul></details>\n<p>Malware: {escape(facts['malware'])}.</p>"
    )


def _funnel(facts: dict[str, Any]) -> str:
    seen = max(facts["seen"]["bytes"], 1)
    lines = []
    for row in funnel(facts):
        width = 100 * row["bytes"] / seen
        name = escape(row["step"])
        link = f'<a href="#rule-{name}">{name}</a>' if row["dropped"] else name
        lines.append(
            f"<tr><th>{link}</th><td>{row['dropped']:,}</td><td>{size(row['dropped bytes'])}</td>"
            f"<td>{row['files']:,}</td><td>{size(row['bytes'])}</td>"
            f'<td class="bar"><i style="width:{width:.2f}%"></i></td></tr>'
        )
    names = ("step", "files dropped", "bytes dropped", "files left", "bytes left", "")
    return _table(names, lines)


def _bars(rows: Sequence[dict[str, Any]], key: str, shown: int) -> str:
    most = max((row["bytes"] for row in rows), default=1) or 1
    lines = [
        f"<tr><th>{escape(str(row[key])) or '(none)'}</th><td>{row['files']:,}</td>"
        f"<td>{size(row['bytes'])}</td>"
        f'<td class="bar"><i style="width:{100 * row["bytes"] / most:.2f}%"></i></td></tr>'
        for row in rows
    ]
    names = (key, "files", "bytes", "")
    table = _table(names, lines[:shown])
    if len(lines) > shown:
        rest = _table(names, lines[shown:])
        table += f"<details><summary>{len(lines) - shown:,} more</summary>{rest}</details>"
    return table


def _licences(facts: dict[str, Any]) -> str:
    classes = _bars(facts["licences"], "license_type", 3)
    return classes + "<h3>As detected</h3>" + _bars(facts["detected"], "licence", 20)


def _clusters(clusters: Sequence[dict[str, Any]], sizes: Sequence[dict[str, Any]]) -> str:
    if not clusters:
        return "<p>None.</p>"
    total = sum(row["clusters"] for row in sizes)
    most = max(row["clusters"] for row in sizes)
    lines = [
        f"<tr><th>{row['size']:,}</th><td>{row['clusters']:,}</td>"
        f'<td class="bar"><i style="width:{100 * row["clusters"] / most:.2f}%"></i></td></tr>'
        for row in sizes
    ]
    made = [f"<p>{total:,} clusters.</p>", "<details><summary>by size</summary>"]
    made += [_table(("files in the cluster", "clusters", ""), lines), "</details>"]
    for row in clusters:
        members = "".join(f"<li>{escape(one)}</li>" for one in row["shown"])
        more = row["size"] - 1 - len(row["shown"])
        members += f"<li>and {more:,} more</li>" if more > 0 else ""
        made.append(
            f"<details><summary><b>{row['size']:,}</b> files in {row['repositories']:,} "
            f"repositories, {escape(row['language']) or 'no language'}: kept "
            f"<code>{escape(row['repo_name'])}: {escape(row['path'])}</code></summary>"
            f"<ul>{members}</ul></details>"
        )
    return "\n".join(made)


def _rules(facts: dict[str, Any], samples: Sequence[dict[str, Any]]) -> str:
    made = ['<input id="search" type="search" placeholder="filter samples by path or reason">']
    for rule in facts["rules"]:
        name = escape(rule["rule"])
        lines = [
            f"<tr><th>{escape(row['repo_name'])}</th><td class=text>{escape(row['path'])}</td>"
            f"<td>{size(row['length_bytes'])}</td>"
            f"<td class=text>{escape(row['reason'] or '')}</td></tr>"
            for row in samples
            if row["rule"] == rule["rule"]
        ]
        table = _table(("repository", "path", "bytes", "reason"), lines)
        made.append(
            f'<details class="rule" id="rule-{name}"><summary><b>{name}</b> '
            f"{rule['files']:,} files, {size(rule['bytes'])}</summary>{table}</details>"
        )
    return "\n".join(made)


def _redactions(facts: dict[str, Any]) -> str:
    lines = [f"<tr><th>{escape(k)}</th><td>{n:,}</td></tr>" for k, n in facts["redactions"].items()]
    return _table(("kind", "replaced"), lines) if lines else "<p>None.</p>"


def _table(names: Iterable[str], lines: Iterable[str]) -> str:
    texts = {"path": " class=text", "reason": " class=text"}
    head = "".join(f"<th{texts.get(name, '')}>{escape(name)}</th>" for name in names)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def size(count: int) -> str:
    """Bytes as people read them: 1.2 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1000
    raise AssertionError
