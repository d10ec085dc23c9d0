"""Fill-in-the-middle: a text cut in three and told in another order (arXiv 2207.14255).

Cuts fall between characters, not tokens, so that a model meets every kind of edge (StarCoder2,
arXiv 2402.19173, section 5). Each piece is encoded by itself, as a prompt's pieces are.
"""

from typing import NamedTuple

import numpy as np

from cairn.tokens.sentinels import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX
from cairn.tokens.tokenizer import Tokenizer


class Pieces(NamedTuple):
    """prefix + middle + suffix is the text."""

    prefix: str
    middle: str
    suffix: str


def cut(text: str, generator: np.random.Generator) -> Pieces:
    """Cut at two places drawn uniformly from all between characters, both ends included."""
    first, second = sorted(generator.integers(0, len(text), size=2, endpoint=True).tolist())
    return Pieces(text[:first], text[first:second], text[second:])


def psm(pieces: Pieces, tokenizer: Tokenizer) -> list[int]:
    """Prefix, suffix, middle: the order in which an editor asks."""
    prefix, middle, suffix = (tokenizer.encode(piece) for piece in pieces)
    opens, divides, closes = _marks(tokenizer)
    return [opens, *prefix, divides, *suffix, closes, *middle]


def spm(pieces: Pieces, tokenizer: Tokenizer) -> list[int]:
    """Suffix first, then prefix and middle as one run (the paper's second variant of SPM)."""
    prefix, middle, suffix = (tokenizer.encode(piece) for piece in pieces)
    opens, divides, closes = _marks(tokenizer)
    return [opens, divides, *suffix, closes, *prefix, *middle]


def infill(
    text: str,
    tokenizer: Tokenizer,
    generator: np.random.Generator,
    *,
    head: str = "",
    spm_rate: float = 0.5,
) -> list[int]:
    """Token ids of the text, cut and reordered; `head` (a path line) always opens the prefix."""
    pieces = cut(text, generator)
    pieces = pieces._replace(prefix=head + pieces.prefix)
    order = spm if generator.random() < spm_rate else psm
    return order(pieces, tokenizer)


def prompt(prefix: str, suffix: str, tokenizer: Tokenizer) -> list[int]:
    """Token ids after which a model writes the middle (PSM)."""
    return psm(Pieces(prefix, "", suffix), tokenizer)


def restore(ids: list[int], tokenizer: Tokenizer) -> str:
    """The text that `psm` or `spm` reordered; ValueError where the marks are not in place."""
    opens, divides, closes = _marks(tokenizer)
    if [ids.count(mark) for mark in (opens, divides, closes)] != [1, 1, 1] or ids[0] != opens:
        raise ValueError("not one text in fill-in-the-middle order")
    one, two = ids.index(divides), ids.index(closes)
    prefix, suffix, middle = ids[1:one], ids[one + 1 : two], ids[two + 1 :]
    return tokenizer.decode([*prefix, *middle, *suffix])


def _marks(tokenizer: Tokenizer) -> tuple[int, int, int]:
    return tokenizer.id(FIM_PREFIX), tokenizer.id(FIM_SUFFIX), tokenizer.id(FIM_MIDDLE)
