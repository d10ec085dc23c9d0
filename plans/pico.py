"""The whole life of a small hybrid model, on two CPU cores and this machine's own Python sources.

cairn make plans/pico.py            makes all of it, in about ten minutes
cairn show plans/pico.py base       what a recipe's fields are and mean
"""

from cairn.align import FineTune
from cairn.base import Ref
from cairn.compress import Distill, Prune
from cairn.curate import Curate
from cairn.evaluate import Evaluate
from cairn.model import ModelConfig
from cairn.release import Release
from cairn.tokens import IndexAttribution, LearnTokenizer, Tokenize
from cairn.train import Pretrain, TrainSettings

corpus, words, shards = Ref("corpus"), Ref("words"), Ref("shards")

hybrid = ModelConfig(  # Nemotron-H's shape in small: Mamba-2, one attention layer, feed-forward
    pattern="M-M*-M-",
    vocab_size=0,  # the tokenizer's
    hidden_size=192,
    intermediate_size=768,
    attention_heads=4,
    key_value_heads=2,
    head_dim=48,
    mamba_heads=12,
    mamba_head_dim=32,
    state_size=32,
    groups=2,
    chunk_size=32,
    max_positions=1024,
)


def settings(steps: int, lr: float, sequences: int = 16, length: int = 256) -> TrainSettings:
    return TrainSettings(steps=steps, lr=lr, sequences=sequences, sequence_length=length, warmup=20)


plan = dict(
    # 1. Data: what is read, which licences stay, where each file came from.
    corpus=Curate(
        sources=("python:stdlib", "python:numpy", "python:pyarrow", "python:rich"),
        exclude=("test/*", "*/test/*", "*/tests/*"),
    ),
    # 2. Tokens: words of this corpus, shards that point back at its files, an index of their text.
    words=LearnTokenizer(corpus=corpus, vocab_size=4096),
    shards=Tokenize(corpus=corpus, tokenizer=words, heldout=0.05),
    index=IndexAttribution(shards=shards),
    # 3. A base model, and an assistant made from it.
    base=Pretrain(model=hybrid, shards=shards, settings=settings(200, 4e-3), heldout_files=16),
    chat=FineTune(
        start=Ref("base"),
        corpus=corpus,
        shards=shards,
        settings=settings(40, 5e-4, sequences=8, length=512),
    ),
    # 4. A smaller child: pruned, then taught by its parent; beside a twin that starts from nothing.
    pruned=Prune(
        start=Ref("base"),
        shards=shards,
        hidden_size=144,
        intermediate_size=512,
        heldout_files=16,
    ),
    child=Distill(
        start=Ref("pruned"),
        teacher=Ref("base"),
        shards=shards,
        settings=settings(80, 3e-3),
        heldout_files=16,
    ),
    twin=Pretrain(like=Ref("pruned"), shards=shards, settings=settings(80, 4e-3), heldout_files=16),
    # 5. What they can do, and the folder for others.
    scores=Evaluate(checkpoint=Ref("base"), corpus=corpus, shards=shards, limit=16),
    child_scores=Evaluate(checkpoint=Ref("child"), corpus=corpus, shards=shards, limit=16),
    release=Release(
        checkpoint=Ref("child"), report=Ref("child_scores"), shards=shards, title="cairn pico"
    ),
)
