"""What a model spends on given text, in bits: one definition for training and evaluation."""

import math
from collections.abc import Callable, Sequence

import torch

from cairn.model.decoder import Decoder
from cairn.model.spans import Spans

ROWS = 512  # rows of logits that exist at a time

Piece = tuple[Sequence[int], int]  # token ids, and how many of the last ones are counted


def document_bits(
    model: Decoder,
    documents: Sequence[Sequence[int]],
    start: int,
    context: int,
    advance: Callable[[int], None] = lambda count: None,
) -> list[float]:
    """Bits that the model spends on each document's tokens, all of them, the first included.

    Each document follows the token `start`. One that is longer than `context` tokens is read in
    windows that overlap by half: each token is counted once, and all but those of the first window
    with at least half a window before it. `advance` hears of windows done.
    """
    numbers: list[int] = []
    pieces: list[Piece] = []
    for number, document in enumerate(documents):
        whole = [start, *document]
        for begin, end, counted in windows(len(whole), context):
            numbers.append(number)
            pieces.append((whole[begin:end], counted))
    totals: list[list[float]] = [[0.0] for _ in documents]
    for number, bits in zip(numbers, tail_bits(model, pieces, context, advance), strict=True):
        totals[number].append(bits)
    return [math.fsum(parts) for parts in totals]


def tail_bits(
    model: Decoder,
    pieces: Sequence[Piece],
    context: int,
    advance: Callable[[int], None] = lambda count: None,
) -> list[float]:
    """Bits that the model spends on the last `counted` tokens of each (tokens, counted)."""
    found: list[float] = []
    for batch in _batches(pieces, max(context, 4 * ROWS)):
        found += _tails(model, batch)
        advance(len(batch))
    return found


@torch.no_grad()  # no inference mode: what FSDP gathers in it could not be trained afterwards
def _tails(model: Decoder, batch: Sequence[Piece]) -> list[float]:
    flat = torch.tensor([token for tokens, _ in batch for token in tokens])
    hidden = model.hidden(flat, Spans.of([len(tokens) for tokens, _ in batch]))
    targets = torch.roll(flat, -1).to(hidden.device)
    losses = torch.cat(
        [
            torch.nn.functional.cross_entropy(model.head(rows), wanted, reduction="none").double()
            for rows, wanted in zip(hidden.split(ROWS), targets.split(ROWS), strict=True)
        ]
    ).tolist()
    found, end = [], 0
    for tokens, counted in batch:
        end += len(tokens)
        found.append(math.fsum(losses[end - 1 - counted : end - 1]) / math.log(2))
    return found


@torch.inference_mode()
def answered(model: Decoder, pieces: Sequence[Piece]) -> list[tuple[float, bool]]:
    """Of the last `counted` tokens of each (tokens, counted): bits, and whether greedy drawing
    after what stands before them gives just these tokens."""
    found = []
    for tokens, counted in pieces:
        flat = torch.tensor(tokens)
        hidden = model.hidden(flat, Spans.of([len(tokens)]))
        logits = model.head(hidden[-1 - counted : -1])
        wanted = flat[-counted:].to(logits.device)
        nats = torch.nn.functional.cross_entropy(logits.double(), wanted, reduction="sum")
        found.append((nats.item() / math.log(2), bool((logits.argmax(1) == wanted).all())))
    return found


def windows(length: int, size: int) -> list[tuple[int, int, int]]:
    """(begin, end, counted) over `length` tokens of which the first is given.

    Together the windows count each of the others once, at its only or at its better place.
    """
    found = [(0, min(length, size), min(length, size) - 1)]
    while found[-1][1] < length:
        done = found[-1][1]
        end = min(length, done + max(1, size // 2))
        found.append((max(0, end - size), end, end - done))
    return found


def _batches(pieces: Sequence[Piece], tokens: int) -> list[list[Piece]]:
    """Consecutive pieces, in batches of at most `tokens` tokens (or of one piece)."""
    found: list[list[Piece]] = []
    room = 0
    for piece in pieces:
        if not found or len(piece[0]) > room:
            found.append([])
            room = tokens
        found[-1].append(piece)
        room -= len(piece[0])
    return found
