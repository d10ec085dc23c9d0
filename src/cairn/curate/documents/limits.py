"""Where the rules of documentation begin to drop."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DocumentationLimits:
    """A document exactly at a limit is kept. The report gives no figures for documentation."""

    min_characters: int = 100
    """Least characters of the text, without white space at its ends."""
    max_characters: int = 10_000_000
    """Most characters of the text; of a longer PDF no more is even read."""
    alphabetic_share: float = 0.25
    """Least share of letters, of any script: below are numbers, and PDFs whose fonts tell none."""
    pdf_bytes: int = 32 * 2**20
    """Most bytes of a PDF."""
    pdf_pages: int = 3_000
    """Most pages of a PDF."""
    pdf_seconds: float = 300.0
    """Most seconds of one processor for a PDF: a guard against hostile ones, not a quality rule."""
