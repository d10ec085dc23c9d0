"""Documentation: pages, PDFs and texts, made ones and what this machine has."""

import time
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cairn.curate.documents import DocumentationLimits, documentation_document
from cairn.curate.documents.page import page_text

LIMITS = DocumentationLimits(min_characters=1, alphabetic_share=0)
REAL = Path("/usr/share/doc")


def text_of(raw: bytes | str, path: str, limits: DocumentationLimits = LIMITS) -> str:
    document = documentation_document(raw.encode() if isinstance(raw, str) else raw, path, limits)
    assert document.verdict.keep, document.verdict
    assert [mark for mark, _ in document.pieces] == [""]
    assert (document.kind, document.language) == ("documentation", "")
    return document.pieces[0][1]


def rule_of(raw: bytes, path: str, limits: DocumentationLimits | None = None) -> str:
    return documentation_document(raw, path, limits or DocumentationLimits()).verdict.rule


PAGE = """<!DOCTYPE html><html><head><title>A &amp; B &mdash; docs</title><style>p{}</style></head>
<body><nav>skip <a href=#>me</a></nav><div role="main">
<p>Call <code>f(x) &lt; 2</code> or
<b>g</b>&nbsp;now.<script>var a = "<p>no</p>";</script>
<h2 id=use>Use<a class="headerlink" href="#use">¶</a></h2>
<div class="highlight-python3 notranslate"><div class="highlight"><pre><span></span><b>if</b> a:

    b = "<i>&lt;p&gt;</i>"   <!-- no -->
</pre></div></div>
<ul><li>one<li><p>two</p><p>more</p><ol><li>in</ol></ul>
<table><caption>Flags</caption><tr><th>name<th>what<tr><td><code>-a</code><td>all | any</table>
<dl><dt><code>json.dumps()</code></dt><dd><p>Writes.</dl>
</div><footer>(c)</footer></body></html>"""
MADE = """# A & B — docs

Call `f(x) < 2` or g now.

## Use

```python3
if a:

    b = "<p>"
```

- one
- two

  more

  1. in

Flags

| name | what |
| --- | --- |
| `-a` | all \\| any |

`json.dumps()`

Writes.
"""


def test_a_page_becomes_markdown_without_what_surrounds_it():
    assert text_of(PAGE, "a/b.html", DocumentationLimits()).replace("   \n", "\n") == MADE


def test_pages_are_read_in_the_encoding_that_they_name():
    body = "<meta charset='{}'><p>größer é"
    assert text_of(body.format("iso-8859-1").encode("latin-1"), "a.htm") == "größer é\n"
    assert text_of(body.format("nonsense").encode("cp1252"), "a.htm") == "größer é\n"
    assert text_of(body.format("utf-8").encode("utf-16"), "a.xhtml") == "größer é\n"


