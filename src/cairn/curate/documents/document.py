"""A file of documentation as plain text: StarCoder2 (arXiv 2402.19173), section 2.5.

Pages become Markdown, manual pages and PDFs text; what people write as text is kept as it is.
"""

import re

from cairn.curate.documents.limits import DocumentationLimits
from cairn.curate.documents.manual import manual_text
from cairn.curate.documents.page import page_text
from cairn.curate.documents.pdf import PdfError, pdf_text
from cairn.curate.pieces import Document
from cairn.curate.rules import KEEP, Verdict
from cairn.sources.record import DOCUMENTATION

PAGES = (".html", ".htm", ".xhtml")
MARKDOWN = (".md", ".markdown")
_MANUAL = re.compile(r"\.(?:[1-9][a-z0-9]{0,8}|man|mdoc)$", re.IGNORECASE)
_MACRO = re.compile(rb"^[.'][ \t]{0,9}(?:TH|Dd|SH|Sh|so)[ \t]", re.MULTILINE)
_CODING = re.compile(rb"-\*-.{0,80}?coding:\s{0,9}([a-zA-Z0-9_.-]{1,40})")
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s{0,9}=\s{0,9}[\"']?([a-zA-Z0-9_.:-]{1,40})", re.I)
_FRONT_MATTER = re.compile(
    r"---[ \t]{0,9}\n(?=[\w.-]++[ \t]*+:)(?:(?!---|\.\.\.).*+\n)*+(?:---|\.\.\.)[ \t]*+\n"
)
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_HEAD = 4096  # bytes in which a page or a manual page names its encoding


class _NoTextError(Exception):
    """Bytes that are not what their name says."""


def documentation_document(raw: bytes, path: str, limits: DocumentationLimits) -> Document:
    """The document of one file, its text in one piece; `path` tells the format by its ending.

    UserError where a PDF needs pypdf and it is not installed.
    """
    try:
        text = _text(raw, path, limits)
    except _NoTextError as error:
        return _document("", Verdict(False, "documentation_damaged", str(error)))
    except PdfError as error:
        return _document("", Verdict(False, error.rule, str(error)))
    return _document(text, _judge(text, limits))


def _document(text: str, verdict: Verdict) -> Document:
    return Document(DOCUMENTATION, "", (("", text),), verdict)


def _text(raw: bytes, path: str, limits: DocumentationLimits) -> str:
    name = path.rpartition("/")[2].lower()
    if raw.startswith(b"%PDF-") or name.endswith(".pdf"):
        return pdf_text(raw, limits)
    if name.endswith(PAGES):
        return page_text(_decoded(raw, _CHARSET, "cp1252"))
    if _MANUAL.search(name):
        if not _MACRO.search(raw):
            raise _NoTextError("is no manual page")
        return manual_text(_decoded(raw, _CODING, "latin-1"))
    text = _decoded(raw, None, "")
    if name.endswith(MARKDOWN):
        front = _FRONT_MATTER.match(text)
        text = text[front.end() :].lstrip("\n") if front else text
    return text


def _decoded(raw: bytes, declared: re.Pattern[bytes] | None, otherwise: str) -> str:
    """The text by its byte order mark, as UTF-8, by what it declares, or by `otherwise`."""
    names = [name for mark, name in _BOMS if raw.startswith(mark)] or ["utf-8"]
    if declared is not None:
        found = declared.search(raw, 0, _HEAD)
        names += [found[1].decode("ascii")] if found else []
        names.append(otherwise)
    for name in names:
        try:
            text = raw.decode(name)
        except (UnicodeError, LookupError, ValueError):
            continue
        if not isinstance(text, str) or "\0" in text:
            break
        return text.replace("\r\n", "\n").replace("\r", "\n")
    raise _NoTextError("holds bytes that are no text")


def _judge(text: str, limits: DocumentationLimits) -> Verdict:
    """The first rule of documentation that drops the text, or KEEP."""
    length = len(text.strip())
    if length < limits.min_characters:
        return Verdict(False, "documentation_short", f"{length:,} characters")
    if len(text) > limits.max_characters:
        return Verdict(False, "documentation_long", f"{len(text):,} characters")
    letters = sum(map(str.isalpha, text))
    if letters < limits.alphabetic_share * len(text):
        share = letters / len(text)
        return Verdict(False, "documentation_letters", f"{share:.1%} letters")
    return KEEP
