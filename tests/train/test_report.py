"""The page of a training: what is on it, that it asks for nothing, and charts' edges."""

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cairn.base import UserError
from cairn.cli import main
from cairn.train.charts import Line, chart, number, ticks
from cairn.train.report import PAGE, write_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


def run_of(folder: Path, name: str, steps: int = 120, **more: float) -> Path:
    """A run's metrics, with one step that has no number."""
    out = folder / name
    out.mkdir(parents=True)
    with (out / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            row = {
                "step": step,
                "loss": 3 + 2 / step if step != 7 else math.nan,
                "grad_norm": 10.0 ** (-step / 40),
                "lr": 1e-3,
                "tokens": 4096 * step,
                "seconds": 0.5,
                "tokens_per_second": 8192.0,
                "mfu": 0.31,
                "memory_bytes": 10**9 + step,
                "loss/code": 2.5,
                "loss/<b>web</b>": 3.5,
                "samples": [0, 4],
            }
            file.write(json.dumps(row | more) + "\n")
    return out


class Addresses(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_of_one_run(tmp_path):
    run = run_of(tmp_path, "base", fp8_nan=0.0)
    assert main(["report", str(run)]) == 0
    text = (run / PAGE).read_text()
    found = Addresses()
    found.feed(text)
    assert not found.addresses
    assert not {"script", "img", "link", "b>web<"} & set(found.tags)
    assert "default-src 'none'" in text
    assert "&lt;b&gt;web&lt;/b&gt;" in text
    for title in ("Loss, nats", "Gradient norm", "Learning rate", "Loss by source", "fp8_nan"):
        assert title in text
    assert "samples" not in text
    assert found.tags.count("svg") == 8
    assert "nan" not in re.sub("fp8_nan", "", text)


def test_runs_are_compared(tmp_path):
    run_of(tmp_path, "one")
    run_of(tmp_path, "two", steps=80)
    (tmp_path / "corpus").mkdir()
    page = write_page([tmp_path]).read_text()
    assert page.count("Loss by source") == 2
    first = page.split("<svg")[1]
    assert first.count('class="line"') == 2
    assert ">one<" in first
    assert ">two<" in first
    beside = write_page([tmp_path / "one", tmp_path / "two"], tmp_path / "both.html")
    assert beside.read_text() == page


def test_mistakes_are_told(tmp_path, capsys):
    with pytest.raises(UserError, match="no training has written"):
        write_page([tmp_path])
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_charts_hold_what_is_given():
    assert "Nothing was recorded" in chart([Line("a", [1.0], [math.nan])], "x")
    assert chart([Line("a", [1.0, 2.0], [0.0, 0.0])], "x").count("<path") > 1
    long = Line("a", list(range(5000)), [1.0] * 5000)
    path = re.findall(r'd="(M[^"]*L[^"]*)"', chart([long], "x"))[0]
    assert path.count("L") < 420
    many = [Line(str(n), [0, 1], [n, n + 1]) for n in range(10)]
    assert chart(many, "x").count("stroke-dasharray") == 2
    assert "0.1" in chart([Line("a", [0, 1], [0.01, 1.0])], "x", log=True)


def test_ticks_and_numbers_are_round():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert [number(n) for n in (0.00045, 12, 1536, 20e12)] == ["0.00045", "12", "1.54k", "20T"]


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
def test_a_browser_shows_every_chart(tmp_path):
    page = write_page([run_of(tmp_path, "base")])
    line = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    line += [f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{page}"]
    done = subprocess.run([str(one) for one in line], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("<svg") == 7, done.stderr
