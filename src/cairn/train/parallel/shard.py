"""A whole model to this rank's share of it, and back."""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from cairn.model import Decoder, ModelConfig, build, load
from cairn.model.decoder import drawn, empty, skeleton
from cairn.train.parallel.pieces import Piece, held, pieces, put
from cairn.train.parallel.ranks import Ranks
from cairn.train.parallel.tensor import cut_model


def fresh(config: ModelConfig, seed: int, ranks: Ranks) -> Decoder:
    """This rank's share of the model that `build` makes of a configuration and a seed."""
    if ranks.world == 1 or config.tie_embeddings:
        return shard(build(config, seed, ranks.device), ranks)
    return _filled(config, drawn(config, seed), ranks)


def loaded(folder: Path, ranks: Ranks, config: ModelConfig | None = None) -> Decoder:
    """This rank's share of a checkpoint's model, in fp32; `config`: otherwise than it says."""
    stored = load(folder)  # a view of its files
    config = config or stored.config
    if ranks.world > 1 and not config.tie_embeddings:
        return _filled(config, stored.named_parameters(), ranks)
    model = empty(config, ranks.device)
    model.load_state_dict(stored.state_dict())
    return shard(model, ranks)


def _filled(config: ModelConfig, tensors: Iterable[tuple[str, Tensor]], ranks: Ranks) -> Decoder:
    """A share that is filled one whole tensor at a time: no process holds the whole model.

    Not for tied matrices, which `to_empty` would part.
    """
    model = shard(skeleton(config), ranks)
    model.to_empty(device=ranks.device)
    mine, parameters = pieces(model, ranks), dict(model.named_parameters())
    for name, tensor in tensors:
        put(parameters.pop(name), mine[name], tensor)
    assert not parameters, f"not drawn: {sorted(parameters)}"
    return model


def shard(model: Decoder, ranks: Ranks) -> Decoder:
    """Leave in `model`, which is whole and the same on all ranks, this rank's share; returns it.

    With (data, shard) ranks, parameters are gathered layer by layer when they are needed, and
    gradients are summed to the rank that holds the parameter (FSDP2; hybrid where data > 1).
    """
    if ranks.tensor is not None:
        cut_model(model, ranks)
    if ranks.mesh is not None:
        # It warns of additions in place to what blocks return: there are none.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        for block in model.backbone.layers:
            _share(block, ranks)
        # The root has the embedding and the output matrix, which the objective reads by itself.
        _share(model, ranks, reshard_after_forward=False)
        register_fsdp_forward_method(model, "hidden")
    return model


def _share(module: nn.Module, ranks: Ranks, reshard_after_forward: bool = True) -> None:
    assert ranks.mesh is not None
    shared = fully_shard(module, mesh=ranks.mesh, reshard_after_forward=reshard_after_forward)
    assert isinstance(shared, FSDPModule)
    # The loss is divided once, by all tokens that count: gradients are sums until then.
    shared.set_gradient_divide_factor(1.0)
    shared.set_force_sum_reduction_for_comms(True)


@torch.no_grad()
def whole(model: Decoder, ranks: Ranks) -> Decoder | None:
    """The whole model on the CPU of the lead rank, None on others; all ranks come here."""
    if ranks.world == 1:
        return model
    found = empty(model.config, "cpu", model.dtype) if ranks.lead else None
    targets = dict(found.named_parameters()) if found is not None else {}
    collect(dict(model.named_parameters()), pieces(model, ranks), targets, ranks)
    return found


@torch.no_grad()
def collect(
    tensors: Mapping[str, Tensor],
    mine: dict[str, Piece],
    targets: Mapping[str, Tensor],
    ranks: Ranks,
) -> None:
    """Fill the whole tensors `targets` of the lead rank from all ranks' pieces, one at a time."""
    for name, tensor in tensors.items():
        own = held(tensor).cpu()
        told: list[tuple[Piece, torch.Size]] | None = None
        if ranks.lead:
            told = [(mine[name], own.shape)] * ranks.world
        dist.gather_object((mine[name], own.shape), told)
        if told is None:
            if own.numel():
                dist.send(own.contiguous(), 0)
            continue
        for rank, (piece, shape) in enumerate(told):
            there = own if rank == 0 else own.new_empty(shape)
            if rank and there.numel():
                dist.recv(there, rank)
            for chunk in piece.chunks:
                targets[name][chunk.whole] = there[chunk.held]