class Verbatim(HTMLParser):
    """Another parser's view of the code of a page: the oracle."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.deep = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "pre":
            self.deep += 1
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self.deep -= tag == "pre"

    def handle_data(self, data: str) -> None:
        if self.deep:
            self.found[-1] += data


def test_code_of_real_pages_stands_verbatim():
    pages = [page for folder in ("valgrind", "libffi8") for page in REAL.glob(f"{folder}/html/*")]
    pages = [page for page in pages if page.suffix == ".html"]
    if not pages:
        pytest.skip("no pages are installed below /usr/share/doc")
    codes = 0
    for page in pages:
        text = page.read_text("utf-8", "replace")
        oracle = Verbatim()
        oracle.feed(text)
        made = page_text(text).split("\n")
        shown = "\n".join(line.rstrip() for line in made)
        for code in oracle.found:
            lines = [line.rstrip() for line in code.replace("\xa0", " ").strip().split("\n")]
            if page_lines := [line for line in lines if line]:
                codes += 1
                flat = [line.lstrip() for line in shown.split("\n") if line.strip()]
                wanted = [line.lstrip() for line in page_lines]
                starts = [n for n, line in enumerate(flat) if line == wanted[0]]
                assert any(flat[n : n + len(wanted)] == wanted for n in starts), (page, code)
    assert codes > 100


@pytest.mark.parametrize(
    "hostile",
    [
        "<div>" * 200_000 + "x",
        "<ul><li>" * 100_000 + "x",
        "<table><tr><td>x" * 60_000,
        "<b>x" * 200_000,
        "<font><p>x" * 100_000,
        "<p a=" * 200_000,
        "<p a='" * 200_000,
        '<a b="\'" ' * 100_000,
        "<!--" * 200_000,
        "&#x" + "9" * 1_000_000,
        "&" * 1_000_000,
        "<pre>`" * 100_000,
        "<pre>" + "`" * 1_000_000,
        "<script>" * 100_000,
        "<" * 1_000_000,
        "</p>" * 200_000,
        "<li>x</ul>" * 100_000,
        "<div>" * 100_000 + "</b></div>" * 100_000,
        "<code>" * 100_000 + "x" + "</code>" * 100_000,
        "<p " + "a=b " * 300_000 + "class=c>x",
        "<tr>" + "<td>x" * 100_000,
        "<table>" + "<tr><td>x<td>y" * 50_000 + "<tr>" + "<td>x" * 50_000,
    ],
    ids=lambda text: text[:12],
)
def test_hostile_pages_take_linear_time(hostile: str):
    start = time.process_time()
    made = page_text(hostile)
    assert time.process_time() - start < 8.0
    assert len(made) < 40 * len(hostile)


def pdf(content: bytes, extra: bytes = b"", kids: bytes = b"3 0 R") -> bytes:
    """A PDF of one page by hand; readers find objects again where there is no table of them."""
    packed = zlib.compress(content)
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[" + kids + b"]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R"
        b"/Resources<</Font<</F 5 0 R>>>>>>endobj\n"
        b"4 0 obj<</Filter/FlateDecode/Length %d>>stream\n"
        % len(packed)
        + packed
        + b"\nendstream endobj\n"
        b"5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>endobj\n"
        + extra
        + b"trailer<</Root 1 0 R/Size 6>>\nstartxref\n0\n%%EOF\n"
    )


def test_a_pdf_gives_its_text():
    pytest.importorskip("pypdf")
    made = pdf(b"BT /F 12 Tf 72 700 Td (The grep function) Tj 0 -14 Td (returns lines.) Tj ET")
    assert text_of(made, "manual.pdf").split() == ["The", "grep", "function", "returns", "lines."]


def test_hostile_pdfs_are_dropped_in_time():
    pytest.importorskip("pypdf")
    quick = DocumentationLimits(pdf_seconds=2.0, max_characters=10_000)
    line = b"BT /F 12 Tf 72 700 Td (word word word) Tj ET\n"
    assert rule_of(b"%PDF-1.4\n" + b"\0\xff" * 500, "a.pdf", quick) == "documentation_damaged"
    assert rule_of(pdf(line)[:150], "a.pdf", quick) == "documentation_damaged"
    assert rule_of(pdf(line, kids=b"2 0 R"), "a.pdf", quick).startswith("documentation_")
    assert rule_of(pdf(line * 2_000), "a.pdf", quick) == "documentation_long"
    slow = pdf(line * 1_000_000)  # 45 MB in 130 kB: minutes of work
    verdict = documentation_document(slow, "a.pdf", DocumentationLimits(pdf_seconds=1)).verdict
    assert (verdict.rule, verdict.reason) == (
        "documentation_damaged", "PDF: took too much time"
    )  # fmt: skip
    assert rule_of(pdf(line), "a.pdf", DocumentationLimits(pdf_bytes=10)) == "documentation_long"


def test_texts_are_kept_as_they_are_but_for_front_matter():
    code = "# T\n\n---\n```py\nx\n```\n"
    assert text_of("---\ntitle: T\n---\n\n" + code, "docs/a.md") == code
    assert text_of("---\n" + code, "docs/a.md") == "---\n" + code
    rst = ".. note:: x\n\n   y\r\n"
    assert text_of(rst, "a.rst") == rst.replace("\r", "")
    assert text_of(b"\xef\xbb\xbf= T\n", "a.adoc") == "= T\n"


def test_what_is_no_documentation_is_dropped_by_a_named_rule():
    assert rule_of(b"a" * 100, "a.txt") == ""
    assert rule_of(b"a" * 99 + b" \n", "a.txt") == "documentation_short"
    assert rule_of(b"", "a.html") == "documentation_short"
    assert rule_of(b"\xff" * 200, "a.md") == "documentation_damaged"
    assert rule_of(b"a\0" * 200, "a.rst") == "documentation_damaged"
    assert rule_of(b"a" + b"1, " * 200, "a.txt") == "documentation_letters"
    assert rule_of(b"ab" * 200, "a.txt", DocumentationLimits(max_characters=9)) == (
        "documentation_long"
    )
