"""Tensor parallelism: every matrix cut over ranks, and tokens between mixers (sequence parallel).

A mixer's parameters are cut by heads, groups and neurons (`model.sharding`): its input is gathered
from all ranks' tokens, and its output, a summand of the whole, is summed and scattered to them.
So norms and the residual stream are computed once, each token on one rank (arXiv 2205.05198).
Embedding and output matrix are cut by the vocabulary. Forwards stay as they are: what passes
between ranks stands in hooks around mixers, the last norm and the output matrix.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from cairn.model import Decoder, ModelConfig
from cairn.model.decoder import Block
from cairn.model.mamba import Mamba2
from cairn.model.sharding import norm_sharers, share_of
from cairn.ops.collectives import gather, scatter_sum
from cairn.ops.mamba import MixerForm
from cairn.ops.vocabulary import Vocabulary, bounds_of, give_all_logits
from cairn.train.parallel.pieces import all_cuts, cut_for, cut_parameter
from cairn.train.parallel.ranks import Ranks


@dataclass
class _Tokens:
    """Rows of the residual stream over ranks, padded to equal parts."""

    group: ProcessGroup
    whole: int = 0
    """Tokens of the forward that goes on."""

    def all(self, x: Tensor) -> Tensor:
        """This rank's rows to those of all tokens."""
        return gather(x, self.group)[: self.whole]

    def own(self, y: Tensor) -> Tensor:
        """Summands of all tokens' rows to the sums of this rank's."""
        ranks = dist.get_world_size(self.group)
        return scatter_sum(functional.pad(y, (0, 0, 0, -len(y) % ranks)), self.group)


class _Embedding(nn.Module):
    """Rows of the embedding for a part of the vocabulary."""

    def __init__(self, weight: Tensor, vocabulary: Vocabulary, tokens: _Tokens) -> None:
        super().__init__()
        self.weight, self.vocabulary, self.tokens = weight, vocabulary, tokens

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [T] to this rank's rows of [T, D]."""
        self.tokens.whole = len(ids)
        row, here = self.vocabulary.places(ids, len(self.weight))
        return self.tokens.own(functional.embedding(row, self.weight) * here[:, None])


def cut_model(model: Decoder, ranks: Ranks) -> None:
    """Leave this rank's share of every matrix of a whole model, and put hooks between them."""
    assert ranks.tensor is not None
    config, rank, count = model.config, ranks.tensor_rank, ranks.tensors
    share = share_of(config, count, copy_groups=True)
    table = all_cuts(config, count)[rank]
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        cut = cut_for(config, table, name, rank, count)
        setattr(model.get_submodule(owner), leaf, cut_parameter(parameter, cut, rank))
    tokens = _Tokens(ranks.tensor)
    bounds = bounds_of(config.vocab_size, count)
    vocabulary = Vocabulary(ranks.tensor, bounds[rank])
    model.vocabulary = vocabulary
    backbone = model.backbone
    embedding = _Embedding(backbone.embeddings.weight, vocabulary, tokens)
    backbone.add_module("embeddings", embedding)
    if config.tie_embeddings:
        model.lm_head.weight = backbone.embeddings.weight
    for block in backbone.layers:
        assert isinstance(block, Block)
        mixer = block.mixer
        mixer.config = share
        if isinstance(mixer, Mamba2):
            mixer.form = _form(mixer.form, share, norm_sharers(config, count), ranks)
        _hook(mixer, tokens)

    def last(module: nn.Module, given: Any, y: Any) -> Any:
        if isinstance(y, tuple):  # the norm, and the sum that it was of
            return tokens.all(y[0]), y[1]
        return tokens.all(y)

    backbone.norm_f.register_forward_hook(last)
    give_all_logits(model.lm_head, bounds, vocabulary.group)


def _form(form: MixerForm, share: ModelConfig, sharers: int, ranks: Ranks) -> MixerForm:
    group = ranks.block(sharers) if sharers > 1 else None
    slices = share.gated_norm_groups
    return replace(form, groups=share.groups, norm_groups=slices, norm_ranks=group)


def _hook(mixer: nn.Module, tokens: _Tokens) -> None:
    def before(module: nn.Module, given: Any) -> Any:
        return tokens.all(given[0]), *given[1:]

    def after(module: nn.Module, given: Any, y: Tensor) -> Tensor:
        return tokens.own(y)

    mixer.register_forward_pre_hook(before)
    mixer.register_forward_hook(after)
