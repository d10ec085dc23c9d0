"""What matters least: importance from activations on calibration windows (Nano 2, section 4.1).

Legend: T tokens, D width, F neurons, H Mamba heads, P their width, G groups.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cairn.base import progress
from cairn.model import Decoder, Spans
from cairn.model.feedforward import MLP
from cairn.model.mamba import Mamba2
from cairn.model.norms import RMSNorm

Window = Tensor  # int64 [T]: the tokens of one calibration sequence


@dataclass(frozen=True)
class WidthScores:
    """Higher matters more.

    channels [D]: of the residual stream, over all norms
    neurons:       layer -> [F]
    mamba_heads:   layer -> [H]; mamba_channels: layer -> [P]
    """

    channels: Tensor
    neurons: dict[int, Tensor]
    mamba_heads: dict[int, Tensor]
    mamba_channels: dict[int, Tensor]


@torch.inference_mode()
def width_scores(model: Decoder, windows: Sequence[Window]) -> WidthScores:
    """Mean over a window's tokens of |activation|, then the L2 norm over windows.

    A residual channel is scored by what the norms put out, summed over them; a neuron by what
    enters the down projection; Mamba heads and channels by the x part of in_proj's output, squared
    and summed over the other of the two.
    """
    squares: dict[tuple[str, int], Tensor] = {}

    def add(kind: str, layer: int) -> Callable[[Tensor], None]:
        def take(activation: Tensor) -> None:  # [T, width]
            seen = activation.double().abs().mean(0).square()
            key = (kind, layer)
            squares[key] = squares[key] + seen if key in squares else seen

        return take

    with _watched(model, add):
        for window in windows:
            model.hidden(window, Spans.of([len(window)]))
    config = model.config
    norms = [value.sqrt() for (kind, _), value in sorted(squares.items()) if kind == "norm"]
    inner = {
        layer: value.view(config.mamba_heads, config.mamba_head_dim)
        for (kind, layer), value in squares.items()
        if kind == "x"
    }
    return WidthScores(
        channels=torch.stack(norms).sum(0),
        neurons={layer: v.sqrt() for (kind, layer), v in squares.items() if kind == "neurons"},
        mamba_heads={layer: value.sum(1).sqrt() for layer, value in inner.items()},
        mamba_channels={layer: value.sum(0).sqrt() for layer, value in inner.items()},
    )


@contextmanager
def _watched(model: Decoder, add: Callable[[str, int], Callable[[Tensor], None]]) -> Iterator[None]:
    """Forward hooks on norms, in_proj and down_proj, for as long as the block lasts."""
    hooks = [_on_output(model.backbone.norm_f, add("norm", -1))]
    for number, block in enumerate(model.backbone.layers):
        assert isinstance(block.norm, RMSNorm)
        hooks.append(_on_output(block.norm, add("norm", number)))
        mixer = block.mixer
        if isinstance(mixer, MLP):
            hooks.append(_on_input(mixer.down_proj, add("neurons", number)))
        elif isinstance(mixer, Mamba2):
            width = model.config.mamba_width
            hooks.append(_on_output(mixer.in_proj, add("x", number), slice(width, 2 * width)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _on_output(
    module: nn.Module, take: Callable[[Tensor], None], part: slice = slice(None)
) -> torch.utils.hooks.RemovableHandle:
    def heard(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        take((output if isinstance(output, Tensor) else output[0])[..., part])

    return module.register_forward_hook(heard)


def _on_input(
    module: nn.Module, take: Callable[[Tensor], None]
) -> torch.utils.hooks.RemovableHandle:
    return module.register_forward_pre_hook(lambda _m, inputs: take(inputs[0]))


@contextmanager
def without_layers(model: Decoder, dropped: set[int]) -> Iterator[None]:
    """The model with some layers passed over, for as long as the block lasts."""
    whole = model.backbone.layers
    kept = [block for number, block in enumerate(whole) if number not in dropped]
    model.backbone.layers = nn.ModuleList(kept)
    try:
        yield
    finally:
        model.backbone.layers = whole


@torch.inference_mode()
def least_layers(
    model: Decoder, windows: Sequence[Window], count: int
) -> list[dict[str, float | int]]:
    """The `count` layers to drop, in order, each with the error that its loss brings.

    Each round tries every remaining layer and drops the one without which the logits differ least
    (mean squared error) from those of the whole model. Rounds * layers * windows forwards.
    """
    truth = [model(window, Spans.of([len(window)])) for window in windows]
    dropped: list[dict[str, float | int]] = []
    with progress("layer importance", total=count * model.config.layers, unit="layers") as bar:
        for _ in range(count):
            gone = {int(entry["layer"]) for entry in dropped}
            errors = {}
            for layer in range(model.config.layers):
                if layer not in gone:
                    with without_layers(model, gone | {layer}):
                        errors[layer] = _logit_error(model, windows, truth)
                bar.advance(1)
            least = min(errors, key=lambda layer: (errors[layer], layer))
            dropped.append({"layer": least, "mse": errors[least]})
    return dropped


def _logit_error(model: Decoder, windows: Sequence[Window], truth: Sequence[Tensor]) -> float:
    total, count = 0.0, 0
    for window, expected in zip(windows, truth, strict=True):
        found = model(window, Spans.of([len(window)]))
        total += (found - expected).double().square().sum().item()
        count += expected.numel()
    return total / count


def best(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest scores, ascending; ties go to the lower index."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:count].sort().values


def best_in_groups(scores: Tensor, groups: int, count: int) -> Tensor:
    """Indices of the `count` highest scores, as many in each of `groups` equal runs, ascending."""
    size, each = len(scores) // groups, count // groups
    runs = [best(scores[g * size : (g + 1) * size], each) + g * size for g in range(groups)]
    return torch.cat(runs)
