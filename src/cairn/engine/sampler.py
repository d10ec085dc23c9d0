"""Logits to tokens: one draw per row, independent of the other rows."""

from dataclasses import replace

import torch
from torch import Tensor

from cairn.engine.adjustment import adjust
from cairn.engine.sampling import SamplingParams, uniform
from cairn.engine.sequence import Sequence, TokenLogprob

NAN = float("nan")


def draw(logits: Tensor, sequences: list[Sequence]) -> list[TokenLogprob]:
    """Draw the next token of each sequence from its row of `logits` [R, V], any float dtype.

    A row without a finite maximum gives a TokenLogprob whose log-probability is NaN: the
    caller ends that sequence, and only that one. A token that a sequence's steering forces is
    flagged. Log-probabilities are those of `logits` as they came. `definition` says the same of
    one row.
    """
    own = logits.float()
    logits = adjust(own, sequences)
    tokens = logits.argmax(-1)
    warm = [row for row, sequence in enumerate(sequences) if not sequence.params.greedy]
    if warm:
        places = torch.tensor(warm, device=logits.device)
        tokens[places] = _draw_warm(logits[places], [sequences[row] for row in warm])
    finite = logits.amax(-1).isfinite()
    forced = [None if one.steering is None else one.steering.forced for one in sequences]
    if any(token is not None for token in forced):
        written = torch.tensor([-1 if token is None else token for token in forced])
        written = written.to(logits.device)
        tokens = torch.where(written >= 0, written, tokens)
    wanted = [sequence.params.logprobs for sequence in sequences]
    if any(count is not None for count in wanted):
        found = _with_logprobs(own, tokens, finite, [count or 0 for count in wanted])
    else:
        pairs = zip(tokens.tolist(), finite.tolist(), strict=True)
        found = [TokenLogprob(token, 0.0 if good else NAN) for token, good in pairs]
    return [
        drawn if token is None else replace(drawn, forced=True)
        for drawn, token in zip(found, forced, strict=True)
    ]


def score(logits: Tensor, targets: list[int], top: int) -> list[TokenLogprob]:
    """Log-probability of target r under row r of `logits` [R, V], with the `top` likeliest."""
    logits = logits.float()
    tokens = torch.tensor(targets, device=logits.device)
    finite = logits.amax(-1).isfinite()
    return _with_logprobs(logits, tokens, finite, [top] * len(targets))


def _with_logprobs(
    logits: Tensor, tokens: Tensor, finite: Tensor, tops: list[int]
) -> list[TokenLogprob]:
    logprobs = logits.log_softmax(-1)  # [R, V]
    chosen = logprobs.gather(-1, tokens[:, None])[:, 0]
    chosen = chosen.masked_fill(~finite, NAN).tolist()
    values, ids = logprobs.topk(min(max(tops), logits.shape[-1]), dim=-1)
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
    heat = torch.tensor(warmth, dtype=torch.float64, device=logits.device)
    # The maximum goes first, so that a tiny temperature sends the rest to -inf and no row to NaN.
    scaled = (logits - logits.amax(-1, keepdim=True)).double() / heat[:, None]
    probabilities = scaled.softmax(-1)  # [R, V]
    if any(p.top_k or p.top_p < 1 or p.min_p for p in params):
        probabilities = probabilities * _kept(probabilities, params)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    places = [uniform(sequence.seed, len(sequence.output)) for sequence in sequences]
    target = torch.tensor(places, dtype=torch.float64, device=logits.device)[:, None] * total
    target = target.minimum(torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulative, target, right=True)[:, 0]
    return found.clamp(max=logits.shape[-1] - 1)  # a row of NaN finds no place at all


def _kept(probabilities: Tensor, params: list[SamplingParams]) -> Tensor:
    """Which tokens [R, V] are among the top k, of those within the top p, and likely enough."""
    size = probabilities.shape[-1]
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    device = probabilities.device
    top_k = torch.tensor([p.top_k or size for p in params], device=device)[:, None]
    top_p = torch.tensor([p.top_p for p in params], dtype=torch.float64, device=device)[:, None]
    ordered = ordered * (torch.arange(size, device=device) < top_k)
    before = ordered.cumsum(-1) - ordered  # what the likelier ones have together
    keep = (before < top_p * ordered.sum(-1, keepdim=True)) | (top_p >= 1)
    min_p = torch.tensor([p.min_p for p in params], dtype=torch.float64, device=device)[:, None]
    keep &= (ordered > 0) & (ordered >= min_p * ordered[:, :1])
    return torch.zeros_like(keep).scatter(-1, order, keep)
