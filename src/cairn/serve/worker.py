"""The thread that drives the engine, and its hand-off to the event loop of the server."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from cairn.engine import Completion, Delta, SamplingParams, Sequence
from cairn.engine.engine import Engine
from cairn.serve.errors import ApiError, as_api_error

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One completion to make."""

    prompt: str | list[int]
    params: SamplingParams
    suffix: str | None = None


@dataclass(eq=False)
class Ticket:
    """The completions of one HTTP request: their deltas, in the order in which they come."""

    places: dict[int, int]
    """The engine's id of each completion, and its place in the request."""
    loop: asyncio.AbstractEventLoop
    _close: Callable[["Ticket"], None]
    _news: asyncio.Queue[tuple[int, Delta] | ApiError] = field(default_factory=asyncio.Queue)
    _closed: bool = False

    @property
    def count(self) -> int:
        """How many completions."""
        return len(self.places)

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """(place of the completion in the request, what is new), until all have ended."""
        left = self.count
        while left:
            found = await self._news.get()
            if isinstance(found, ApiError):
                raise found
            left -= found[1].completion is not None
            yield found

    async def completions(self) -> list[Completion]:
        """All completions, in the order of the request."""
        done: dict[int, Completion] = {}
        async for place, delta in self.deltas():
            if delta.completion is not None:
                done[place] = delta.completion
        return [done[place] for place in range(self.count)]

    def close(self) -> None:
        """The client is served or gone: what still runs is aborted and its slots freed."""
        if not self._closed:
            self._closed = True
            self._close(self)

    def put(self, item: tuple[int, Delta] | ApiError) -> None:
        """Hand over news, in the event loop."""
        self._news.put_nowait(item)


class Worker:
    """Owns an engine in a thread of its own; `open` is called from an event loop."""

    def __init__(self, engine: Engine, most_open: int) -> None:
        self.engine = engine
        self._most_open = most_open
        self._open = 0  # completions with an open ticket; event loop only
        self._ending = False
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tickets: dict[int, Ticket] = {}  # by the engine's ids; engine thread only
        self._thread = threading.Thread(target=self._run, name="cairn-engine", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def close(self) -> None:
        """Abort what runs, and end the thread after the step that it is in."""
        self._ending = True
        self._commands.put(None)
        await asyncio.to_thread(self._thread.join)

    async def open(self, jobs: list[Job]) -> Ticket:
        """Queue the jobs; UserError if one cannot run, ApiError 429 if too many are open."""
        if self._ending:
            raise ApiError(503, "the server is shutting down")
        if self._open + len(jobs) > self._most_open:
            raise ApiError(429, f"{self._open} completions are open: try again later")
        self._open += len(jobs)
        try:
            sequences = await asyncio.to_thread(self._prepare, jobs)
            if self._ending:  # while the prompts were encoded
                raise ApiError(503, "the server is shutting down")
        except BaseException:
            self._open -= len(jobs)
            raise
        places = {sequence.id: place for place, sequence in enumerate(sequences)}
        ticket = Ticket(places, asyncio.get_running_loop(), self._release)
        self._commands.put(lambda: self._enter(ticket, sequences))
        return ticket

    def _prepare(self, jobs: list[Job]) -> list[Sequence]:
        """In a thread of the loop's pool: encoding a long text holds up nobody."""
        return [self.engine.prepare(job.prompt, job.params, suffix=job.suffix) for job in jobs]

    def _release(self, ticket: Ticket) -> None:
        self._open -= ticket.count
        self._commands.put(lambda: self._drop(ticket))

    # Everything below runs in the engine's thread.

    def _run(self) -> None:
        try:
            while self._obey():
                try:
                    deltas = self.engine.step()
                except Exception as error:
                    log.exception("the engine failed in a step")
                    self._fail_all(as_api_error(error))
                    continue
                self._route(deltas)
        finally:
            self._ending = True
            while not self._commands.empty():  # requests that came while the last step ran
                command = self._commands.get()
                if command is not None:
                    command()
            self._fail_all(ApiError(503, "the server is shutting down"))

    def _obey(self) -> bool:
        """Carry out what was asked for; wait for it if there is nothing else to do."""
        while True:
            try:
                command = self._commands.get(block=not self.engine.busy)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _enter(self, ticket: Ticket, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            self._tickets[self.engine.enter(sequence)] = ticket

    def _drop(self, ticket: Ticket) -> None:
        for request in ticket.places:
            self.engine.abort(request)
            self._tickets.pop(request, None)

    def _route(self, deltas: list[Delta]) -> None:
        news: dict[asyncio.AbstractEventLoop, list[News]] = {}
        for delta in deltas:
            ticket = self._tickets[delta.id]
            item = (ticket.places[delta.id], delta)
            news.setdefault(ticket.loop, []).append((ticket, item))
            if delta.completion is not None:
                del self._tickets[delta.id]
        for loop, found in news.items():
            _tell(loop, found)

    def _fail_all(self, error: ApiError) -> None:
        for ticket in dict.fromkeys(self._tickets.values()):
            self._drop(ticket)
            _tell(ticket.loop, [(ticket, error)])


News = tuple[Ticket, tuple[int, Delta] | ApiError]


def _tell(loop: asyncio.AbstractEventLoop, news: list[News]) -> None:
    """One wake-up of the loop for all the news of a step."""
    try:
        loop.call_soon_threadsafe(_deliver, news)
    except RuntimeError:  # the loop is closed: nobody is left to listen
        log.info("news for a loop that has ended")


def _deliver(news: list[News]) -> None:
    for ticket, item in news:
        ticket.put(item)
