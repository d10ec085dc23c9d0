"""A training step over many GPUs on paper: memory by part, bytes over links, time. No torch.

docs/training.md ("The cost model") states every formula with its reason. Sizes of parameters follow
from the shapes and are exact; activations are those that the mixers' fused kernels keep; times come
from rates of the device's data sheet and the shares of them below.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from cairn.base import UserError
from cairn.model import counts
from cairn.model.config import ModelConfig
from cairn.model.devices import Device
from cairn.model.shapes import parameter_shapes
from cairn.model.sharding import share_of
from cairn.train import TrainSettings
from cairn.train.batches import samples_of, total_steps
from cairn.train.parallel import Parallel

FP32, NARROW = 4, 2  # bytes of parameters, gradients and moments; of what the mixers keep
MATMUL_SHARE = 0.70  # of the peak rate: a bf16 product of 8,192 on an H200 (docs/performance.md)
FP8_GAIN = 1.45  # of the same products in 8 bits, casts and scales included: an assumption
ATTENTION_SHARE = 0.35  # of the peak rate: 0.40 forward on an H200, less backward
MEMORY_SHARE = 0.89  # of the memory's rate: a copy on an H200
PASSES = 9.5  # times that what a layer keeps is read or written: fits ten layers of the 8B there
LINK_SHARE = 0.8  # of a link's rate, in collectives: an assumption
NODE = 8  # GPUs that the fast link joins


@dataclass(frozen=True)
class Step:
    """What is computed: a model on a step of the settings, in a layout, on a kind of device."""

    config: ModelConfig
    settings: TrainSettings
    layout: Parallel
    device: Device
    recompute: str = ""
    """Kinds of layers of which only the input is kept."""

    def __post_init__(self) -> None:
        if not self.layout.shard:
            raise UserError("shard", 0, "is the rest of no number of ranks", "give it")
        if self.sequences % self.readers:
            problem = f"do not share the {self.sequences} sequences of a step evenly"
            raise UserError("readers", self.readers, problem, "take a divisor of it")

    @property
    def gpus(self) -> int:
        """Of the layout."""
        return self.readers * self.layout.context * self.layout.tensor

    @property
    def readers(self) -> int:
        """Groups of ranks that read other samples than each other."""
        return self.layout.data * self.layout.shard

    @property
    def sharers(self) -> int:
        """Ranks over which the parameters of a copy are cut (FSDP): who shares a sequence too."""
        return self.layout.shard * self.layout.context

    @property
    def sequences(self) -> int:
        """Of a whole step, after the ramp."""
        return len(samples_of(self.settings, total_steps(self.settings)))

    @property
    def micro_sequences(self) -> int:
        """Of one forward on one rank."""
        return min(self.settings.sequences, self.sequences // self.readers)

    @property
    def micro_batches(self) -> int:
        """Forwards of one rank in a step."""
        return -(-self.sequences // self.readers // self.micro_sequences)

    @property
    def micro_tokens(self) -> float:
        """Tokens of one forward on a rank, before tensor ranks share what lies between mixers."""
        length = self.settings.sequence_length
        return self.micro_sequences * length / self.layout.context

    @property
    def rate(self) -> float:
        """Peak FLOP/s that MFU is measured by: of bf16 products, but for fp32."""
        return self.device.rate("float32" if self.settings.precision == "fp32" else "bfloat16")

    @property
    def share(self) -> ModelConfig:
        """One tensor rank's share of the model."""
        return share_of(self.config, self.layout.tensor, copy_groups=True)


def local_elements(step: Step) -> dict[str, tuple[int, int]]:
    """By layer and root: elements that a tensor rank has, and those that its fullest FSDP rank
    keeps (rows are dealt in equal runs, as FSDP2 does)."""
    return _elements(step.share, step.sharers, step.layout.tensor)


