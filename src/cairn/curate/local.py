"""The driver for one machine: a pool of processes."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from threading import Thread, Timer
from types import TracebackType
from typing import Any, TypeVar

from cairn.curate import shuffles

Task = TypeVar("Task")
Result = TypeVar("Result")

SOON = 0.1  # seconds: where the first tasks take longer to come, the pool is begun meanwhile
WORK = ["cairn.curate.reading", "cairn.curate.writing"]  # what a worker imports


class Local:
    """Runs tasks in `workers` processes, begun when they are first needed; one runs them here."""

    whole_sources = False  # batches of a large source are tasks of their own
    best_copies = staticmethod(shuffles.best_copies)
    buckets = staticmethod(shuffles.buckets)

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Local":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            # What runs is waited for: nobody may write once the folder's lock is free.
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Result]]:
        """Each task with what `function` makes of it, in the order given.

        Few tasks wait in memory at a time. A single task is not worth a process.
        """
        pending = iter(tasks)
        first = [] if self.workers == 1 else self._first(pending)
        if len(first) < 2:
            yield from ((task, function(task)) for task in chain(first, pending))
            return
        running: deque[tuple[Any, Future[Result]]] = deque()
        try:
            for task in chain(first, pending):
                running.append((task, self._started().submit(function, task)))
                if len(running) > 2 * self.workers:
                    oldest, future = running.popleft()
                    yield oldest, future.result()
            while running:
                oldest, future = running.popleft()
                yield oldest, future.result()
        except BrokenProcessPool:
            raise OSError("a worker was killed, for want of memory perhaps; run it again") from None

    def _first(self, pending: Iterator[Task]) -> list[Task]:
        """Two tasks, if there are; the pool is begun while they are waited for."""
        begin = Timer(SOON, self._started)
        begin.start()
        try:
            return list(islice(pending, 2))
        finally:
            begin.cancel()
            begin.join()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=_context(), initializer=_follow_parent
            )
            for _ in range(self.workers):  # each call begins one process
                self._pool.submit(os.getpid)
        return self._pool


def _context() -> BaseContext:
    """Workers are copies of one process that has imported what they need, where there are such."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(WORK)
    return context


def _follow_parent() -> None:
    """Make this worker end with the process that began it, even where that was killed."""
    parent = parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    Thread(target=follow, daemon=True).start()
