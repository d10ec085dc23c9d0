"""The text of a PDF, read by pypdf in a process of its own.

A PDF of a few kilobytes may unpack to gigabytes, or name its pages in a ring: only a process can be
held to an amount of memory and of time from outside.
"""

import io
import os
import subprocess
import sys
from importlib.util import find_spec

from cairn.base import UserError
from cairn.curate.documents.limits import DocumentationLimits

MEMORY = 4 * 2**30  # bytes of address space
PATIENCE = 10  # times the processor's seconds that may pass on the clock, on a busy machine
_SIGNALS = {9: "took too much time", 24: "took too much time"}


class PdfError(Exception):
    """Why a PDF gives no text; rule: under which it is dropped."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(" ".join(reason.split())[:200])
        self.rule = rule


def pdf_text(raw: bytes, limits: DocumentationLimits) -> str:
    """The text of all pages, a blank line between two.

    PdfError for what is damaged, encrypted or beyond the limits; UserError without pypdf.
    """
    if find_spec("pypdf") is None:
        raise UserError("sources", "a PDF", "needs pypdf", "pip install 'cairn-lm[docs]'")
    if len(raw) > limits.pdf_bytes:
        raise PdfError("documentation_long", f"a PDF of {len(raw):,} bytes")
    given = (limits.pdf_pages, limits.max_characters, limits.pdf_seconds)
    command = [sys.executable, "-m", "cairn.curate.documents.pdf", *map(str, given)]
    try:
        done = subprocess.run(
            command, input=raw, capture_output=True, timeout=PATIENCE * limits.pdf_seconds
        )
    except subprocess.TimeoutExpired:
        raise PdfError("documentation_damaged", "PDF: took too much time") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        reason = _SIGNALS.get(-done.returncode) or said or f"ended with {done.returncode}"
        raise PdfError("documentation_damaged", f"PDF: {reason}")
    state, _, text = done.stdout.decode("utf-8").partition("\n")
    if state:
        rule, _, reason = state.partition(" ")
        raise PdfError(rule, reason)
    return text


def _extract(raw: bytes, pages: int, characters: int) -> str:
    """What the process does: a line with rule and reason, empty where all is well; the text."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    made: list[str] = []
    length = 0
    try:
        reader = PdfReader(io.BytesIO(raw))
        if reader.is_encrypted and not reader.decrypt(""):
            return "documentation_damaged PDF: is encrypted\n"
        if len(reader.pages) > pages:
            return f"documentation_long a PDF of {len(reader.pages):,} pages\n"
        for page in reader.pages:
            text = page.extract_text().strip()
            length += len(text)
            if length > characters:
                return f"documentation_long a PDF of more than {characters:,} characters\n"
            made += [text] if text else []
    except (
        PyPdfError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        ImportError,  # an encryption that needs another library
        LookupError,
        MemoryError,
        NotImplementedError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:  # what a damaged file makes of a reader that trusts it
        told = " ".join(str(error).split()) or type(error).__name__
        return f"documentation_damaged PDF: {told[:200]}\n"
    return "\n" + "\n\n".join(made) + "\n" * bool(made)


def _main() -> None:
    import logging
    import resource

    pages, characters, seconds = sys.argv[1:4]
    whole = max(1, round(float(seconds)))
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # warns of every oddity
    made = _extract(sys.stdin.buffer.read(), int(pages), int(characters))
    sys.stdout.buffer.write(made.replace("\0", "").encode("utf-8", "replace"))
    sys.stdout.flush()
    os._exit(0)  # nothing is left to tidy, and a deep structure takes long to free


if __name__ == "__main__":
    _main()
