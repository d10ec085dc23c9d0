"""Objectives: what a batch costs, as a sum and a count that are divided once, at the end."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from cairn.model import Decoder, Spans
from cairn.ops import linear_cross_entropy
from cairn.tokens.batch import Batch

if TYPE_CHECKING:
    from cairn.ops.context import Context


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
    sources: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Component of the blend, by its place in `names`, of every token; empty without a blend."""
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, batch: Batch, device: torch.device, context: "Context | None" = None) -> "Tokens":
        """From the stream's arrays; with `context`, the part of it that this rank has."""
        part = slice(None) if context is None else context.part
        spans = Spans(torch.from_numpy(batch.bounds).long())
        return cls(
            torch.from_numpy(batch.tokens[part]).to(device),
            torch.from_numpy(batch.targets[part]).to(device),
            torch.from_numpy(batch.weights[part]).to(device),
            spans if context is None else Spans.part(context),
            float(batch.weights[part].sum(dtype="float64")),
            _sources(batch)[part],
            batch.names,
        )


def _sources(batch: Batch) -> np.ndarray:
    """int64 [T]: the component that each token's window is from."""
    windows = np.asarray(batch.sources, np.int64)
    return np.repeat(windows, len(batch.tokens) // max(1, len(windows)))


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
        head, vocabulary = model.lm_head.weight, model.vocabulary
        total = linear_cross_entropy(
            hidden, head, batch.targets, batch.weights, each=each, vocabulary=vocabulary
        )
        return Loss(total, batch.count, {} if each is None else by_source(each, batch))


def by_source(each: Tensor, batch: Tokens) -> dict[str, float]:
    """Facts: for every component of the blend, the sum of `each` [T] and of the weights."""
    both = torch.stack([each, batch.weights], 1).double()
    place = torch.from_numpy(batch.sources).to(both.device)
    sums = both.new_zeros(len(batch.names), 2).index_add_(0, place, both).tolist()
    costs = {NATS + name: nats for name, (nats, _) in zip(batch.names, sums, strict=True)}
    return costs | {COUNT + name: count for name, (_, count) in zip(batch.names, sums, strict=True)}


def told(facts: dict[str, float]) -> dict[str, float]:
    """A step's facts as metrics: `loss/NAME` instead of a component's sums, where it was met."""
    found = {k: v for k, v in facts.items() if not k.startswith((NATS, COUNT))}
    for key, nats in facts.items():
        name = key.removeprefix(NATS)
        if key != name and facts[COUNT + name]:
            found[f"loss/{name}"] = nats / facts[COUNT + name]
    return found
