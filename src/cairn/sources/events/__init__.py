"""GH Archive: hours of public events become repositories' metadata, issues and pull requests."""

from typing import TYPE_CHECKING

from cairn.base.lazy import lazily

if TYPE_CHECKING:
    from cairn.sources.events.hours import find_hours
    from cairn.sources.events.repositories import METADATA_SCHEMA, repository_metadata
    from cairn.sources.events.threads import OPTIONS, read

_HOMES = {
    "METADATA_SCHEMA": "repositories",
    "OPTIONS": "threads",
    "find_hours": "hours",
    "read": "threads",
    "repository_metadata": "repositories",
}

__all__ = ["METADATA_SCHEMA", "OPTIONS", "find_hours", "read", "repository_metadata"]

__getattr__ = lazily(__name__, _HOMES)
