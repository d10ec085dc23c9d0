"""Languages of files, by the decisions of linguist, and what its lists say of paths and texts."""

from cairn.curate.languages.detection import extension_of, language_of
from cairn.curate.languages.generated import is_generated
from cairn.curate.languages.paths import is_documentation, is_vendored
from cairn.curate.languages.selection import SMOL, excluded_extension
from cairn.curate.languages.table import type_of

__all__ = [
    "SMOL",
    "excluded_extension",
    "extension_of",
    "is_documentation",
    "is_generated",
    "is_vendored",
    "language_of",
    "type_of",
]
