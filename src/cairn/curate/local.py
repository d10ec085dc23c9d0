"""The driver for one machine: a pool of processes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context
from types import TracebackType
from typing import Any, TypeVar

from cairn.curate import shuffles

Task = TypeVar("Task")
Result = TypeVar("Result")


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
        first = list(islice(pending, 2))
        if self.workers == 1 or len(first) < 2:
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

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"))
        return self._pool
