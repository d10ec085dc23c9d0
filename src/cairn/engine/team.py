"""The processes that share a model, as the first of them drives the others.

The first rank schedules, draws and serves; the others do as they are told, in the order in which
it does the same itself: that is all that keeps them together. Orders go through pipes, as numbers
of slots, pages and tokens; activations and logits go between devices. A rank that ends takes the
whole team down, with one reason for it.
"""

import atexit
import contextlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.distributed_c10d import Store

from cairn.base import UserError
from cairn.engine.pool import free_memory
from cairn.engine.share import Share, load_share
from cairn.engine.weights import put_weights, read_weights
from cairn.model import Decoder, ModelConfig
from cairn.model.sharding import share_of

PATIENCE = timedelta(minutes=10)  # for one exchange: the longest is a kernel's first compilation
NEWS = 2.0  # seconds from a broken connection until it is known which process ended
LEAVE = 10.0  # seconds that the others get to end by themselves

Hears = Callable[[str], None]


class Team:
    """The other ranks. Not thread-safe: who drives the engine drives the team.

    `lost` says why it is over, if it is: then every call raises RuntimeError.
    """

    def __init__(self, share: Share) -> None:
        self.ranks, self._share = share.ranks, share
        self.free = 0
        """Bytes free on the smallest device, once they have met."""
        self.lost: str | None = None
        self._told: list[tuple[Any, ...]] = []
        self._ending = False
        self._lock, self._parting = threading.Lock(), threading.Lock()
        self._hearers: list[Hears] = []
        self._before: list[Callable[[], None]] = []
        self._threads = torch.get_num_threads()
        store = _store(share.ranks)
        context = multiprocessing.get_context("spawn")
        from cairn.engine.member import begin

        self._pipes: list[connection.Connection] = []
        self._words: list[connection.Connection] = []
        self._processes: list[SpawnProcess] = []
        for rank in range(1, share.ranks):
            ours, theirs = context.Pipe()
            words, says = context.Pipe(duplex=False)
            given = (share, rank, store.port, theirs, says)
            process = context.Process(target=begin, args=given, name=f"rank-{rank}", daemon=True)
            process.start()
            theirs.close()
            says.close()
            self._pipes.append(ours)
            self._words.append(words)
            self._processes.append(process)
        self._store = store
        threading.Thread(target=self._watch, name="cairn-ranks", daemon=True).start()
        atexit.register(self.close)  # or NCCL keeps the process from ending

    def when_lost(self, hears: Hears) -> None:
        """Have somebody told, in any thread, why the team is over; at once if it is."""
        with self._lock:
            self._hearers.append(hears)
            why = self.lost
        if why is not None:
            hears(why)

    def before_end(self, action: Callable[[], None]) -> None:
        """What is done before connections close."""
        self._before.append(action)

    def tell(self, name: str, *args: Any) -> None:
        """Leave an order for the others; it goes out with the next that cannot wait."""
        self._told.append((name, *args))

    @contextlib.contextmanager
    def together(self, name: str, *args: Any) -> Iterator[None]:
        """Have the others do what is done inside; an error there ends the team."""
        self.tell(name, *args)
        self._send()
        try:
            yield
        except Exception as error:
            self._learn(f"the first rank failed: {type(error).__name__} {error}", error)
        except BaseException:
            self.fail("the first rank was interrupted")
            raise

    def share(self, tensor: Tensor) -> None:
        """What the first rank has, on all; inside `together`."""
        dist.broadcast(tensor, 0)

    def ask(self, name: str, *args: Any) -> list[Any]:
        """What every other rank answers; UserError for the first that raises one."""
        self.tell(name, *args)
        self._send()
        return self.hear()

    def hear(self) -> list[Any]:
        """The next answer of every other rank."""
        found: list[Any] = []
        for pipe in self._pipes:
            try:
                found.append(pipe.recv())
            except (EOFError, OSError):
                self._gone()
        for problem in found:
            if isinstance(problem, UserError):
                raise problem
        return found

    def meet(self) -> None:
        """Connect the ranks, once all have their weights."""
        self.hear()  # that they are there, or why not
        connect(self._store, self._share)
        self.free = min([*self.hear(), free_on(self._share)])

    def replace_weights(self, model: Decoder, folder: Path) -> int:
        """See `weights.replace_weights`: on all ranks, or on none."""
        folder = folder.resolve()
        found = read_weights(model, folder, self._share)
        self.ask("read_weights", folder)
        self.tell("put_weights")
        return put_weights(model, found)

    def close(self) -> None:
        """End the other processes."""
        if self._ending:
            return
        self._ending = True
        atexit.unregister(self.close)
        for action in self._before:
            action()
        if self.lost is None:
            with contextlib.suppress(RuntimeError):
                self.tell("end")
                self._send()
        for process in self._processes:
            process.join(LEAVE)
            if process.exitcode is None:
                process.kill()
        self._disconnect()
        if self._share.device == "cpu":
            torch.set_num_threads(self._threads)

    def _disconnect(self) -> None:
        with self._parting:  # the watch may be at it
            disconnect(self._share)

    def fail(self, why: str) -> None:
        """The team is over; the first reason counts."""
        with self._lock:
            if self.lost is not None or self._ending:
                return
            self.lost = why
            hearers = list(self._hearers)
        for process in self._processes:
            process.kill()
        for hears in hearers:
            hears(why)
        if self._share.device == "cuda":  # who waits for a rank that is gone would wait for ever
            self._disconnect()

    def _send(self) -> None:
        told, self._told = self._told, []
        self.check()
        for pipe in self._pipes:
            try:
                pipe.send(told)
            except OSError:
                self._gone()

    def check(self) -> None:
        """RuntimeError if the team is over."""
        if self.lost is not None:
            raise RuntimeError(f"ranks: {self.lost}")

    def _gone(self) -> None:
        self._learn("a rank closed its pipe")

    def _learn(self, otherwise: str, error: Exception | None = None) -> None:
        """Raise why the team is over: if a process ended, the watch will soon say so."""
        ended = threading.Event()
        self.when_lost(lambda why: ended.set())
        ended.wait(NEWS)
        self.fail(otherwise)
        raise RuntimeError(f"ranks: {self.lost}") from error

    def _watch(self) -> None:
        """Until a process ends that was not told to."""
        ranks = {process.sentinel: rank for rank, process in enumerate(self._processes, 1)}
        ended = connection.wait(list(ranks))
        rank = min(ranks[sentinel] for sentinel in ended if isinstance(sentinel, int))
        process, words = self._processes[rank - 1], self._words[rank - 1]
        process.join(LEAVE)
        said = _how(process.exitcode)
        with contextlib.suppress(EOFError, OSError):
            if words.poll(0):
                said = words.recv()
        self.fail(f"rank {rank} ended: {said}")


