"""The page of a corpus: what is on it, nothing hostile runs, and a browser shows it."""

import hashlib
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cairn.base.make import make
from cairn.curate import Curate
from cairn.curate.corpus import LEDGER_SCHEMA
from cairn.curate.page import page
from cairn.curate.report import markdown, summarise

HOSTILE = "<script>alert(1)</script>.py"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    tree = root / "tree"
    tree.mkdir()
    names = [f"name_{n} = call({n})" for n in range(60)]
    (tree / "a.py").write_text("\n".join(names))
    (tree / "b.py").write_text("\n".join([*names, "one_more = here"]))
    (tree / "c.py").write_text("mail = 'jane.doe@corp-mail.io'\n")
    (tree / "empty.py").write_text("")
    (tree / HOSTILE.replace("/", "_")).write_text("")
    make({"corpus": Curate(sources=(str(tree),), workers=1)}, root / "runs")
    return root / "runs" / "corpus"


class Names(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_asks_for_nothing_and_runs_nothing_of_the_data(corpus: Path):
    text = (corpus / "report.html").read_text()
    found = Names()
    found.feed(text)
    assert found.scripts == 1, "its own"
    assert all(address.startswith("#") for address in found.addresses)
    assert "&lt;script&gt;alert(1)&lt;_script&gt;.py" in text
    assert "default-src 'none'" in text


def test_the_page_tells_of_funnel_clusters_rules_and_redactions(corpus: Path):
    text = re.sub(r"<[^>]+>", " ", (corpus / "report.html").read_text())
    text = " ".join(text.split())
    assert "near_duplicate 1" in text
    assert "files in 1 repositories, Python: kept tree: a.py tree: b.py" in text
    assert "empty 2 files" in text
    assert "email 1" in text


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
def test_a_browser_opens_the_rule_that_the_address_names(corpus: Path, tmp_path: Path):
    line = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    line += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    line += [f"--user-data-dir={tmp_path}", "--dump-dom", f"file://{corpus}/report.html#rule-empty"]
    done = subprocess.run([str(one) for one in line], capture_output=True, text=True, timeout=60)
    assert re.search(r'<details class="rule" id="rule-empty" open', done.stdout), done.stderr
    assert re.search(r'<details class="rule" id="rule-near_duplicate">', done.stdout)


def test_reports_stay_small_however_many_repositories_there_are(tmp_path: Path):
    ledger = tmp_path / "language=Rust" / "ledger"  # a folder, and no column
    ledger.mkdir(parents=True)
    base = {name: None for name in LEDGER_SCHEMA.names} | {"verdict": "keep", "language": "C"}
    rows = [
        base
        | {"row": n, "repo_name": f"o|<b>\n{n}", "origin_url": f"u{n}", "length_bytes": 30_000 - n}
        | {"license_type": "permissive", "redactions": "email 2, key 1"}
        for n in range(30_000)
    ]
    pq.write_table(pa.Table.from_pylist(rows, LEDGER_SCHEMA), ledger / "part-00000.parquet")
    facts = summarise(ledger) | {"malware": "not scanned"}
    assert facts["repository_count"] == 30_000
    assert facts["languages"][0]["language"] == "C"
    assert facts["redactions"] == {"email": 60_000, "key": 30_000}
    text = markdown(facts, ["x"])
    assert "\n| o\\|&lt;b> 0 | 1 | 30,000 |\n" in text
    shown = page(facts, ["x"], ledger)
    assert "<b>30,000</b><span>repositories" in shown
    assert len(json.dumps(facts)) + len(text) + len(shown) < 500_000


def test_samples_and_clusters_are_those_that_a_plain_count_gives(tmp_path: Path):
    """In bounded memory too: of a million rows only those that are shown are read."""
    base = {name: None for name in LEDGER_SCHEMA.names} | {"repo_name": "r", "language": "C"}
    rows = []
    for n in range(4_000):
        rule = ("licence", "near_duplicate", None)[n % 3]
        # Thirty clusters of unequal sizes, named by kept rows.
        leader = 3 * (n * n % 31 % 30) + 2 if rule == "near_duplicate" else None
        found = {"row": n, "path": f"p{n}", "content_id": f"{n % 997:040x}", "length_bytes": n}
        verdict = "drop" if rule else "keep"
        rows.append(base | found | {"rule": rule, "verdict": verdict, "duplicate_of": leader})
    parts = [rows[:1_000], rows[1_000:]]
    for number, part in enumerate(parts):
        table = pa.Table.from_pylist(part, LEDGER_SCHEMA)
        pq.write_table(table, tmp_path / f"part-{number:05d}.parquet", row_group_size=100)
    shown = page(summarise(tmp_path) | {"malware": "not scanned"}, ["x"], tmp_path)
    for rule in ("licence", "near_duplicate"):
        order = sorted(
            (hashlib.sha256(row["content_id"].encode()).hexdigest(), row["row"])
            for row in rows
            if row["rule"] == rule
        )
        inside = shown.partition(f'id="rule-{rule}"')[2].partition("</details>")[0]
        assert re.findall(r"<td class=text>(p\d+)</td>", inside) == [f"p{n}" for _, n in order[:12]]
    sizes = Counter(row["duplicate_of"] for row in rows if row["rule"] == "near_duplicate")
    largest = sorted(sizes, key=lambda row: (-sizes[row], row))[:20]
    assert re.findall(r"<code>r: (p\d+)</code>", shown) == [f"p{row}" for row in largest]
