"""The ranks of a run: who reads which samples, who shares what, and what all agree on."""

import os
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from cairn.base import UserError
from cairn.ops.context import Context
from cairn.tokens.batch import Batch
from cairn.train.objective import Tokens
from cairn.train.parallel import Parallel
from cairn.train.precision import pick_device

PATIENCE = timedelta(days=30)  # ranks wait for the first one while it makes what trains nobody


@dataclass(frozen=True)
class Ranks:
    """One process among those of a run; a run of one process has no groups."""

    device: torch.device
    rank: int = 0
    world: int = 1
    reader: int = 0
    """Which of the readers this is: the ranks of one reader see the same samples."""
    readers: int = 1
    contexts: int = 1
    """Ranks that share the tokens of a reader."""
    context_rank: int = 0
    context: ProcessGroup | None = None
    tensors: int = 1
    """Ranks that share every matrix."""
    tensor_rank: int = 0
    tensor: ProcessGroup | None = None
    adding: ProcessGroup | None = None
    """Ranks with tokens of their own: losses and gradients add up over them."""
    mesh: DeviceMesh | None = None
    """(data, shard): the ranks that share parameters."""
    storing: ProcessGroup | None = None
    """All ranks, for what saves in the background."""
    blocks: tuple[ProcessGroup, ...] = ()
    """Consecutive tensor-parallel ranks with this one in it: all sizes that divide `tensors`."""

    @property
    def lead(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def block(self, size: int) -> ProcessGroup:
        """The group of this rank's `size` consecutive tensor-parallel ranks."""
        return next(group for group in self.blocks if dist.get_world_size(group) == size)

    def total(self, values: list[float]) -> list[float]:
        """Sums over the ranks that have tokens of their own."""
        return values if self.adding is None else self._summed(values, self.adding)

    def everywhere(self, values: list[float]) -> list[float]:
        """Sums over all ranks."""
        return values if self.world == 1 else self._summed(values, None)

    def _summed(self, values: list[float], group: ProcessGroup | None) -> list[float]:
        summed = torch.tensor(values, dtype=torch.float64).to(self.device)
        dist.all_reduce(summed, group=group)
        return summed.tolist()

    def any(self, flag: bool, group: ProcessGroup | None = None) -> bool:
        """Whether any rank says so; who asks in the background does so in a group of its own."""
        if self.world == 1:
            return flag
        said = torch.tensor(int(flag))
        dist.all_reduce(said, dist.ReduceOp.MAX, group)
        return bool(said.item())

    def wait(self, group: ProcessGroup | None = None) -> None:
        """Until all ranks are here."""
        self.any(False, group)

    def tokens(self, batch: Batch) -> Tokens:
        """This rank's part of a reader's batch, on its device; UserError for uneven parts."""
        if self.context is None:
            return Tokens.of(batch, self.device)
        if len(batch.tokens) % self.contexts:
            problem = f"does not divide the {len(batch.tokens)} tokens of a micro-batch"
            raise UserError("parallel.context", self.contexts, problem, "take a divisor")
        bounds = tuple(batch.bounds.tolist())
        part = Context(self.context, self.context_rank, self.contexts, bounds)
        return Tokens.of(batch, self.device, part)


def processes() -> tuple[int, int]:
    """This process's rank, and how many `torchrun` started; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def join(parallel: Parallel, device: str) -> Ranks:
    """Meet the other processes that `torchrun` started; all of them come here alike.

    UserError where the sizes in `parallel` do not make their number.
    """
    world = processes()[1]
    parallel.shards(world)
    place = pick_device(device)
    if world == 1:
        return Ranks(place)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(place)
    meet()
    return _ranks(parallel, place)


def meet() -> None:
    """Open the connections between all processes, once."""
    if dist.is_initialized():
        return
    store, rank, world = next(rendezvous("env://", timeout=PATIENCE))
    store.set_timeout(PATIENCE)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    met = PrefixStore(_meeting(store, rank, world), store)
    dist.init_process_group(backend, store=met, rank=rank, world_size=world, timeout=PATIENCE)


def _meeting(store: Store, rank: int, world: int) -> str:
    """A name that the living processes agree on, for what they tell each other in the store.

    The store of `torchrun` outlives them: after a restart it still has the addresses of the dead,
    and nodes may have counted restarts differently. So the first process gives a name of its own to
    each meeting, and lets only those in who have answered to it.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("meeting", own)
        answers = [store.get(f"{own}/{other}").decode() for other in range(1, world)]
        store.set(f"{own}/all", " ".join(answers))
        return own
    while True:
        name = store.get("meeting").decode()
        store.set(f"{name}/{rank}", own)
        until = time.monotonic() + 1.0
        while time.monotonic() < until and not store.check([f"{name}/all"]):
            time.sleep(0.02)
        if store.check([f"{name}/all"]) and own in store.get(f"{name}/all").decode().split():
            return name


@cache  # groups are opened once, for all artifacts of a plan that are made alike
def _ranks(parallel: Parallel, device: torch.device) -> Ranks:
    rank, world = dist.get_rank(), dist.get_world_size()
    tensors, contexts = parallel.tensor, parallel.context
    sharers = parallel.shards(world) * contexts  # who shares a sequence shares parameters too
    tensor_rank, column = rank % tensors, rank // tensors
    lines = [list(range(t, world, tensors)) for t in range(tensors)]
    rows = [list(range(c, c + tensors)) for c in range(0, world, tensors)]
    runs = [line[i : i + contexts] for line in lines for i in range(0, len(line), contexts)]
    sizes = [size for size in range(2, tensors + 1) if tensors % size == 0]
    blocks = [_own([r[i : i + s] for r in rows for i in range(0, tensors, s)]) for s in sizes]
    adding = len(lines[0])
    mesh = init_device_mesh(
        device.type,
        (parallel.data, sharers, tensors),
        mesh_dim_names=("data", "shard", "tensor"),
    )
    return Ranks(
        device=device,
        rank=rank,
        world=world,
        reader=column // contexts,
        readers=adding // contexts,
        contexts=contexts,
        context_rank=column % contexts,
        context=_own(runs) if contexts > 1 else None,
        tensors=tensors,
        tensor_rank=tensor_rank,
        tensor=blocks[-1] if tensors > 1 else None,
        adding=_own(lines) if adding > 1 else None,
        mesh=mesh["data", "shard"] if adding > 1 else None,
        storing=_own([list(range(world))], "gloo"),
        blocks=tuple(blocks),
    )


def _own(parts: list[list[int]], backend: str | None = None) -> ProcessGroup:
    """Open a group of every part; this rank's."""
    rank = dist.get_rank()
    groups = [dist.new_group(part, backend=backend) for part in parts]
    own = next(group for group, part in zip(groups, parts, strict=True) if rank in part)
    assert isinstance(own, ProcessGroup)
    return own
