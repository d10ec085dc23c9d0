"""What an engine may be told about reuse and speculation. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cairn.base import UserError

if TYPE_CHECKING:
    from cairn.model import Decoder


@dataclass(frozen=True, kw_only=True)
class Caching:
    """What is kept of computed prefixes for requests that begin alike."""

    prefixes: bool = True
    """Whether anything is kept."""
    every: int | None = None
    """Keep the recurrent state at every multiple of so many tokens too; None keeps it only at
    distances from both ends of a prompt that double, and at the ends of turns."""
    states: int | None = None
    """Most recurrent states to keep; None is a quarter of the engine's memory."""
    host_bytes: int = 0
    """Keys and values that are evicted from the pool go to the host's memory, up to this much."""
    disk: str | Path | None = None
    """A folder in which prefixes survive a restart, one subfolder a model; None keeps none."""
    disk_bytes: int = 16 * 2**30
    """Most bytes there, over all subfolders of this model."""
    swap_bytes: int = 2**30
    """Memory of preempted sequences that is moved to the host instead of being computed again."""

    check: int | None = None
    """Compute every so many answers that began with cached tokens again without, and compare."""

    def __post_init__(self) -> None:
        for field in ("check", "every", "states", "host_bytes", "disk_bytes", "swap_bytes"):
            value = getattr(self, field)
            if value is not None and (not isinstance(value, int) or value < 0):
                raise UserError(field, value, "is no number of 0 or more", "write it in digits")
        if self.disk is not None and not self.prefixes:
            raise UserError("disk", str(self.disk), "would stay empty: no prefixes are kept")
        if self.check is not None and not self.prefixes:
            problem = "has nothing to compare: no prefixes are kept"
            mend = "leave it out, or keep prefixes (without --invariant)"
            raise UserError("check (--self-check)", self.check, problem, mend)
        for field in ("check", "every"):
            if getattr(self, field) == 0:
                raise UserError(field, 0, "is no distance", "leave it out")


@dataclass(frozen=True, kw_only=True)
class Speculation:
    """How the next tokens are guessed, to be verified in one pass. Tokens are the same without,
    but for narrow states, which are rounded once for all that pass together."""

    most: int = 4
    """Tokens that are guessed at a time; fewer where guesses turn out wrong."""
    model: "str | Path | Decoder | None" = None
    """A small model that guesses, with the same tokenizer; None looks the last tokens up in the
    prompt and in what was drawn."""

    def __post_init__(self) -> None:
        if not isinstance(self.most, int) or self.most < 1:
            raise UserError("most", self.most, "is no number of tokens", "4 is usual")
