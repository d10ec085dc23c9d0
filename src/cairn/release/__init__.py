"""Release: a folder that others load as it is, with cards written from manifests."""

from dataclasses import dataclass
from typing import Any

from cairn.base import Recipe, Ref, Work


@dataclass(frozen=True, kw_only=True)
class Release(Recipe):
    """Export a checkpoint with its cards, credits and the identifiers of all it learned from."""

    checkpoint: Ref
    """The checkpoint to release."""
    shards: Ref
    """The token shards that it was trained on: their documents become the list of SWHIDs."""
    report: Ref | None = None
    """An evaluation report of the same checkpoint, for the model card."""
    title: str = "cairn model"
    """The name at the head of the model card."""
    verify_tolerance: float = 1e-3
    """Largest difference of fp32 logits between `transformers` and cairn that is accepted."""

    def run(self, work: Work) -> dict[str, Any]:
        from cairn.release.export import release

        return release(self, work)

    def headline(self, facts: dict[str, Any]) -> str:
        return (
            f"{facts['parameters']:,} parameters, {facts['files']:,} files credited, "
            f"{facts['verified']}"
        )


@dataclass(frozen=True, kw_only=True)
class ReleaseIdentifiers(Recipe):
    """What a corpus holds, by identifiers and without contents (The Stack v2's own form)."""

    corpus: Ref
    """The corpus to tell of."""
    title: str = "cairn corpus"
    """The name at the head of the data card."""

    def run(self, work: Work) -> dict[str, Any]:
        """Write data/, repositories.parquet, language_stats.csv and README.md."""
        from cairn.release.identifiers import release_identifiers

        return release_identifiers(self, work)

    def headline(self, facts: dict[str, Any]) -> str:
        """How much is told of."""
        return f"{facts['files']:,} files of {facts['repositories']:,} repositories"
