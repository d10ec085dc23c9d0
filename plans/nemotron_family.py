"""What the plans of the Nemotron family share: corpora with weights by phase, to one model.

Not a plan. `life` gives the artifacts; at `scale="tiny"` every corpus is this machine's own
`rich`, the model has six small layers, and the run six steps of the same law.
"""

from dataclasses import dataclass, replace

from cairn.align import AskDocuments
from cairn.base import Recipe, Ref
from cairn.curate import Curate
from cairn.model import ModelConfig
from cairn.tokens import Blend, Component, Formats, LearnTokenizer, Tokenize
from cairn.train import Extend, Pretrain, TrainSettings
from cairn.train.shrink import shrunk_blend, shrunk_model, shrunk_settings

PLAIN = Formats(infilling_rate=0.0, metadata_rate=0.0)
WHOLE = Formats(infilling_rate=0.0, metadata_rate=0.0, packing="whole", context_tokens=524_288)


@dataclass(frozen=True)
class Corpus:
    """One corpus: what it is read from, and its weight in each phase."""

    sources: tuple[str, ...]
    weights: tuple[float, ...]
    max_epochs: float = 0.0


@dataclass(frozen=True)
class LongPhase:
    """The long-context phase: from the last phase's blend, and questions on long documents."""

    settings: TrainSettings
    served: int
    asked: str
    """The corpus whose long documents are asked about."""
    questions: float = 0.2
    """Their share."""


def life(
    scale: str,
    corpora: dict[str, Corpus],
    switches: tuple[float, ...],
    model: ModelConfig,
    settings: TrainSettings,
    long: LongPhase | None = None,
) -> dict[str, Recipe]:
    """Corpora, tokenizer, shards, base model and, if told, the long-context phase."""
    tiny = scale == "tiny"
    plan: dict[str, Recipe] = {}
    parents = {name: Ref("corpus" if tiny else name) for name in corpora}
    if tiny:
        plan["corpus"] = Curate(sources=("python:rich",))
    else:
        plan |= {name: Curate(sources=one.sources) for name, one in corpora.items()}
    first = next(iter(parents.values()))
    plan["words"] = LearnTokenizer(corpus=first, vocab_size=512 if tiny else model.vocab_size)
    for place, name in enumerate(corpora):
        heldout = (0.0 if place else 0.1) if tiny else 0.0005  # in small, one is measured
        plan[f"{name}_tokens"] = Tokenize(
            corpus=parents[name], tokenizer=Ref("words"), heldout=heldout
        )
    blend = Blend(
        components=tuple(
            Component(
                shards=Ref(f"{name}_tokens"),
                weights=one.weights,
                max_epochs=one.max_epochs,
                formats=PLAIN,
            )
            for name, one in corpora.items()
        ),
        switches=switches,
    )
    heldout_files = 1 if tiny else 100
    plan["base"] = Pretrain(
        model=shrunk_model(model) if tiny else model,
        blend=shrunk_blend(blend) if tiny else blend,
        settings=shrunk_settings(settings, 6) if tiny else settings,
        heldout_files=heldout_files,
    )
    if long is None:
        return plan
    small = {"minimum_tokens": 400, "maximum_tokens": 2_000, "chunk_tokens": 64, "sampled": 0.5}
    plan["questions"] = AskDocuments(shards=Ref(f"{long.asked}_tokens"), **(small if tiny else {}))
    last = tuple(
        replace(
            one,
            weights=(share * (1 - long.questions),),
            formats=replace(WHOLE, context_tokens=2_000) if tiny else WHOLE,
            max_epochs=0.0,
        )
        for one, share in zip(blend.components, blend.shares(len(switches)), strict=True)
    )
    asked = Component(shards=Ref("questions"), weights=(long.questions,), formats=last[0].formats)
    served = 64 if tiny else long.served
    plan["long"] = Extend(
        start=Ref("base"),
        blend=Blend(components=(*last, asked)),
        served=served,
        settings=shrunk_settings(long.settings, 3, 2, 4 * served) if tiny else long.settings,
        heldout_files=heldout_files,
    )
    return plan