@lru_cache
def _elements(share: ModelConfig, sharers: int, ranks: int) -> dict[str, tuple[int, int]]:
    found = {}
    for group, shapes in parameter_shapes(share):
        whole = kept = 0
        for name, (rows, *rest) in shapes.items():
            if name in ("backbone.embeddings.weight", "lm_head.weight"):
                rows = -(-rows // ranks)
            row = 1
            for size in rest:
                row *= size
            whole += rows * row
            kept += -(-rows // sharers) * row
        found[group] = (whole, kept)
    return found


def memory(step: Step) -> dict[str, float]:
    """Bytes on the fullest GPU, by part."""
    elements = local_elements(step)
    kept = sum(own for _, own in elements.values())
    root = elements["root"][0]
    layer = max(whole for group, (whole, _) in elements.items() if group != "root")
    gathered = FP32 * (2 * (root + layer) + layer) if step.sharers > 1 else 0
    config, tokens, ranks = step.config, step.micro_tokens, step.layout.tensor
    logits = min(2**28, tokens * config.vocab_size / ranks) * NARROW
    loss = logits + NARROW * tokens * config.hidden_size
    return {
        "parameters": FP32 * kept,
        "gradients": FP32 * kept,
        "optimizer": 2 * FP32 * kept,
        "gathered layers and their gradients": gathered,
        "matrices cast for the backward": NARROW * cast_elements(step),
        "activations": tokens * sum(kept_bytes(step, letter) for letter in config.pattern),
        "loss": loss,
    }


def cast_elements(step: Step) -> int:
    """Elements of matrices whose copies in bf16 autograd keep until the backward: those of a tensor
    rank's layers, but for kinds that are computed again, and in fp32 none."""
    if step.settings.precision == "fp32":
        return 0
    return _matrices(step.share, step.recompute)


@lru_cache
def _matrices(share: ModelConfig, recompute: str) -> int:
    return sum(
        shape[0] * shape[1]
        for letter, (_, shapes) in zip(share.pattern, parameter_shapes(share), strict=False)
        if letter not in recompute
        for shape in shapes.values()
        if len(shape) == 2
    )


def kept_bytes(step: Step, letter: str) -> float:
    """Bytes a token that a layer keeps for the backward pass, or its input alone."""
    if letter in step.recompute:
        return FP32 * step.config.hidden_size / step.layout.tensor
    return made_bytes(step, letter)


def made_bytes(step: Step, letter: str) -> float:
    """Bytes a token that the backward pass of a layer needs, on one tensor rank.

    The residual stream is fp32, cut over tensor ranks; what the mixer keeps
    is in bf16, or in fp32 where all is.
    """
    d, ranks, config = step.config.hidden_size, step.layout.tensor, step.share
    outside = FP32 * d / ranks
    element = FP32 if step.settings.precision == "fp32" else NARROW
    gathered = element * d  # the mixer's input, of all tensor ranks' tokens
    if letter == "M":
        width, channels = config.mamba_width, config.conv_channels
        states = element * width * config.state_size / config.chunk_size
        inside = element * (config.mamba_projection + channels + 2 * width) + states
    elif letter == "*":
        q, kv = config.query_width, config.key_value_width
        inside = element * (2 * q + 2 * kv) + FP32 * config.attention_heads
    else:
        inside = element * (2 + config.gated) * config.intermediate_size
    return outside + gathered + inside


def traffic(step: Step) -> dict[str, dict[str, float]]:
    """Bytes that one GPU receives in a step, by link (`node`, `network`) and by what they are.

    Parameters are gathered for the forward and again for the backward of every micro-batch (the
    root once), in fp32; gradients are summed to their rank once each; copies of the model add one
    all-reduce; tensor ranks gather and scatter tokens around each mixer, in both directions;
    context ranks pass keys, values and states.
    """
    layout, times = step.layout, step.micro_batches
    elements = local_elements(step)
    root = FP32 * elements["root"][0]
    layers = FP32 * sum(whole for group, (whole, _) in elements.items() if group != "root")
    kept = FP32 * sum(own for _, own in elements.values())
    far = (step.sharers - 1) / step.sharers
    found: dict[str, dict[str, float]] = {"node": {}, "network": {}}

    def add(what: str, ranks: int, stride: int, size: float) -> None:
        if ranks > 1:
            found["node" if ranks * stride <= NODE else "network"][what] = size

    add("gather parameters", step.sharers, layout.tensor, times * far * (2 * layers + root))
    add("scatter gradients", step.sharers, layout.tensor, times * far * (layers + root))
    stride = layout.tensor * step.sharers
    add("sum copies", layout.data, stride, 2 * times * kept * (layout.data - 1) / layout.data)
    tokens = times * step.micro_tokens
    cut = (layout.tensor - 1) / layout.tensor
    passed = 4 * step.config.layers + 4  # each mixer, embedding and output matrix
    add("pass tokens", layout.tensor, 1, passed * tokens * step.config.hidden_size * FP32 * cut)
    keys = 2 * step.share.key_value_width * NARROW * step.config.count("*")
    states = counts.state_bytes(step.share) * step.micro_sequences * times
    over = tokens * (layout.context - 1) * keys
    add("pass keys and states", layout.context, layout.tensor, 2 * (over + states))
    return found


def times(step: Step) -> dict[str, float]:
    """Seconds of one step, by what is waited for; `whole` is their sum.

    Gathering and summing parameters goes on beside the computation, and only what is longer counts;
    tokens that are passed between tensor and context ranks are waited for.
    """
    config, length = step.config, step.settings.sequence_length
    tokens = step.sequences * length / step.gpus
    again = sum(_forward(step, letter) for letter in config.pattern if letter in step.recompute)
    forward = counts.matmul_flops(config)
    products = tokens * (3 * forward + again)
    fp8 = FP8_GAIN if step.settings.precision in ("current", "block") else 1.0
    attention = 3 * tokens * counts.prefill_attention_flops(config, length)
    kept = step.micro_batches * step.micro_tokens
    moved = kept * sum(
        made_bytes(step, letter) * (4 / 3 if letter in step.recompute else 1)
        for letter in config.pattern
    )
    elements = local_elements(step)
    cast = 0 if step.settings.precision == "fp32" else FP32 + NARROW
    moved *= PASSES
    moved += step.micro_batches * cast * sum(whole for whole, _ in elements.values())
    links = traffic(step)
    busy = {
        "matrix products": products / (step.rate * MATMUL_SHARE * fp8),
        "attention": attention / (step.rate * ATTENTION_SHARE),
        "bound by memory": moved / (step.device.bandwidth * MEMORY_SHARE),
    }
    waited = {"passing tokens": 0.0, "parameters and gradients": 0.0}
    for link, whats in links.items():
        rate = LINK_SHARE * (step.device.link if link == "node" else step.device.network)
        for what, size in whats.items():
            kind = "passing tokens" if what.startswith("pass") else "parameters and gradients"
            waited[kind] += size / rate if rate else float("inf")
    beside = waited.pop("parameters and gradients")
    over = max(0.0, beside - sum(busy.values()))
    kept_here = sum(own for _, own in elements.values())
    optimizer = 7 * FP32 * kept_here / (step.device.bandwidth * MEMORY_SHARE)
    found = busy | waited | {"parameters and gradients, uncovered": over, "optimizer": optimizer}
    return found | {"whole": sum(found.values())}


def _forward(step: Step, letter: str) -> float:
    """Forward FLOPs of a token in one layer's products."""
    config = step.config
    d = config.hidden_size
    if letter == "M":
        return 2 * (d * config.mamba_projection + config.mamba_width * d)
    if letter == "*":
        return 4 * d * (config.query_width + config.key_value_width)
    return 2 * (2 + config.gated) * d * config.intermediate_size


def mfu(step: Step, seconds: float) -> float:
    """Model FLOPs of a step by its time and the GPUs' peak rate."""
    length = step.settings.sequence_length
    flops = step.sequences * length * counts.training_flops(step.config, length)
    return flops / (seconds * step.rate * step.gpus)


def facts(step: Step) -> dict[str, Any]:
    """All of it as JSON values."""
    held, spent = memory(step), times(step)
    seconds = spent["whole"]
    steps = total_steps(step.settings)
    return {
        "device": step.device.name,
        "gpus": step.gpus,
        "layout": {k: getattr(step.layout, k) for k in ("data", "shard", "context", "tensor")},
        "recompute": step.recompute,
        "micro_batches": step.micro_batches,
        "micro_sequences": step.micro_sequences,
        "memory_bytes": held | {"whole": sum(held.values())},
        "fits": sum(held.values()) <= 0.92 * step.device.memory,
        "link_bytes": traffic(step),
        "seconds": spent,
        "mfu": mfu(step, seconds),
        "tokens_per_second": step.sequences * step.settings.sequence_length / seconds,
        "days": seconds * steps / 86_400,
        "gpu_days": seconds * steps * step.gpus / 86_400,
    }


def best_layout(config: ModelConfig, settings: TrainSettings, gpus: int, device: Device) -> Step:
    """The layout of so many GPUs that takes the least time by this model among those that fit.

    Where the settings say how ranks share (`parallel`), that stays. UserError for a number that it
    does not make, or that shares no batch evenly.
    """
    said = settings.parallel
    if said != Parallel():
        layout = replace(said, shard=said.shards(gpus))
        return Step(config, settings, layout, device, settings.recompute)
    found: list[tuple[bool, float, float, int, Step]] = []
    for layout in _layouts(gpus):
        for recompute in ("", "-", "M-", "M*-"):
            try:
                step = Step(config, settings, layout, device, recompute)
                told = facts(step)
            except UserError:
                continue
            size = told["memory_bytes"]["whole"]
            late = told["seconds"]["whole"] if told["fits"] else size
            found.append((not told["fits"], late, size, len(found), step))
    if not found:
        mend = "take a number whose divisors divide them"
        raise UserError("gpus", gpus, "share no step's sequences evenly", mend)
    return min(found, key=lambda one: one[:4])[-1]


def _layouts(gpus: int) -> list[Parallel]:
    """Layouts worth comparing: tensor inside a node, one copy or copies of whole nodes."""
    found = []
    for tensor in (1, 2, 4, 8):
        for context in (1, 2, 4, 8, 16, 32):
            left, over = divmod(gpus, tensor * context)
            if over or not left:
                continue
            sizes = {left} | {s for s in (8, 16, 32, 64, 128) if left % s == 0}
            found += [
                Parallel(data=left // shard, shard=shard, context=context, tensor=tensor)
                for shard in sorted(sizes)
            ]
    return found
