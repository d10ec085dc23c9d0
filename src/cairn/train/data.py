"""From a recipe's shards or blend to the stream that the loop reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cairn.base import Ref, Work
from cairn.tokens.blend import Blend, Component
from cairn.tokens.contexts import Formats
from cairn.tokens.mixing import BlendStream
from cairn.tokens.shards import TokenShards
from cairn.tokens.stream import PretrainingStream
from cairn.tokens.tokenizer import Tokenizer
from cairn.train.batches import total_samples

if TYPE_CHECKING:
    from cairn.train import TrainSettings


def blend_of(shards: Ref | None, blend: Blend | None, formats: Formats) -> Blend:
    """The blend, or one of a single corpus."""
    if blend is not None:
        return blend
    assert shards is not None
    return Blend(components=(Component(shards=shards, formats=formats),))


def folders_of(blend: Blend, work: Work) -> dict[str, Path]:
    """The shards' folders by name, in the blend's order."""
    return {one.shards.name: work.input(one.shards) for one in blend.components}


def open_blend(
    blend: Blend, folders: Mapping[str, Path], tokenizer: Tokenizer, settings: "TrainSettings"
) -> BlendStream:
    """The stream of the training parts. UserError where another tokenizer wrote one of them."""
    parts = [
        PretrainingStream(
            TokenShards.open(folders[one.shards.name] / "train"),
            tokenizer,
            settings.sequence_length,
            settings.seed,
            one.formats,
        )
        for one in blend.components
    ]
    return BlendStream(blend, parts, total_samples(settings), settings.seed)


def told(stream: BlendStream) -> list[dict[str, Any]]:
    """What a run's facts say of its data: by component, the share wanted and got in each phase,
    samples, tokens and epochs over the run."""
    seen, found = stream.seen(stream.samples), []
    for number, component in enumerate(stream.blend.components):
        name = component.shards.name
        shares = [
            {
                "wanted": round(stream.blend.shares(phase)[number], 6),
                "planned": round(one.shares[number], 6),
            }
            for phase, one in enumerate(stream.phases)
        ]
        part = stream.parts[number]
        tokens = int(seen[name]["samples"] * part.sequence_length)
        found.append({"shards": name, "phases": shares, **seen[name], "tokens": tokens})
    return found
