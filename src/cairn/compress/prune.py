"""Pruning: which tensors are cut together, and the recipe around it (Nano 2, section 4).

Norm weights grow by sqrt(old width / new width). RMSNorm divides by the root of a mean over its
width, so without this, cutting channels that are always zero would change the rest; with it, it
does not. Training after pruning is left to distillation.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cairn.base import UserError, Work, write_json
from cairn.compress.importance import (
    WidthScores,
    best,
    best_in_groups,
    least_layers,
    width_scores,
)
from cairn.model import Decoder, ModelConfig, build, load
from cairn.tokens.contexts import Formats
from cairn.tokens.shards import TokenShards
from cairn.tokens.stream import PretrainingStream
from cairn.tokens.tokenizer import Tokenizer
from cairn.train.checkpoint import write_checkpoint
from cairn.train.heldout import evaluator

if TYPE_CHECKING:
    from cairn.compress import Prune

PLAIN = Formats(infilling_rate=0.0)  # calibrate on code as it stands


@dataclass(frozen=True)
class Cut:
    """What is kept, as ascending indices into the parent.

    layers; channels of the residual stream; for each kept layer (numbered as in the parent) its
    neurons, or its Mamba heads and their channels.
    """

    layers: list[int]
    channels: Tensor
    neurons: dict[int, Tensor]
    mamba_heads: dict[int, Tensor]
    mamba_channels: dict[int, Tensor]


def choose(config: ModelConfig, child: ModelConfig, layers: list[int], scores: WidthScores) -> Cut:
    """The most important parts, as many as `child` has of each."""
    return Cut(
        layers=layers,
        channels=best(scores.channels, child.hidden_size),
        neurons={
            layer: best(scores.neurons[layer], child.intermediate_size)
            for layer in layers
            if config.pattern[layer] == "-"
        },
        mamba_heads={
            layer: best_in_groups(scores.mamba_heads[layer], config.groups, child.mamba_heads)
            for layer in layers
            if config.pattern[layer] == "M"
        },
        mamba_channels={
            layer: best(scores.mamba_channels[layer], child.mamba_head_dim)
            for layer in layers
            if config.pattern[layer] == "M"
        },
    )


def child_shape(config: ModelConfig, recipe: "Prune", layers: list[int]) -> ModelConfig:
    """The parent's configuration with the recipe's widths; UserError where one would grow."""
    widths = {}
    for name in ("hidden_size", "intermediate_size", "mamba_heads", "mamba_head_dim"):
        value = getattr(recipe, name)
        if value is None:
            continue
        if value > getattr(config, name):
            problem = f"is more than the parent's {getattr(config, name)}"
            raise UserError(name, value, problem, "pruning only cuts: give less")
        widths[name] = value
    pattern = "".join(config.pattern[layer] for layer in layers)
    return dataclasses.replace(config, pattern=pattern, name="", **widths)


@torch.no_grad()
def prune(parent: Decoder, child_config: ModelConfig, cut: Cut) -> Decoder:
    """A child with the parts of the parent that `cut` keeps."""
    child = build(child_config, device=parent.device, dtype=parent.dtype)
    old, new = parent.config, child_config
    channels = cut.channels
    grow = (old.hidden_size / new.hidden_size) ** 0.5
    stored = dict(parent.named_parameters())
    made: dict[str, Tensor] = {
        "backbone.embeddings.weight": stored["backbone.embeddings.weight"][:, channels],
        "backbone.norm_f.weight": stored["backbone.norm_f.weight"][channels] * grow,
    }
    if not old.tie_embeddings:
        made["lm_head.weight"] = stored["lm_head.weight"][:, channels]
    for place, layer in enumerate(cut.layers):
        there = f"backbone.layers.{layer}."
        here = f"backbone.layers.{place}."
        block = {n.removeprefix(there): p for n, p in stored.items() if n.startswith(there)}
        kept = {"norm.weight": block["norm.weight"][channels] * grow}
        letter = old.pattern[layer]
        if letter == "M":
            kept |= _cut_mamba(block, old, new, cut, layer)
        elif letter == "*":
            kept |= {f"mixer.{q}_proj.weight": block[f"mixer.{q}_proj.weight"] for q in "qkv"}
            kept = {n: t[:, channels] if "_proj" in n else t for n, t in kept.items()}
            kept["mixer.o_proj.weight"] = block["mixer.o_proj.weight"][channels]
        else:
            neurons = cut.neurons[layer]
            up, down = block["mixer.up_proj.weight"], block["mixer.down_proj.weight"]
            kept["mixer.up_proj.weight"] = up[neurons][:, channels]
            kept["mixer.down_proj.weight"] = down[channels][:, neurons]
        made |= {here + name: tensor for name, tensor in kept.items()}
    for name, parameter in child.named_parameters():
        parameter.copy_(made[name])
    return child


def _cut_mamba(
    block: Mapping[str, Tensor], old: ModelConfig, new: ModelConfig, cut: Cut, layer: int
) -> dict[str, Tensor]:
    """Rows of z, x and dt, channels of the convolution, and all per-head parameters together.

    B and C belong to groups, not to heads, and stay whole.
    """
    heads, inside = cut.mamba_heads[layer], cut.mamba_channels[layer]
    inner = (heads[:, None] * old.mamba_head_dim + inside).flatten()  # of z, x and the norm
    width, shared = old.mamba_width, 2 * old.groups * old.state_size
    rest = torch.arange(width, width + shared)  # B and C behind x
    convolved = torch.cat([inner, rest])
    rows = torch.cat([inner, width + convolved, 2 * width + shared + heads])
    grow = (old.mamba_width / new.mamba_width) ** 0.5
    return {
        "mixer.in_proj.weight": block["mixer.in_proj.weight"][rows][:, cut.channels],
        "mixer.conv1d.weight": block["mixer.conv1d.weight"][convolved],
        "mixer.conv1d.bias": block["mixer.conv1d.bias"][convolved],
        "mixer.A_log": block["mixer.A_log"][heads],
        "mixer.D": block["mixer.D"][heads],
        "mixer.dt_bias": block["mixer.dt_bias"][heads],
        "mixer.norm.weight": block["mixer.norm.weight"][inner] * grow,
        "mixer.out_proj.weight": block["mixer.out_proj.weight"][cut.channels][:, inner],
    }


def prune_checkpoint(recipe: "Prune", work: Work) -> dict[str, Any]:
    """Fill `work.out`; returns facts."""
    parent = load(work.input(recipe.start))
    config = parent.config
    if config.family != "nemotron_h":
        mend = "pruning knows the tensors of nemotron_h: start from one"
        raise UserError("start", recipe.start.name, f"is of the family {config.family}", mend)
    if recipe.drop_layers >= config.layers:
        mend = f"keep one at least: give less than {config.layers}"
        raise UserError("drop_layers", recipe.drop_layers, "leaves no layer", mend)
    child_shape(config, recipe, list(range(config.layers)))  # refuse before long work
    shards = work.input(recipe.shards)
    tokenizer = Tokenizer.load(shards)
    windows = calibration(shards, tokenizer, recipe)
    dropped = least_layers(parent, windows, recipe.drop_layers)
    gone = {int(entry["layer"]) for entry in dropped}
    layers = [layer for layer in range(config.layers) if layer not in gone]
    child_config = child_shape(config, recipe, layers)
    scores = width_scores(parent, windows)
    cut = choose(config, child_config, layers, scores)
    child = prune(parent, child_config, cut)
    write_checkpoint(child, tokenizer, work.out)
    write_json(work.out / "ranking.json", _ranking(dropped, cut))
    evaluate = evaluator({recipe.shards.name: shards}, recipe.heldout_files)
    return {
        "parameters": child_config.parameters,
        "parameters_of_parent": config.parameters,
        "removed_share": round(1 - child_config.parameters / config.parameters, 4),
        "pattern": child_config.pattern,
        "bits_per_byte": evaluate(child)["bits_per_byte"],
        "bits_per_byte_of_parent": evaluate(parent)["bits_per_byte"],
    }


def calibration(shards: Path, tokenizer: Tokenizer, recipe: "Prune") -> list[Tensor]:
    """Windows of training text, each int64 [T]."""
    training = TokenShards.open(shards / "train")
    stream = PretrainingStream(training, tokenizer, recipe.window_tokens, recipe.seed, PLAIN)
    batch = stream.batch(range(recipe.windows))
    return list(torch.from_numpy(batch.tokens).split(recipe.window_tokens))


def _ranking(dropped: list[dict[str, float | int]], cut: Cut) -> dict[str, Any]:
    """What was kept and why, for people and for other tools."""
    return {
        "dropped_layers": dropped,
        "kept_layers": cut.layers,
        "kept_channels": cut.channels.tolist(),
        "kept_neurons": {str(layer): t.tolist() for layer, t in cut.neurons.items()},
        "kept_mamba_heads": {str(layer): t.tolist() for layer, t in cut.mamba_heads.items()},
        "kept_mamba_channels": {str(layer): t.tolist() for layer, t in cut.mamba_channels.items()},
    }
