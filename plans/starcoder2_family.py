"""What the three StarCoder2 plans share (arXiv 2402.19173). Not a plan.

One corpus of all sources at their natural sizes, told with repository context and fill-in-the-
middle; 4,096 tokens with a cosine, then 200B tokens at 16,384 with another base of rotary
positions.
"""

from dataclasses import replace

from cairn.base import Recipe, Ref
from cairn.curate import Curate
from cairn.model import ModelConfig
from cairn.tokens import Formats, LearnTokenizer, Tokenize
from cairn.train import Extend, Pretrain, TrainSettings
from cairn.train.shrink import shrunk_model, shrunk_settings

SOURCES = (
    "swh:data/swh-2023-09-06?objects=data/objects",
    "gharchive:data/gharchive",
    "kaggle:data/kaggle",
    "docs:data/documentation",
    "pairs:data/intermediate",
    "stackexchange:data/stackoverflow",
    "text:data/arxiv?name=arxiv",
    "text:data/wikipedia?name=wikipedia",
    "text:data/openwebmath?name=openwebmath",
    "text:data/lhq?name=lhq",
)
FORMATS = Formats(
    context_tokens=16_384,
    metadata_rate=0.5,
    infilling_rate=0.5,
    file_infilling_rate=0.5,
    spm_rate=0.5,
)
LONG_TOKENS = 200_000_000_000


def life(
    scale: str,
    preset: str,
    steps: int,
    sequences: int,
    long_lr: float,
    first_theta: float,
) -> dict[str, Recipe]:
    """Corpus, tokenizer, shards, base and long; a step has `sequences` of 4,096 tokens."""
    tiny = scale == "tiny"
    released = ModelConfig.preset(preset)
    model = replace(released, rope_theta=first_theta, max_positions=4096)
    settings = TrainSettings(
        steps=steps,
        sequences=4,
        accumulate=sequences // 4,
        sequence_length=4096,
        schedule="cosine",
        lr=3e-4,
        min_lr_ratio=0.1,
        warmup=1000,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.1,
        precision="bf16",
        save_every=1000,
    )
    long = replace(
        settings,
        steps=0,
        tokens=LONG_TOKENS,
        sequences=1,
        accumulate=sequences // 4,
        sequence_length=16_384,
        lr=long_lr,
    )
    served = 64 if tiny else released.max_positions
    plan: dict[str, Recipe] = dict(
        corpus=Curate(sources=("python:rich",) if tiny else SOURCES),
        words=LearnTokenizer(corpus=Ref("corpus"), vocab_size=512 if tiny else model.vocab_size),
        shards=Tokenize(
            corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.1 if tiny else 0.0005
        ),
        base=Pretrain(
            model=shrunk_model(model) if tiny else model,
            shards=Ref("shards"),
            settings=shrunk_settings(settings, 6) if tiny else settings,
            formats=FORMATS,
            heldout_files=2 if tiny else 100,
        ),
        long=Extend(
            start=Ref("base"),
            shards=Ref("shards"),
            served=served,
            rope_theta=released.rope_theta,
            settings=shrunk_settings(long, 3, 2, 4 * served) if tiny else long,
            formats=FORMATS,
            heldout_files=2 if tiny else 100,
        ),
    )
    return plan
