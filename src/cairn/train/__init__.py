"""Training: the one loop, its settings, and pre-training. Other stages bring other objectives."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cairn.base import Recipe, Ref, UserError, Work
from cairn.base.config import FREE, LATER
from cairn.base.lazy import lazily
from cairn.model.config import ModelConfig
from cairn.tokens.blend import Blend
from cairn.tokens.contexts import Formats
from cairn.train.parallel import Parallel

if TYPE_CHECKING:
    from cairn.train.loop import train
    from cairn.train.objective import Loss, NextToken

_HOMES = {"Loss": "objective", "NextToken": "objective", "train": "loop"}

__all__ = ["Extend", "Loss", "NextToken", "Parallel", "Pretrain", "TrainSettings", "train"]


__getattr__ = lazily(__name__, _HOMES)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How long, how fast and how much at a time: the same for every objective."""

    steps: int = 0
    """Optimizer steps, where `tokens` is 0."""
    tokens: int = field(default=0, metadata={LATER: True})
    """Tokens to train on, whatever `steps` says; the last step is whole."""
    sequences: int = 16
    """Sequences in a micro-batch."""
    sequence_length: int = 256
    """Tokens in a sequence."""
    accumulate: int = 1
    """Micro-batches in a step; the loss is divided once, by all tokens that count in the step."""
    ramp: tuple[int, ...] = field(default=(), metadata={LATER: True})
    """While the batch grows: sequences of the first step, increment, tokens until it is whole."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    min_lr_ratio: float = 0.01
    """Learning rate of the last step, as a share of the peak."""
    schedule: Literal["wsd", "cosine"] = field(default="wsd", metadata={LATER: True})
    """Of the learning rate after the warmup: stable, then down; or down along a cosine."""
    warmup: int = 20
    """Steps over which the learning rate rises from 0."""
    warmup_tokens: int = field(default=0, metadata={LATER: True})
    """The same in tokens, instead of in steps."""
    decay: float = 0.2
    """Share of the steps, at the end, over which it falls (`wsd`)."""
    decay_tokens: int = field(default=0, metadata={LATER: True})
    """The same in tokens, instead of as a share."""
    betas: tuple[float, ...] = (0.9, 0.95)
    """Decay of AdamW's two moments."""
    eps: float = 1e-8
    """Added to the root of AdamW's second moment."""
    weight_decay: float = 0.1
    """Of matrices; norms, biases, A_log, D and dt_bias have none."""
    clip: float = 1.0
    """Largest norm of the gradient of a step; 0 turns clipping off."""
    seed: int = 0
    """Of initialisation and data order."""
    precision: Literal["auto", "fp32", "bf16", "current", "block"] = "auto"
    """Of the matrix products: auto takes bf16 where it is faster; parameters stay fp32. `current`
    and `block` are FP8 by one scale a tensor, or by blocks of 128, inside linear layers."""
    device: str = "auto"
    """Where to compute: auto takes a GPU when there is one."""
    save_every: int = 50
    """Steps between saves from which a killed run continues."""
    skips: int = field(default=3, metadata={LATER: True})
    """Steps in a row that are passed over for a loss or gradient that is a fault."""
    rewinds: int = field(default=1, metadata={LATER: True})
    """After more of them: times that weights go back to the last save; then the run ends."""
    spike: float = field(default=0.0, metadata={LATER: True})
    """Nats over the mean loss of the last 32 steps that are a fault; 0: only what is not finite."""
    watchdog: float = field(default=1800.0, metadata={FREE: True})
    """Seconds that a step may last before the process ends itself; 0 turns it off."""
    recompute: str = field(default="", metadata={FREE: True})
    """Kinds of layers, as in the pattern, that the backward computes again instead of keeping."""
    compile: bool = field(default=False, metadata={FREE: True})
    """Whether torch.compile makes the kernels of feed-forward layers."""
    parallel: Parallel = field(default=Parallel(), metadata={FREE: True})
    """How the processes that `torchrun` starts share the run."""

    def __post_init__(self) -> None:
        if min(self.steps, self.tokens) < 0 or not max(self.steps, self.tokens):
            given = f"steps={self.steps}, tokens={self.tokens}"
            raise UserError(f"{given}: give one of them, 1 or more")
        for name in ("sequences", "accumulate", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(name, getattr(self, name), "is less than one", "take 1 or more")
        if not self.lr > 0:
            raise UserError("lr", self.lr, "is not positive", "1e-3 is usual for small models")
        if not self.eps > 0:
            raise UserError("eps", self.eps, "is not positive", "1e-8 is usual")
        for name in ("clip", "weight_decay", "skips", "rewinds", "spike", "watchdog"):
            if not getattr(self, name) >= 0:
                raise UserError(name, getattr(self, name), "is negative", "0 turns it off")
        for name in ("warmup", "warmup_tokens", "decay_tokens"):
            if getattr(self, name) < 0:
                raise UserError(name, getattr(self, name), "is negative", "take 0 or more")
        self._check_ramp()
        for name in ("decay", "min_lr_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                value = getattr(self, name)
                raise UserError(name, value, "is no share", "take a number from 0 to 1")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError("betas", self.betas, "are not two numbers below 1", "e.g. 0.9,0.95")

    def _check_ramp(self) -> None:
        if not self.ramp:
            return
        full = self.sequences * self.accumulate
        whole = len(self.ramp) == 3 and min(self.ramp) > 0 and self.ramp[0] < full
        if not whole or (full - self.ramp[0]) % self.ramp[1]:
            problem = f"does not grow to the {full} sequences of a step in whole increments"
            raise UserError("ramp", self.ramp, problem, "give first,increment,tokens")


@dataclass(frozen=True, kw_only=True)
class Pretrain(Recipe):
    """Train a model from nothing on token shards, to predict the next token."""

    joint: ClassVar[bool] = True
    shards: Ref | None = None
    """The shards to learn from; their held-out part measures bits per byte."""
    blend: Blend | None = field(default=None, metadata={LATER: True})
    """Instead of `shards`: several of them with weights, in phases."""
    model: ModelConfig | None = None
    """The model's shape; vocab_size=0 takes the tokenizer's."""
    like: Ref | None = None
    """Instead of `model`: take the shape of this checkpoint, and none of its weights."""
    settings: TrainSettings
    """Length, speed and size of training."""
    formats: Formats = field(default_factory=Formats)
    """How files of `shards` are told: repository context and fill-in-the-middle."""
    heldout_files: int = 100
    """Held-out files that are measured, of each shards, before and after."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.like is None):
            raise UserError("give one of model= and like=: the shape, or a checkpoint that has it")
        check_data(self.shards, self.blend)
        check_heldout(self.heldout_files)

    def run(self, work: Work) -> dict[str, Any]:
        from cairn.train.pretrain import pretrain

        return pretrain(self, work)

    def headline(self, facts: dict[str, Any]) -> str:
        return training_headline(facts)


@dataclass(frozen=True, kw_only=True)
class Extend(Recipe):
    """Go on with a checkpoint on longer sequences: the long-context phase (Nano 2, section 2).

    The optimizer begins anew, and a constant rate is `decay=0 warmup=0`: the report takes the floor
    of the schedule before, at four times the length that is served.
    """

    joint: ClassVar[bool] = True
    start: Ref
    """The checkpoint to go on with."""
    shards: Ref | None = None
    """The shards to learn from."""
    blend: Blend | None = None
    """Instead of `shards`: several of them with weights, e.g. with questions on long documents."""
    served: int
    """Context that the model is to serve, in tokens; its sequences are at least as long."""
    rope_theta: float | None = None
    """Base of rotary positions from now on; None keeps it."""
    settings: TrainSettings
    """Length, speed and size of training."""
    formats: Formats = field(default_factory=lambda: Formats(packing="whole"))
    """How files of `shards` are told: repository context and fill-in-the-middle."""
    heldout_files: int = 100
    """Held-out files that are measured, of each shards, before and after."""

    def __post_init__(self) -> None:
        check_data(self.shards, self.blend)
        check_heldout(self.heldout_files)
        length = self.settings.sequence_length
        if not 1 <= self.served <= length:
            mend = "train at the served length or more: four times it as a rule"
            raise UserError("served", self.served, f"is not within sequences of {length}", mend)

    def run(self, work: Work) -> dict[str, Any]:
        from cairn.train.extend import extend

        return extend(self, work)

    def headline(self, facts: dict[str, Any]) -> str:
        return f"{training_headline(facts)}, serves {facts['served']:,} tokens"


def check_data(shards: Ref | None, blend: Blend | None) -> None:
    """UserError where not exactly one of them is given."""
    if (shards is None) == (blend is None):
        raise UserError("give one of shards= and blend=: what to learn from")


def check_heldout(files: int) -> None:
    """UserError for a number of held-out files that measures nothing."""
    if files < 1:
        raise UserError("heldout_files", files, "is less than one", "16 or more tell something")


def training_headline(facts: dict[str, Any]) -> str:
    """Size, tokens and held-out bits per byte of a trained checkpoint."""
    return (
        f"{facts['parameters']:,} parameters, {facts['tokens']:,} tokens, "
        f"{facts['bits_per_byte_before']:.3f} -> {facts['bits_per_byte']:.3f} bits per byte"
    )
