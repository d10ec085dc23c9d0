"""Logits to tokens: one draw per row, independent of the other rows."""

from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from cairn.engine.adjustment import adjust
from cairn.engine.sampling import SamplingParams, uniform
from cairn.engine.sequence import Sequence, TokenLogprob
from cairn.ops.transfer import Fetched, on_device

NAN = float("nan")


@dataclass(frozen=True)
class Draws:
    """One drawn token a row, on the device and on the way to the host."""

    tokens: Tensor
    """int64 [R], on the device."""
    _fetched: Fetched
    """Tokens, the highest logits of their rows, and where any is asked for log-probabilities."""
    _forced: list[int | None]
    _tops: list[int | None]

    def read(self) -> list[TokenLogprob]:
        """What was drawn; waits until it is here."""
        tokens, highest, *rest = self._fetched.read()
        if rest:
            found = _listed(tokens, highest.isfinite(), rest, [n or 0 for n in self._tops])
        else:
            pairs = zip(tokens.tolist(), highest.tolist(), strict=True)
            found = [TokenLogprob(token, 0.0 if isfinite(top) else NAN) for token, top in pairs]
        return [
            drawn if token is None else replace(drawn, forced=True)
            for drawn, token in zip(found, self._forced, strict=True)
        ]


def likeliest(highest: Tensor, tokens: Tensor) -> Draws:
    """What `begin_draw` gives sequences that are `plain`, of the highest logits [R] and whose
    they are, int64 [R]."""
    none: list[int | None] = [None] * len(tokens)
    return Draws(tokens, Fetched([tokens, highest]), none, none)


def draw(logits: Tensor, sequences: list[Sequence]) -> list[TokenLogprob]:
    """`begin_draw`, waited for."""
    return begin_draw(logits, sequences).read()


def begin_draw(logits: Tensor, sequences: list[Sequence]) -> Draws:
    """Draw the next token of each sequence from its row of `logits` [R, V], any float dtype.

    Waits for nothing: on a GPU what is drawn stays there until it is read. A row without a finite
    maximum gives a TokenLogprob whose log-probability is NaN: the caller ends that sequence, and
    only that one. A token that a sequence's steering forces is flagged. Log-probabilities are
    those of `logits` as they came. `definition` says the same of one row.
    """
    own = logits
    logits = adjust(own, sequences)
    highest, tokens = logits.max(-1)
    warm = [row for row, sequence in enumerate(sequences) if not sequence.params.greedy]
    if warm:
        drawing = [sequences[row] for row in warm]
        if len(warm) == len(sequences):
            tokens = _draw_warm(logits.float(), drawing)
        else:
            places = on_device(warm, torch.int64, logits.device)
            tokens[places] = _draw_warm(logits[places].float(), drawing)
    forced = [None if one.steering is None else one.steering.forced for one in sequences]
    if any(token is not None for token in forced):
        given = [-1 if token is None else token for token in forced]
        written = on_device(given, torch.int64, logits.device)
        tokens = torch.where(written >= 0, written, tokens)
    wanted = [sequence.params.logprobs for sequence in sequences]
    parts = [tokens, highest]
    if any(count is not None for count in wanted):
        parts += _logprobs(own.float(), tokens, max(count or 0 for count in wanted))
    return Draws(tokens, Fetched(parts), forced, wanted)


def score(logits: Tensor, targets: list[int], top: int) -> list[TokenLogprob]:
    """Log-probability of target r under row r of `logits` [R, V], with the `top` likeliest."""
    logits = logits.float()
    tokens = torch.tensor(targets, device=logits.device)
    finite = logits.amax(-1).isfinite()
    rest = _logprobs(logits, tokens, top)
    return _listed(tokens, finite, rest, [top] * len(targets))


def _logprobs(logits: Tensor, tokens: Tensor, top: int) -> list[Tensor]:
    """Log-probabilities [R] of the tokens, and of the `top` likeliest with their ids."""
    logprobs = logits.log_softmax(-1)  # [R, V]
    chosen = logprobs.gather(-1, tokens[:, None])[:, 0]
    return [chosen, *logprobs.topk(min(top, logits.shape[-1]), dim=-1)]