def start(share: Share) -> tuple[Decoder, Team]:
    """The first rank's part of a model, and the team that has the others'.

    UserError for a number of ranks that the model or the machine does not have.
    """
    _refuse(share)
    team = Team(share)
    try:
        model = load_share(share)
        team.meet()
        return model, team
    except BaseException:
        team.close()
        raise


def connect(store: Store, share: Share) -> None:
    """Open the connections between the ranks; all come here."""
    backend = "nccl" if share.device == "cuda" else "gloo"
    device = share.place if share.device == "cuda" else None
    with _within():
        dist.init_process_group(
            backend, store=store, rank=share.rank, world_size=share.ranks, timeout=PATIENCE,
            device_id=device,
        )  # fmt: skip


def _store(ranks: int) -> TCPStore:
    """Where ranks find each other. A store that opens its own socket listens on every address of
    the machine, whatever host it is told, and asks nobody who he is."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(ranks)
        port, taken = listening.getsockname()[1], listening.detach()
    return TCPStore(
        "127.0.0.1", port, ranks, is_master=True, wait_for_workers=False, master_listen_fd=taken
    )


@contextlib.contextmanager
def _within() -> Iterator[None]:
    """Inside, gloo and NCCL listen on this machine alone: else on an address of its network."""
    loopback = next(one for _, one in socket.if_nameindex() if one.startswith("lo"))
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, loopback))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def disconnect(share: Share) -> None:
    """Close them; graphs in which they were captured are gone before, or NCCL waits for that.

    On GPUs the other ranks are not asked: who ends first would wait for one that is gone.
    """
    if not dist.is_initialized():
        return
    if share.device == "cpu":
        dist.destroy_process_group()
        return
    abort = dist.distributed_c10d._abort_process_group
    thread = threading.Thread(target=abort, name="cairn-abort", daemon=True)
    thread.start()
    thread.join(LEAVE)


def free_on(share: Share) -> int:
    """Bytes free for this rank: on a CPU all share one memory."""
    free = free_memory(share.place)
    return free if share.device == "cuda" else free // share.ranks


def _refuse(share: Share) -> None:
    ranks = share.ranks
    share_of(ModelConfig.from_folder(share.folder), ranks)
    if share.device == "cuda" and torch.cuda.device_count() < ranks:
        there = torch.cuda.device_count()
        raise UserError("ranks", ranks, f"need a GPU each, and there are {there}", "give fewer")
    if dist.is_initialized():
        problem = "are had by one engine of a process, and not beside torch.distributed"
        raise UserError("ranks", ranks, problem, "close the other engine")


def _how(code: int | None) -> str:
    """An exit code in words."""
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
