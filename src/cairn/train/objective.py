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
    """A batch on the device: tokens and targets int64 [T], weights float32 [T], spans over T.

    `sources` and `names` are those of a blend's `Batch`.
    """

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    spans: Spans
    count: float
    sources: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> "Tokens":
        """From the stream's arrays."""
        return cls(
            torch.from_numpy(batch.tokens).to(device),
            torch.from_numpy(batch.targets).to(device),
            torch.from_numpy(batch.weights).to(device),
            Spans(torch.from_numpy(batch.bounds).long()),
            float(batch.weights.sum(dtype="float64")),
            batch.sources,
            batch.names,
        )


class Objective(Protocol):
    """What a stage wants of a model."""

    def __call__(self, model: Decoder, batch: Tokens) -> Loss:
        """The cost of one micro-batch."""
        ...


NATS, COUNT = "nats/", "counted/"  # facts of each component: a sum of costs, and of weights


class NextToken:
    """Cross-entropy of the next token, at the tokens whose weight is not 0."""

    def __call__(self, model: Decoder, batch: Tokens) -> Loss:
        """Sum over T of weight * -log p(target), in nats; of a blend, also by component."""
        hidden = model.hidden(batch.tokens, batch.spans)
        each = torch.zeros_like(batch.weights) if len(batch.names) > 1 else None
        total = linear_cross_entropy(
            hidden, model.lm_head.weight, batch.targets, batch.weights, each=each
        )
        return Loss(total, batch.count, {} if each is None else by_source(each, batch))


def by_source(each: Tensor, batch: Tokens) -> dict[str, float]:
    """Facts: for every component of the blend, the sum of `each` [T] and of the weights."""
    found = {}
    windows = torch.stack([each, batch.weights]).view(2, len(batch.sources), -1).sum(2)
    costs, weights = windows.double().tolist()
    for number, name in enumerate(batch.names):
        mine = [at for at, source in enumerate(batch.sources) if source == number]
        found[NATS + name] = sum(costs[at] for at in mine)
        found[COUNT + name] = sum(weights[at] for at in mine)
    return found


def told(facts: dict[str, float]) -> dict[str, float]:
    """A step's facts as metrics: `loss/NAME` instead of a component's sums, where it was met."""
    found = {k: v for k, v in facts.items() if not k.startswith((NATS, COUNT))}
    for key, nats in facts.items():
        name = key.removeprefix(NATS)
        if key != name and facts[COUNT + name]:
            found[f"loss/{name}"] = nats / facts[COUNT + name]
    return found
