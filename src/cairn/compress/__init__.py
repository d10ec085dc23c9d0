"""Compression: what matters least is cut out, and a teacher makes good the loss."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from cairn.base import Recipe, Ref, UserError, Work
from cairn.tokens.contexts import Formats
from cairn.train import TrainSettings, check_heldout


@dataclass(frozen=True, kw_only=True)
class Prune(Recipe):
    """Cut a checkpoint down to a smaller shape by the importance of its parts (Minitron)."""

    start: Ref
    """The checkpoint to cut."""
    shards: Ref
    """Its training data: calibration windows, and held-out files to measure on."""
    drop_layers: int = 0
    """Layers to remove, whatever their kind: each time the one whose loss moves logits least."""
    hidden_size: int | None = None
    """Width of the residual stream to keep; None keeps all."""
    intermediate_size: int | None = None
    """Neurons of each feed-forward layer to keep; None keeps all."""
    mamba_heads: int | None = None
    """Mamba-2 heads to keep, as many in each group; None keeps all."""
    mamba_head_dim: int | None = None
    """Channels of each Mamba-2 head to keep, the same in all heads; None keeps all."""
    windows: int = 64
    """Calibration windows."""
    window_tokens: int = 256
    """Tokens in a calibration window."""
    heldout_files: int = 100
    """Held-out files on which parent and child are measured."""
    seed: int = 0
    """Of the choice of calibration windows."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "intermediate_size", "mamba_heads", "mamba_head_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(name, value, "is less than one", "give what to keep")
        for name in ("windows", "window_tokens"):
            if getattr(self, name) < 1:
                raise UserError(name, getattr(self, name), "is less than one", "take 64")
        check_heldout(self.heldout_files)
        if self.drop_layers < 0:
            raise UserError("drop_layers", self.drop_layers, "is negative", "take 0 or more")

    def run(self, work: Work) -> dict[str, Any]:
        from cairn.compress.prune import prune_checkpoint

        return prune_checkpoint(self, work)

    def headline(self, facts: dict[str, Any]) -> str:
        return (
            f"{facts['parameters']:,} of {facts['parameters_of_parent']:,} parameters "
            f"(-{facts['removed_share']:.0%}), {facts['bits_per_byte']:.3f} bits per byte "
            f"(parent {facts['bits_per_byte_of_parent']:.3f})"
        )


@dataclass(frozen=True, kw_only=True)
class Distill(Recipe):
    """Train a student to give its teacher's probabilities: forward KL of the logits."""

    joint: ClassVar[bool] = True
    start: Ref
    """The student's checkpoint, e.g. a pruned one."""
    teacher: Ref
    """The checkpoint whose probabilities it learns."""
    shards: Ref
    """The text on which both are asked."""
    settings: TrainSettings
    """Length, speed and size of training."""
    formats: Formats = field(default_factory=Formats)
    """How files are told: repository context and fill-in-the-middle."""
    temperature: float = 1.0
    """Both logits are divided by it."""
    cross_entropy: float = 0.0
    """Weight of the cross-entropy with the text itself, beside a KL of weight 1."""
    heldout_files: int = 100
    """Held-out files that are measured, before and after."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError("temperature", self.temperature, "is not positive", "1.0 is usual")
        check_heldout(self.heldout_files)
        if self.cross_entropy < 0:
            raise UserError("cross_entropy", self.cross_entropy, "is negative", "take 0 or more")

    def run(self, work: Work) -> dict[str, Any]:
        from cairn.compress.distill import distill

        return distill(self, work)

    def headline(self, facts: dict[str, Any]) -> str:
        return (
            f"{facts['parameters']:,} parameters, {facts['tokens']:,} tokens, "
            f"{facts['bits_per_byte_before']:.3f} -> {facts['bits_per_byte']:.3f} bits per byte "
            f"(teacher {facts['bits_per_byte_of_teacher']:.3f})"
        )
