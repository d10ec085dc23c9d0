"""Ground floor: recipes, artifacts, overrides, progress, atomic files, the sandbox. No torch."""

from cairn.base.artifact import Manifest, Recipe, Work, find_manifest, read_manifest
from cairn.base.config import Ref
from cairn.base.errors import UserError
from cairn.base.files import pattern_of, write_bytes, write_json, write_text
from cairn.base.log import Metrics, note, progress

__all__ = [
    "Manifest",
    "Metrics",
    "Recipe",
    "Ref",
    "UserError",
    "Work",
    "find_manifest",
    "note",
    "pattern_of",
    "progress",
    "read_manifest",
    "write_bytes",
    "write_json",
    "write_text",
]