def _listed(
    tokens: Tensor, finite: Tensor, rest: list[Tensor], tops: list[int]
) -> list[TokenLogprob]:
    chosen, values, ids = rest
    chosen = chosen.masked_fill(~finite, NAN).tolist()
    found = []
    for row, (token, top) in enumerate(zip(tokens.tolist(), tops, strict=True)):
        pairs = zip(ids[row, :top].tolist(), values[row, :top].tolist(), strict=True)
        found.append(TokenLogprob(token, chosen[row], tuple(pairs)))
    return found


def _draw_warm(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    """Tokens [R] drawn by inverting the cumulative distribution in the order of token ids.

    The order of ids, and not of probabilities, keeps a draw in place when rounding swaps two
    tokens that are nearly as likely.
    """
    params = [sequence.params for sequence in sequences]
    warmth = [p.temperature for p in params]
    heat = on_device(warmth, torch.float64, logits.device)
    # The maximum goes first, so that a tiny temperature sends the rest to -inf and no row to NaN.
    scaled = (logits - logits.amax(-1, keepdim=True)).double().div_(heat[:, None])
    probabilities = scaled.softmax(-1)  # [R, V]
    cut = [row for row, p in enumerate(params) if p.top_k or p.top_p < 1 or p.min_p]
    if len(cut) == len(params):
        probabilities.mul_(_kept(probabilities, params))
    elif cut:
        rows = on_device(cut, torch.int64, logits.device)
        given = probabilities[rows]
        probabilities[rows] = given.mul_(_kept(given, [params[row] for row in cut]))
    cumulative = probabilities.cumsum_(-1)
    total = cumulative[:, -1:]
    places = [uniform(sequence.seed, sequence.drawn) for sequence in sequences]
    target = on_device(places, torch.float64, logits.device)[:, None] * total
    target = target.minimum(torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulative, target, right=True)[:, 0]
    return found.clamp(max=logits.shape[-1] - 1)  # a row of NaN finds no place at all


def _kept(probabilities: Tensor, params: list[SamplingParams]) -> Tensor:
    """Which tokens [R, V] are among the top k, of those within the top p, and likely enough."""
    if probabilities.device.type == "cpu":
        ordered = _descending(probabilities)
        keep = _within(ordered, params)
        if not (keep[:, 1:] & ~keep[:, :-1]).any():  # else rounding left a gap where p ends
            return _first(probabilities, ordered, keep.sum(-1, keepdim=True))
    return _kept_by_order(probabilities, params)


def _kept_by_order(probabilities: Tensor, params: list[SamplingParams]) -> Tensor:
    """`_kept` by the order of all tokens, which a GPU has sooner than a CPU."""
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, _within(ordered, params))


def _within(ordered: Tensor, params: list[SamplingParams]) -> Tensor:
    """Which of falling probabilities [R, V] are within the top k, the top p and min p."""
    size, device = ordered.shape[-1], ordered.device
    top_k = on_device([p.top_k or size for p in params], torch.int64, device)[:, None]
    top_p = on_device([p.top_p for p in params], torch.float64, device)[:, None]
    ordered = ordered * (torch.arange(size, device=device) < top_k)
    before = ordered.cumsum(-1) - ordered  # what the likelier ones have together
    keep = (before < top_p * ordered.sum(-1, keepdim=True)) | (top_p >= 1)
    min_p = on_device([p.min_p for p in params], torch.float64, device)[:, None]
    return keep & (ordered > 0) & (ordered >= min_p * ordered[:, :1])


def _descending(probabilities: Tensor) -> Tensor:
    """Rows in falling order. Without places numpy sorts by vectors, six times as fast as torch."""
    values = -probabilities.numpy()
    values.sort(-1)
    return torch.from_numpy(np.negative(values, values))


def _first(probabilities: Tensor, ordered: Tensor, count: Tensor) -> Tensor:
    """The `count` [R, 1] likeliest of each row [R, V], lower ids before equal ones, as a mask."""
    least = ordered.gather(-1, (count - 1).clamp(min=0))
    found = (probabilities >= least) & (count > 0)
    if (found.sum(-1, keepdim=True) > count).any():
        equal = probabilities == least
        wanted = count - (probabilities > least).sum(-1, keepdim=True)
        found &= ~equal | (equal.cumsum(-1) <= wanted)
    return found
