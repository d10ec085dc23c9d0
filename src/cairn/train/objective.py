"""Objectives: what a batch costs, as a sum and a count that are divided once, at the end."""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from cairn.model import Decoder, Spans
from cairn.ops import linear_cross_entropy
from cairn.tokens.batch import Batch


@dataclass(frozen=True)
class Loss:
    """The cost of a micro-batch.

    total: scalar tensor, the sum over tokens of weight * cost in nats, differentiable
    count: the sum of weights
    facts: further sums over tokens for the metrics, divided by count like the loss
    """

    total: Tensor
    count: float
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Tokens:
    """A batch on the device: tokens and targets int64 [T], weights float32 [T], spans over T."""

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    spans: Spans
    count: float

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> "Tokens":
        """From the stream's arrays."""
        return cls(
            torch.from_numpy(batch.tokens).to(device),
            torch.from_numpy(batch.targets).to(device),
            torch.from_numpy(batch.weights).to(device),
            Spans(torch.from_numpy(batch.bounds).long()),
            float(batch.weights.sum(dtype="float64")),
        )


class Objective(Protocol):
    """What a stage wants of a model."""

    def __call__(self, model: Decoder, batch: Tokens) -> Loss:
        """The cost of one micro-batch."""
        ...


class NextToken:
    """Cross-entropy of the next token, at the tokens whose weight is not 0."""

    def __call__(self, model: Decoder, batch: Tokens) -> Loss:
        """Sum over T of weight * -log p(target), in nats."""
        hidden = model.hidden(batch.tokens, batch.spans)
        total = linear_cross_entropy(hidden, model.lm_head.weight, batch.targets, batch.weights)
        return Loss(total, batch.count)
