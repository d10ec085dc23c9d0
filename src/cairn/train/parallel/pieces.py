"""Which part of every parameter a rank holds: the one map between shards and whole tensors.

Tensor parallelism gives a rank some rows or columns of a parameter (`model.sharding`), FSDP then
some rows of those. What is saved, loaded, drawn and gathered goes by places in the whole tensor, so
that any number of ranks reads what any other wrote.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cairn.model import Decoder, ModelConfig
from cairn.model.sharding import Cut, cut_of, cuts
from cairn.train.parallel.ranks import Ranks

VOCABULARY = ("backbone.embeddings.weight", "lm_head.weight")

Place = tuple[slice, ...]


@dataclass(frozen=True)
class Chunk:
    """A block of a parameter."""

    whole: Place
    """In the whole tensor."""
    held: Place
    """In what this rank holds."""
    owners: tuple[int, ...]
    """The tensor-parallel ranks that have it."""


@dataclass(frozen=True)
class Piece:
    """What a rank holds of a parameter; nothing where it has no chunks."""

    shape: tuple[int, ...]
    """Of the whole tensor."""
    chunks: tuple[Chunk, ...]


def held(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor that may be shared by FSDP."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def all_cuts(config: ModelConfig, ranks: int) -> list[dict[str, dict[str, Cut]]]:
    """Of every tensor-parallel rank, as `sharding.cuts`."""
    return [cuts(config, rank, ranks, copy_groups=True) for rank in range(ranks)]


def cut_for(
    config: ModelConfig, table: dict[str, dict[str, Cut]], name: str, rank: int, ranks: int
) -> Cut:
    """The cut of a parameter on one of several tensor-parallel ranks."""
    if name in VOCABULARY:
        size = config.vocab_size
        return Cut(0, ((size * rank // ranks, size * (rank + 1) // ranks),))
    return cut_of(config, table, name)


def pieces(model: Decoder, ranks: Ranks) -> dict[str, Piece]:
    """By the name of each parameter of a model that `shard` has cut."""
    config, count = model.config, ranks.tensors
    tables = all_cuts(config, count)
    found = {}
    for name, parameter in model.named_parameters():
        own = [cut_for(config, tables[rank], name, rank, count) for rank in range(count)]
        found[name] = _piece(parameter, _rows(parameter), own, ranks.tensor_rank)
    return found


def _piece(parameter: Tensor, rows: slice, own: list[Cut], rank: int) -> Piece:
    cut, everyone = own[rank], tuple(range(len(own)))
    shape = list(parameter.shape)
    if cut.first_only:
        chunks = _by_rows([((0, shape[0]), (0,))], parameter, rows) if rank == 0 else iter(())
        return Piece(tuple(shape), tuple(chunks))
    if cut.dim is None:
        chunks = _by_rows([((0, shape[0]), everyone)], parameter, rows)
        return Piece(tuple(shape), tuple(chunks))
    shape[cut.dim] = max(stop for other in own for _, stop in other.parts)
    owners = [tuple(r for r in everyone if part in own[r].parts) for part in cut.parts]
    parts = list(zip(cut.parts, owners, strict=True))
    chunks = (_by_rows if cut.dim == 0 else _by_columns)(parts, parameter, rows)
    return Piece(tuple(shape), tuple(chunks))


def _rows(parameter: Tensor) -> slice:
    """The rows that FSDP leaves to this rank of what it shares: as torch.chunk cuts them."""
    if not isinstance(parameter, DTensor):
        return slice(0, len(parameter))
    mesh = parameter.device_mesh
    each = -(-len(parameter) // mesh.size(-1))
    start = min(mesh.get_local_rank(mesh.ndim - 1) * each, len(parameter))
    return slice(start, start + len(parameter.to_local()))


Parts = list[tuple[tuple[int, int], tuple[int, ...]]]


def _by_rows(parts: Parts, parameter: Tensor, rows: slice) -> Iterator[Chunk]:
    rest = tuple(slice(0, size) for size in parameter.shape[1:])
    at = 0
    for (start, stop), owners in parts:
        low, high = max(at, rows.start), min(at + stop - start, rows.stop)
        if low < high:
            whole = slice(start + low - at, start + high - at)
            yield Chunk((whole, *rest), (slice(low - rows.start, high - rows.start), *rest), owners)
        at += stop - start


def _by_columns(parts: Parts, parameter: Tensor, rows: slice) -> Iterator[Chunk]:
    own = slice(0, rows.stop - rows.start)
    at = 0
    for (start, stop), owners in parts:
        width = stop - start
        if own.stop:
            yield Chunk((rows, slice(start, stop)), (own, slice(at, at + width)), owners)
        at += width


@torch.no_grad()
def put(target: Tensor, piece: Piece, whole: Tensor) -> None:
    """Fill what this rank holds of a tensor from the whole of it; zeros where it has no part."""
    mine = held(target)
    mine.zero_()
    for chunk in piece.chunks:
        mine[chunk.held] = whole[chunk.whole].to(mine)


def cut_parameter(parameter: Tensor, cut: Cut, rank: int) -> nn.Parameter:
    """A tensor-parallel rank's part of a whole parameter."""
    whole = parameter.detach()
    if cut.first_only and rank:
        whole = torch.zeros_like(whole)
    elif cut.dim is not None:
        whole = torch.cat([whole.narrow(cut.dim, a, b - a) for a, b in cut.parts], cut.dim)
    return nn.Parameter(whole, requires_grad=parameter.requires_grad)
