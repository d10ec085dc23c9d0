"""Tokens: tokenizer, chat layout, shards, the pre-training stream, and the index back to files."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cairn.base import Recipe, Ref, Work
from cairn.base.lazy import lazily

if TYPE_CHECKING:
    from cairn.tokens.attribution import Attribution, Match, Occurrence
    from cairn.tokens.batch import Batch, Window, assemble, pack
    from cairn.tokens.blend import Blend, Component
    from cairn.tokens.chat import conversation, prompt_ids, render
    from cairn.tokens.contexts import Formats
    from cairn.tokens.mixing import BlendStream
    from cairn.tokens.provenance import files_in_batch, origins_of_text
    from cairn.tokens.sentinels import SENTINELS
    from cairn.tokens.shards import TokenShards
    from cairn.tokens.stream import PretrainingStream
    from cairn.tokens.tokenizer import Tokenizer
    from cairn.tokens.withdrawal import WithdrawTokens

_HOMES = {
    "Attribution": "attribution",
    "Batch": "batch",
    "Blend": "blend",
    "BlendStream": "mixing",
    "Component": "blend",
    "Formats": "contexts",
    "Match": "attribution",
    "Occurrence": "attribution",
    "PretrainingStream": "stream",
    "SENTINELS": "sentinels",
    "TokenShards": "shards",
    "Tokenizer": "tokenizer",
    "Window": "batch",
    "WithdrawTokens": "withdrawal",
    "assemble": "batch",
    "conversation": "chat",
    "files_in_batch": "provenance",
    "origins_of_text": "provenance",
    "pack": "batch",
    "prompt_ids": "chat",
    "render": "chat",
}

__all__ = [
    "SENTINELS",
    "Attribution",
    "Batch",
    "Blend",
    "BlendStream",
    "Component",
    "Formats",
    "IndexAttribution",
    "LearnTokenizer",
    "Match",
    "Occurrence",
    "PretrainingStream",
    "TokenShards",
    "Tokenize",
    "Tokenizer",
    "Window",
    "WithdrawTokens",
    "assemble",
    "conversation",
    "files_in_batch",
    "origins_of_text",
    "pack",
    "prompt_ids",
    "render",
]


__getattr__ = lazily(__name__, _HOMES)


@dataclass(frozen=True, kw_only=True)
class LearnTokenizer(Recipe):
    """Learn a byte-level BPE tokenizer from a corpus."""

    corpus: Ref
    """The corpus whose files are read."""
    vocab_size: int = 49_152
    """Tokens, with 41 sentinels and 256 bytes among them; fewer where the corpus is small."""
    sample_bytes: int = 1_000_000_000
    """Learn from about so much text; a larger corpus is sampled by hash of content."""
    minimum_count: int = 2
    """Merge no pair that occurs less often."""
    thinking: bool = False
    """Whether the chat template lets a model reason first where no message says."""

    def run(self, work: Work) -> dict[str, Any]:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
        from cairn.tokens.learning import learn_from_corpus

        return learn_from_corpus(
            work,
            work.input(self.corpus),
            vocab_size=self.vocab_size,
            sample_bytes=self.sample_bytes,
            minimum_count=self.minimum_count,
            thinking=self.thinking,
        )

    def headline(self, facts: dict[str, Any]) -> str:
        """Vocabulary and compression."""
        return f"{facts['vocab_size']:,} tokens, {facts['bytes_per_token']:.2f} bytes per token"


@dataclass(frozen=True, kw_only=True)
class Tokenize(Recipe):
    """Encode a corpus into shards for training, with a share of files held out."""

    corpus: Ref
    """The corpus whose files are encoded."""
    tokenizer: Ref
    """The tokenizer that encodes them; it travels with the shards."""
    heldout: float = 0.05
    """Share of files kept for evaluation, chosen by hash of content."""

    def run(self, work: Work) -> dict[str, Any]:
        """Write train/, heldout/ (tokens.bin, documents.parquet, index.json), and the tokenizer."""
        from cairn.tokens.tokenizer import Tokenizer
        from cairn.tokens.tokenizing import tokenize

        tokenizer = Tokenizer.load(work.input(self.tokenizer))
        return tokenize(work, work.input(self.corpus), tokenizer, self.heldout)

    def headline(self, facts: dict[str, Any]) -> str:
        """Tokens, documents and compression."""
        held = facts["heldout_tokens"]
        return (
            f"{facts['tokens']:,} tokens of {facts['documents']:,} files, {held:,} held out, "
            f"{facts['bytes_per_token']:.2f} bytes per token"
        )


@dataclass(frozen=True, kw_only=True)
class IndexAttribution(Recipe):
    """Index the training text, so that any text can be traced back to the files that hold it."""

    shards: Ref
    """The shards whose training documents are indexed."""
    block_bytes: int = 268_435_456
    """Text in one suffix array; building takes about six times as much memory."""

    def run(self, work: Work) -> dict[str, Any]:
        """Write blocks of text and suffixes, and the table of documents."""
        from cairn.tokens.indexing import index_shards

        return index_shards(work, work.input(self.shards), self.block_bytes)

    def headline(self, facts: dict[str, Any]) -> str:
        """How much text can be traced."""
        return f"{facts['bytes'] / 1e6:,.1f} MB of {facts['documents']:,} files"
