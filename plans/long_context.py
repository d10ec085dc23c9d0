"""The long-context phase in small, measured: a base model that has seen 256 tokens at a time goes
on at 4,096 to serve 1,024. It gains bits, and is far too briefly trained to find needles (LOG.md).

cairn make plans/long_context.py long_scores        in about half an hour on two CPU cores
cairn make plans/long_context.py base_scores        before, to compare

As Nano 2 does it (arXiv 2508.14444, section 2): four times the served length, the floor of the
learning rate, and questions on long documents; of these half the tokens here instead of a fifth,
for a run that is ten thousand times as short. `plain` goes on without the questions.
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
PEAK, FLOOR = 4e-3, 0.25
TOLD = Formats(packing="whole", infilling_rate=0.0, metadata_rate=0.0)

hybrid = ModelConfig(
    pattern="M*-M*-",
    vocab_size=0,  # the tokenizer's
    hidden_size=96,
    intermediate_size=256,
    attention_heads=4,
    key_value_heads=4,
    head_dim=24,
    mamba_heads=6,
    mamba_head_dim=32,
    state_size=16,
    groups=2,
    chunk_size=64,
    max_positions=256,
    initializer_range=0.06,
)


def extended(*components: Component) -> Extend:
    return Extend(
        start=base,
        blend=Blend(components=components),
        served=SERVED,
        settings=TrainSettings(
            steps=500,
            sequences=1,
            sequence_length=4 * SERVED,
            lr=PEAK * FLOOR,
            warmup=0,
            decay=0.0,
        ),
        heldout_files=8,
    )


files = Component(shards=shards, weights=(0.5,), formats=TOLD)
needles = ("needle_512", "needle_1k", "needle_2k", "needle_4k")

plan = dict(
    corpus=Curate(
        sources=("python:stdlib", "python:numpy", "python:pyarrow", "python:rich"),
        exclude=("test/*", "*/test/*", "*/tests/*"),
    ),
    words=LearnTokenizer(corpus=corpus, vocab_size=512),
    shards=Tokenize(corpus=corpus, tokenizer=words, heldout=0.05),
    questions=AskDocuments(
        shards=shards, minimum_tokens=800, maximum_tokens=2000, chunk_tokens=64, sampled=1.0
    ),
    base=Pretrain(
        model=hybrid,
        shards=shards,
        settings=TrainSettings(
            steps=500,
            sequences=16,
            sequence_length=256,
            lr=PEAK,
            min_lr_ratio=FLOOR,
            warmup=20,
            save_every=100,
        ),
        formats=TOLD,
        heldout_files=8,
    ),
    long=extended(files, Component(shards=Ref("questions"), weights=(0.5,), formats=TOLD)),
    plain=extended(files),
    base_scores=Evaluate(checkpoint=base, shards=shards, tasks=needles),
    long_scores=Evaluate(checkpoint=Ref("long"), shards=shards, tasks=needles),
    plain_scores=Evaluate(checkpoint=Ref("plain"), shards=shards, tasks=needles),
)
