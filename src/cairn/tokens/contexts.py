"""Repository contexts: files of one repository, one after another, in random order.

StarCoder2 (arXiv 2402.19173), section 5. One epoch lays every training document out in one long
run of tokens, without writing it:

    with metadata     <repo_name>name <file_sep>path\\ncode <file_sep>path\\ncode ... <|endoftext|>
    without           <file_sep>code <file_sep>code ... <|endoftext|>

A document of any other kind is a context of its own, told as it is, never with metadata and never
as fill-in-the-middle:

    others            tokens <|endoftext|>
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cairn.base import UserError
from cairn.base.config import LATER
from cairn.sources.record import SOURCE
from cairn.tokens.shards import TokenShards


@dataclass(frozen=True, kw_only=True)
class Formats:
    """How documents are told to a model in pre-training; rates are shares from 0 to 1."""

    context_tokens: int = 16_384
    """Most tokens of code in one context; a larger file is a context of its own."""
    metadata_rate: float = 0.5
    """Contexts that name their repository and paths."""
    infilling_rate: float = 0.5
    """Contexts in which files may be told as fill-in-the-middle."""
    file_infilling_rate: float = 0.5
    """Files of such contexts that are."""
    spm_rate: float = 0.5
    """Of those, told suffix first (SPM) instead of prefix first (PSM)."""
    packing: Literal["cut", "whole"] = field(default="cut", metadata={LATER: True})
    """Windows cut contexts anywhere, or hold them whole where they fit (long-context training)."""

    def check(self) -> None:
        """UserError for a rate outside 0 to 1 or a context without tokens."""
        if self.context_tokens < 1:
            raise UserError("context_tokens", self.context_tokens, "is less than one", "take 16384")
        for name in ("metadata_rate", "infilling_rate", "file_infilling_rate", "spm_rate"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(name, value, "is no share", "take a number from 0 to 1")


@dataclass(frozen=True)
class Layout:
    """Where everything lies in one epoch's run of tokens, for N documents in C contexts.

    documents int64 [N]: in the order in which they are told
    starts    int64 [N + 1]: first token of each document's stretch; the last entry is the length
    contexts  int64 [N]: context of each document, 0, 1, 2, ... in the order told
    opens     bool [N]: first of its context, so <repo_name> may stand before it
    closes    bool [N]: last of its context, so <|endoftext|> stands after it
    bare      bool [N]: no source file, so nothing stands before it
    metadata  bool [C]; infilling bool [C]: what was drawn for each context
    """

    documents: np.ndarray
    starts: np.ndarray
    contexts: np.ndarray
    opens: np.ndarray
    closes: np.ndarray
    bare: np.ndarray
    metadata: np.ndarray
    infilling: np.ndarray


def repositories(shards: TokenShards) -> tuple[np.ndarray, list[str]]:
    """Number of each document's repository, int64 [N], and the names by number."""
    encoded = shards.documents["repo_name"].combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def kinds(shards: TokenShards) -> tuple[np.ndarray, list[str]]:
    """Number of each document's kind, int64 [N], and the kinds by number."""
    encoded = shards.documents["kind"].combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def lay_out(
    shards: TokenShards,
    repository: np.ndarray,
    header_tokens: np.ndarray,
    formats: Formats,
    generator: np.random.Generator,
) -> Layout:
    """One epoch: files shuffled inside their repository, grouped, and the groups shuffled.

    `repository` int64 [N] numbers each document's repository; `header_tokens` int64 [repositories]
    is the length of <repo_name> and the name.
    """
    count = len(repository)
    kind, names = kinds(shards)
    bare = (np.array(names) != SOURCE)[kind]
    group = np.where(bare, count + np.arange(count), repository)  # each bare one is its own
    shuffled = np.lexsort((generator.random(count), group))
    edges = _edges(group[shuffled], shards.lengths[shuffled] + 1, formats.context_tokens)
    order = generator.permutation(len(edges) - 1)
    sizes = np.diff(edges)[order]
    ends = np.cumsum(sizes)
    places = np.repeat(edges[:-1][order] - (ends - sizes), sizes) + np.arange(count)
    documents = shuffled[places]
    contexts = np.repeat(np.arange(len(order)), sizes)
    opens, closes = np.zeros(count, bool), np.zeros(count, bool)
    opens[ends - sizes] = True
    closes[ends - 1] = True
    metadata = generator.random(len(order)) < formats.metadata_rate
    infilling = generator.random(len(order)) < formats.infilling_rate
    bare = bare[documents]
    metadata[contexts[bare]] = False
    infilling[contexts[bare]] = False
    paths = shards.documents["path_tokens"].to_numpy()[documents]
    named = metadata[contexts]
    stretch = ~bare + shards.lengths[documents] + named * paths + closes
    stretch = stretch + (named & opens) * header_tokens[repository[documents]]
    starts = np.concatenate([[0], np.cumsum(stretch)]).astype(np.int64)
    return Layout(documents, starts, contexts, opens, closes, bare, metadata, infilling)


def _edges(repository: np.ndarray, sizes: np.ndarray, cap: int) -> np.ndarray:
    """Cut runs of one repository into groups of at most `cap` tokens or of one document."""
    ends = np.cumsum(sizes)
    last = np.flatnonzero(np.diff(repository, append=-1)) + 1
    edges = [0]
    for stop in last.tolist():
        while edges[-1] < stop:
            before = ends[edges[-1] - 1] if edges[-1] else 0
            fits = int(np.searchsorted(ends, before + cap, side="right"))
            edges.append(min(max(fits, edges[-1] + 1), stop))
    return np.asarray(edges, np.int64)
