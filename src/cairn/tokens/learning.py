"""Learn a byte-level BPE vocabulary from the files of a corpus."""

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from cairn.base import UserError, Work, note, progress
from cairn.tokens.chat import template
from cairn.tokens.layouts import kinds_of
from cairn.tokens.sentinels import END_OF_TEXT, SENTINELS
from cairn.tokens.tokenizer import CONFIG, TEMPLATE, VOCABULARY, Tokenizer

# The split of Qwen2: single digits, a leading blank or mark joins its word, line ends apart.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SMALLEST = len(SENTINELS) + 256  # every byte has a token, so that no text is without one


def learn(
    texts: Iterable[str], vocab_size: int, *, minimum_count: int = 2, thinking: bool = False
) -> Tokenizer:
    """Merge the most frequent pairs until `vocab_size` ids exist or no pair is left.

    The same texts give the same bytes: pairs of equal count are merged in the order of their ids.
    No normaliser, so decoding gives back every byte. `thinking` is the chat template's default.
    """
    if vocab_size < SMALLEST:
        mend = f"take at least {SMALLEST}: {len(SENTINELS)} sentinels and 256 bytes"
        raise UserError("vocab_size", vocab_size, "is too small", mend)
    if minimum_count < 1:
        raise UserError("minimum_count", minimum_count, "is less than one", "take 2")
    made = HuggingFaceTokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=minimum_count,
        show_progress=False,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SENTINELS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    made.train_from_iterator(texts, trainer)
    vocabulary = json.dumps(json.loads(made.to_str()), indent=1, ensure_ascii=False) + "\n"
    return Tokenizer(
        {VOCABULARY: vocabulary, CONFIG: _config(thinking), TEMPLATE: template(thinking)}
    )


def _config(thinking: bool) -> str:
    """tokenizer_config.json, as `transformers` reads it."""
    config = {
        "add_prefix_space": False,
        "bos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "extra_special_tokens": list(SENTINELS[1:]),
        "model_max_length": 10**9,
        "pad_token": END_OF_TEXT,
        "thinking": thinking,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": END_OF_TEXT,
    }
    return json.dumps(config, indent=2) + "\n"


def learn_from_corpus(
    work: Work, corpus: Path, vocab_size: int, sample_bytes: int, minimum_count: int, thinking: bool
) -> dict[str, Any]:
    """Fill `work.out` with a tokenizer learned from the corpus's files; return its facts."""
    if sample_bytes < 1:
        raise UserError("sample_bytes", sample_bytes, "is less than one", "take 1e9")
    chosen, documents, seen, sampled = _choose(corpus, sample_bytes)
    if not seen:
        raise UserError(f"{corpus} holds no files to learn from: look at its report.md")
    texts = _counted(_texts(corpus, chosen), documents)
    note(f"learning {vocab_size:,} tokens from {sampled / 1e6:,.1f} of {seen / 1e6:,.1f} MB")
    made = learn(texts, vocab_size, minimum_count=minimum_count, thinking=thinking)
    made.save(work.out)
    if made.vocab_size < vocab_size:
        note(f"only {made.vocab_size:,} tokens: no pair is left that occurs {minimum_count} times")
    tokens, measured = _measure(made, corpus, chosen)
    return {
        "vocab_size": made.vocab_size,
        "sentinels": len(SENTINELS),
        "documents": documents,
        "sample_bytes": sampled,
        "corpus_bytes": seen,
        "bytes_per_token": round(measured / tokens, 4) if tokens else 0.0,
        "measured_bytes": measured,
    }


def _choose(corpus: Path, sample_bytes: int) -> tuple[frozenset[int] | None, int, int, int]:
    """Rows to learn from (None: all), how many, bytes of the corpus, bytes chosen.

    A sample is the files with the smallest hashes of content, so that it neither prefers the
    first repositories nor changes when files are added elsewhere.
    """
    from cairn.curate.corpus import read_files

    rows: list[tuple[bytes, int, int]] = []
    for batch in read_files(corpus, columns=["content_id", "length_bytes"]):
        ids, sizes = batch.column("content_id"), batch.column("length_bytes")
        for content, size in zip(ids.to_pylist(), sizes.to_pylist(), strict=True):
            rows.append((hashlib.sha256(content.encode("utf-8")).digest(), len(rows), size))
    seen = sum(size for _, _, size in rows)
    if seen <= sample_bytes:
        return None, len(rows), seen, seen
    heapq.heapify(rows)
    chosen, sampled = set(), 0
    while sampled < sample_bytes:
        _, row, size = heapq.heappop(rows)
        chosen.add(row)
        sampled += size
    return frozenset(chosen), len(chosen), seen, sampled


def _texts(corpus: Path, chosen: frozenset[int] | None) -> Iterator[str]:
    """What is written in the files, without the marks of documents that have them."""
    from cairn.curate.corpus import read_files
    from cairn.curate.pieces import plain_text

    row = 0
    for batch in read_files(corpus, columns=["content", "kind"]):
        contents = batch.column("content").to_pylist()
        for kind, content in zip(kinds_of(batch), contents, strict=True):
            if chosen is None or row in chosen:
                yield plain_text(kind, content)
            row += 1


def _counted(texts: Iterable[str], total: int) -> Iterator[str]:
    with progress("reading files", total=total, unit="files") as bar:
        for text in texts:
            yield text
            bar.advance()
    note("merging pairs")


def _measure(
    made: Tokenizer, corpus: Path, chosen: frozenset[int] | None, limit: int = 16_000_000
) -> tuple[int, int]:
    """Tokens and bytes of the first `limit` bytes or so of what was learned from."""
    tokens = measured = 0
    for text in _texts(corpus, chosen):
        tokens += len(made.encode_array(text))
        measured += len(text.encode("utf-8"))
        if measured >= limit:
            break
    return tokens, measured
