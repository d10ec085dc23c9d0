"""Files made to make a rule run long: the first and the third stage take time linear in size."""

import time

import pyarrow as pa
import pytest

from cairn.curate.annotate import Annotation, annotate
from cairn.curate.finish import Finishing, finish
from cairn.curate.rendering import Limits, Rendering
from cairn.curate.rules import Thresholds
from cairn.sources.record import Origin, SourceFile, to_batch

SIZE, TIMES = 40_000, 6  # characters, and how many times longer the long file is
UNITS = {
    "open brackets": "([{<",
    "quotes": "\"'`",
    "backslashes": "\\\\",
    "comments": "/* // # -- <!-- ",
    "long words": "a",
    "assignments": "password = ",
    "quoted assignments": "api_key='",
    "addresses": "a@a.a.",
    "at signs": "@",
    "numbers with dots": "1.1.1.",
    "colons": "a:0:",
    "keys": "-----BEGIN RSA PRIVATE KEY-----\n",
    "base64": "QUJD/+",
    "hexadecimals": "0x0f,",
    "half hexadecimals": "\\x0f, g ",
    "escapes": "\\u00e9",
    "tags": "<div class='",
    "closed tags": "<p></b>",
    "white space": " \t",
    "line ends": "\r\n",
    "lone carriage returns": "\r",
    "letters beyond ASCII": "é́\u200b",
    "licence words": "GNU General Public License or MIT or Apache ",
    "permission": "Permission is hereby granted, free of charge, to any ",
    "copyright": "Copyright (c) 2020 ",
    "tags of licences": "SPDX-License-Identifier: (MIT AND ",
    "generated": "generated auto-",
    "templates": "{{{#if x}}",
    "urls": "http://a:b@c/?d=e&",
    "surrogate spellings": "\\ud800",
    "one line of zeros": "0",
    "dashes": "-",
    "tokens": "ghp_AKIA0eyJ",
}
NAMES = ("x.py", "x.c", "x.html", "x.json", "x.md", "LICENSE", "x.h", "x.pl", "x.ipynb", "x.csv")


def batch(name: str, text: str) -> pa.RecordBatch:
    raw = text.encode("utf-8", "surrogatepass")
    origin = Origin(repo_name="r", origin_url="u", directory_id="d" * 40)
    file = SourceFile(
        **{"origin": origin, "path": name, "content_id": "c" * 40, "blob_id": "b" * 40},
        **{"mode": 0o100644, "length_bytes": len(raw), "raw": raw},
    )
    return to_batch([file])


ANNOTATION = Annotation(
    max_bytes=2**30, thresholds=Thresholds(), rendering=Rendering(Limits()), near=True
)


def seconds(name: str, unit: str, size: int) -> float:
    """The least of two runs, in processor time: the machine may be busy."""
    text = unit * (size // len(unit))
    found = []
    for _ in range(2):
        begun = time.process_time()
        annotate(batch(name, text), ANNOTATION)
        row = {"kind": ["source"], "content": [text], "src_encoding": ["utf-8"]}
        finish(pa.RecordBatch.from_pydict(row), Finishing("rules", None, None, False))
        found.append(time.process_time() - begun)
    return min(found)


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS.keys())
def test_no_rule_takes_more_than_linear_time(unit: str):
    for name in NAMES:
        short = max(seconds(name, unit, SIZE), 0.003)
        long = seconds(name, unit, SIZE * TIMES)
        assert long < 2.5 * TIMES * short, f"{name}: {short:.3f} s, then {long:.3f} s"
