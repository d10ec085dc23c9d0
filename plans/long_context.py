"""The long-context phase in small, measured: a base model that has seen 256 tokens at a time learns
to find a line again in 1,024, by training at 4,096.

cairn make plans/long_context.py            makes all of it, in about half an hour on two CPU cores

`long` is what Nano 2 does (arXiv 2508.14444, section 2): four times the served length, the floor
of the learning rate, and questions on long documents. `plain` is the same without the questions,
and `short` spends as many tokens at the old length; the needle task scores all of them.
"""

from cairn.align import AskDocuments
from cairn.base import Ref
from cairn.curate import Curate
from cairn.evaluate import Evaluate
from cairn.model import ModelConfig
from cairn.tokens import Blend, Component, Formats, LearnTokenizer, Tokenize
from cairn.train import Extend, Pretrain, TrainSettings

corpus, words, shards, base = Ref("corpus"), Ref("words"), Ref("shards"), Ref("base")
SERVED = 1024
PEAK, FLOOR = 4e-3, 0.1  # StarCoder2's floor, a tenth of the peak
PLAIN = Formats(packing="whole", infilling_rate=0.0)

hybrid = ModelConfig(
    pattern="M-M*-M*-",
    vocab_size=0,  # the tokenizer's
    hidden_size=128,
    intermediate_size=384,
    attention_heads=4,
    key_value_heads=2,
    head_dim=32,
    mamba_heads=8,
    mamba_head_dim=32,
    state_size=32,
    groups=2,
    chunk_size=64,
    max_positions=256,
)


def going_on(length: int) -> TrainSettings:
    """As many tokens at any length, at the floor of the rate."""
    return TrainSettings(
        tokens=3_000_000,
        sequences=4,
        sequence_length=length,
        accumulate=4096 // length,
        lr=PEAK * FLOOR,
        warmup=0,
        decay=0.0,
    )


def extended(blend: Blend, length: int = 4 * SERVED) -> Extend:
    return Extend(
        start=base, blend=blend, served=SERVED, settings=going_on(length), heldout_files=16
    )


whole = Component(shards=shards, weights=(0.8,), formats=PLAIN)
alone = Blend(components=(whole,))
needles = ("needle_512", "needle_1k", "needle_2k", "needle_4k")

plan = dict(
    corpus=Curate(
        sources=("python:stdlib", "python:numpy", "python:pyarrow", "python:rich"),
        exclude=("test/*", "*/test/*", "*/tests/*"),
    ),
    words=LearnTokenizer(corpus=corpus, vocab_size=2048),
    shards=Tokenize(corpus=corpus, tokenizer=words, heldout=0.05),
    questions=AskDocuments(
        shards=shards, minimum_tokens=1_000, maximum_tokens=3_500, chunk_tokens=128, sampled=0.6
    ),
    base=Pretrain(
        model=hybrid,
        shards=shards,
        settings=TrainSettings(
            tokens=4_000_000,
            sequences=32,
            sequence_length=256,
            lr=PEAK,
            min_lr_ratio=FLOOR,
            warmup=20,
        ),
        heldout_files=16,
    ),
    long=extended(
        Blend(
            components=(
                whole,
                Component(shards=Ref("questions"), weights=(0.2,), formats=PLAIN),
            )
        )
    ),
    plain=extended(alone),
    short=Extend(start=base, blend=alone, served=256, settings=going_on(256), heldout_files=16),
    base_scores=Evaluate(checkpoint=base, shards=shards, tasks=needles),
    long_scores=Evaluate(checkpoint=Ref("long"), shards=shards, tasks=needles),
    plain_scores=Evaluate(checkpoint=Ref("plain"), shards=shards, tasks=needles),
    short_scores=Evaluate(checkpoint=Ref("short"), shards=shards, tasks=needles),
)
