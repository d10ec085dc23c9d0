"""What a draw is: the distribution of one row in plain PyTorch. `sampler` is held against it."""

from collections import Counter

import torch
from torch import Tensor

from cairn.engine.sampling import SamplingParams


def adjusted(
    logits: Tensor,
    params: SamplingParams,
    prompt: list[int],
    output: list[int],
    allowed: Tensor | None = None,
) -> Tensor:
    """Logits [V], float64, after penalties, biases and the grammar (`allowed` bool [V])."""
    logits = logits.double().clone()
    for token in {*prompt, *output}:
        value = logits[token]
        penalty = params.repetition_penalty
        logits[token] = value / penalty if value > 0 else value * penalty
    for token, count in Counter(output).items():
        logits[token] -= params.presence_penalty + params.frequency_penalty * count
    for token, bias in params.logit_bias:
        logits[token] += bias
    if allowed is not None:
        logits[~allowed] = -torch.inf
    return logits


def distribution(logits: Tensor, params: SamplingParams) -> Tensor:
    """Probabilities [V], float64, of adjusted `logits` [V] under temperature, top-k, top-p, min-p.

    Each cut is made among what the one before left; of equal tokens the lower id goes first.
    """
    if params.greedy:
        return torch.nn.functional.one_hot(logits.argmax(), len(logits)).double()
    probabilities = ((logits - logits.max()) / params.temperature).softmax(-1)
    order = sorted(range(len(logits)), key=lambda token: (-probabilities[token].item(), token))
    kept = order[: params.top_k] if params.top_k else order
    if params.top_p < 1:
        enough = params.top_p * sum(probabilities[token].item() for token in kept)
        before, nucleus = 0.0, []
        for token in kept:
            if before >= enough:
                break
            nucleus.append(token)
            before += probabilities[token].item()
        kept = nucleus
    least = params.min_p * probabilities.max().item()
    found = torch.zeros_like(probabilities)
    for token in kept:
        if probabilities[token].item() >= least:
            found[token] = probabilities[token]
    return found / found.sum()
