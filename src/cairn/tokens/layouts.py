"""Documents with marks, as tokens: threads, notebooks, pairs of code and IR, answers.

Every mark becomes its sentinel's id, every text ordinary tokens, whatever it spells. So a
sentinel's id in a document is a mark, and pieces can be told from the tokens alone.
StarCoder2 (arXiv 2402.19173), section 5.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cairn.base import UserError
from cairn.curate.pieces import STRUCTURED, from_content
from cairn.sources.record import ANSWERS, INTERMEDIATE, SOURCE
from cairn.tokens.sentinels import CODE_TO_INTERMEDIATE, INTERMEDIATE_TO_CODE, ISSUE_COMMENT
from cairn.tokens.tokenizer import Tokenizer


def kinds_of(rows: pa.Table | pa.RecordBatch) -> list[str]:
    """The kind of each row of a corpus's files; one from before there were kinds has source."""
    known = "kind" in rows.schema.names
    return rows.column("kind").to_pylist() if known else [SOURCE] * rows.num_rows


def encode_documents(
    kinds: Sequence[str], contents: Sequence[str], tokenizer: Tokenizer
) -> tuple[list[np.ndarray], list[int]]:
    """Ids of each document, uint32 [tokens], and the bytes of its plain text in UTF-8.

    UserError for a content that holds no pieces, or a mark that the tokenizer does not have.
    """
    documents = [_pieces(kind, content) for kind, content in zip(kinds, contents, strict=True)]
    marks = {mark: _mark(mark, tokenizer) for one in documents for mark, _ in one if mark}
    encoded = iter(tokenizer.encode_arrays([text for one in documents for _, text in one]))
    found: list[np.ndarray] = []
    for one in documents:
        parts: list[np.ndarray] = []
        for mark, _ in one:
            if mark:
                parts.append(marks[mark])
            parts.append(next(encoded))
        found.append(np.concatenate(parts) if parts else np.empty(0, np.uint32))
    return found, [_plain_size(one) for one in documents]


def plain_bytes(kind: str, ids: np.ndarray, tokenizer: Tokenizer) -> bytes:
    """A document's text in UTF-8: that of a file as it is, of pieces without marks, line by line.

    Its length is the `bytes` of the document.
    """
    if kind not in STRUCTURED:
        return tokenizer.decode_bytes(ids.tolist())
    special = np.array(sorted(tokenizer.sentinels.values()), ids.dtype)
    places = np.flatnonzero(np.isin(ids, special))
    starts, stops = [0, *(places + 1)], [*places, len(ids)]
    texts = [
        tokenizer.decode_bytes(ids[start:stop].tolist())
        for start, stop in zip(starts, stops, strict=True)
    ]
    return b"\n".join(text for text in texts if text)


class Orders:
    """What a document's pieces may be told in: drawn anew for each document and epoch."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        names = (CODE_TO_INTERMEDIATE, INTERMEDIATE_TO_CODE, ISSUE_COMMENT)
        self._forward, self._backward, self._comment = (
            tokenizer.id(name) if tokenizer.has(name) else -1 for name in names
        )

    def draws(self, kind: str) -> bool:
        """Whether documents of this kind have more than one order."""
        return kind in (INTERMEDIATE, ANSWERS)

    def draw(self, kind: str, ids: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The same pieces in an order that is drawn; as many tokens as before.

        Code and IR: either may come first, and the mark between them says which. Answers: the
        question first, then they in any order.
        """
        if kind == INTERMEDIATE:
            (places,) = np.nonzero(ids == self._forward)
            if len(places) == 1 and generator.random() < 0.5:
                code, intermediate = ids[: places[0]], ids[places[0] + 1 :]
                mark = np.array([self._backward], ids.dtype)
                return np.concatenate([intermediate, mark, code])
        if kind == ANSWERS:
            (places,) = np.nonzero(ids == self._comment)
            question, *answers = np.split(ids, places)
            order = generator.permutation(len(answers))
            return np.concatenate([question, *(answers[place] for place in order)])
        return ids


def _pieces(kind: str, content: str) -> list[tuple[str, str]]:
    try:
        pieces = from_content(kind, content)
        if all(isinstance(part, str) for piece in pieces for part in piece):
            return pieces
    except (ValueError, TypeError):
        pass
    shown = content[:60]
    raise UserError("content", shown, f"of kind {kind} holds no pieces", "make the corpus anew")


def _mark(mark: str, tokenizer: Tokenizer) -> np.ndarray:
    number = tokenizer.id(mark)
    if not tokenizer.is_special(number):
        raise UserError("mark", mark, "is no sentinel of the tokenizer", "learn one by cairn")
    return np.array([number], np.uint32)


def _plain_size(pieces: Sequence[tuple[str, str]]) -> int:
    sizes: list[int] = []
    for mark, text in pieces:
        size = len(text.encode("utf-8"))
        if mark or not sizes:
            sizes.append(size)
        else:  # nothing stands between this text and the one before
            sizes[-1] += size
    filled = [size for size in sizes if size]
    return sum(filled) + max(len(filled) - 1, 0)
