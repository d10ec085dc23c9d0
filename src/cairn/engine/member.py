"""A rank that does as the first one tells: the same forwards over its own share and pools."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from cairn.base import UserError
from cairn.engine.mirror import Ref
from cairn.engine.pool import Pool, Sizes
from cairn.engine.runner import Batch, Runner
from cairn.engine.share import Share, load_share
from cairn.engine.team import connect, disconnect, free_on
from cairn.engine.weights import put_weights, read_weights
from cairn.model import Decoder


def begin(share: Share, rank: int, port: int, pipe: Connection, words: Connection) -> None:
    """The whole life of the process of a rank; `words` takes why it ended, if it fails."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the first rank says when to end
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_outlive_nobody, daemon=True).start()
    share = replace(share, rank=rank)
    try:
        _serve(share, port, pipe)
    except EOFError:
        return  # the first rank is no more
    except BaseException as error:
        words.send(f"{type(error).__name__} {error}")
        words.close()
        os._exit(1)  # not through destructors that wait for others


def _outlive_nobody() -> None:
    """A rank that waits for others on its GPU does not see its pipe close."""
    first = parent_process()
    assert first is not None
    first.join()
    os._exit(1)


def _serve(share: Share, port: int, pipe: Connection) -> None:
    try:
        model = load_share(share)
    except UserError as error:
        pipe.send(error)
        pipe.recv()  # until the first rank leaves
        return
    pipe.send(None)
    store = TCPStore("127.0.0.1", port, share.ranks, is_master=False)
    connect(store, share)
    pipe.send(free_on(share))
    member = Member(model, share, pipe)
    with torch.inference_mode(), contextlib.suppress(_Over):
        while True:
            for name, *args in pipe.recv():
                member.orders[name](*args)
    member.release()
    disconnect(share)


class _Over(Exception):  # noqa: N818 - nothing went wrong
    """The end was told."""


class Member:
    """One rank's share, pools, and the copies that it keeps for the first one."""

    def __init__(self, model: Decoder, share: Share, pipe: Connection) -> None:
        self._model, self._share, self._pipe = model, share, pipe
        self._copies: dict[int, Any] = {}
        self._hidden = torch.empty(0)
        self._found: dict[str, Tensor] = {}
        self._pooled: Runner | None = None
        self.orders: dict[str, Callable[..., None]] = {
            "pools": self._pools,
            "pool": self._pool,
            "forget": self._forget,
            "run": self._run,
            "head": self._head,
            "check": self._check,
            "read_weights": self._read_weights,
            "put_weights": self._put_weights,
            "end": self._end,
        }
        """What can be told, by name."""

    def release(self) -> None:
        """Wait for what was launched, and let go of graphs: they hold the connections."""
        if self._share.device == "cuda":
            torch.cuda.synchronize()
        if self._pooled is not None:
            self._pooled.release()

    @property
    def _runner(self) -> Runner:
        assert self._pooled is not None, "pools come first"
        return self._pooled

    def _pools(self, sizes: Sizes, graphs: bool | None) -> None:
        model = self._model
        self._pooled = Runner(model, Pool(model.config, sizes, model.device, model.dtype), graphs)

    def _pool(self, method: str, args: tuple[Any, ...], number: int | None) -> None:
        given = [self._copies[a.number] if isinstance(a, Ref) else a for a in args]
        found = getattr(self._runner.pool, method)(*given)
        if number is not None:
            self._copies[number] = found

    def _forget(self, numbers: list[int]) -> None:
        for number in numbers:
            del self._copies[number]

    def _run(self, batch: Batch, count: int) -> None:
        tokens = torch.empty(count, dtype=torch.int64, device=self._model.device)
        dist.broadcast(tokens, 0)
        self._hidden = self._runner.compute(tokens, batch)

    def _head(self, places: list[int]) -> None:
        self._runner.head(self._hidden, places)

    def _check(self) -> None:
        self._runner.check()

    def _read_weights(self, folder: Path) -> None:
        """Read, and change nothing yet: another rank may find them damaged."""
        try:
            self._found = read_weights(self._model, folder, self._share)
        except (UserError, OSError) as error:
            self._found = {}
            self._pipe.send(error if isinstance(error, UserError) else UserError(str(error)))
        else:
            self._pipe.send(None)

    def _put_weights(self) -> None:
        put_weights(self._model, self._found)
        self._found = {}

    def _end(self) -> None:
        raise _Over
