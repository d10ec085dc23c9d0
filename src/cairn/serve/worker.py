"""The thread that drives the engine, and its hand-off to the event loop of the server."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from cairn.base import UserError
from cairn.engine import CodePrompt, Completion, Delta, SamplingParams, Sequence
from cairn.engine.engine import Engine
from cairn.serve.errors import ApiError, as_api_error, refusal
from cairn.serve.metrics import Metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One completion to make."""

    prompt: str | list[int] | CodePrompt
    params: SamplingParams
    suffix: str | None = None
    bare: bool = False
    """Whether a text is taken without what the tokenizer puts around prompts."""
    named: Mapping[str, str] = field(default_factory=dict)
    """Fields of the request by the engine's names of them, where they differ."""


@dataclass(eq=False)
class Ticket:
    """The completions of one HTTP request: their deltas, in the order in which they come."""

    places: dict[int, int]
    """The engine's id of each completion, and its place in the request."""
    prompts: list[list[int]]
    """Token ids of the prompt of each completion."""
    loop: asyncio.AbstractEventLoop
    _close: Callable[["Ticket"], None]
    begun: float = field(default_factory=time.monotonic)
    last: dict[int, float] = field(default_factory=dict)
    """When each completion gave its latest tokens; engine thread only."""
    done: list[Completion] = field(default_factory=list)
    """Those that have ended, as they were read."""
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
            if found[1].completion is not None:
                left -= 1
                self.done.append(found[1].completion)
            yield found

    async def completions(self) -> list[Completion]:
        """All completions, in the order of the request."""
        done: dict[int, Completion] = {}
        async for place, delta in self.deltas():
            if delta.completion is not None:
                done[place] = delta.completion
        return [done[place] for place in range(self.count)]

    @property
    def closed(self) -> bool:
        """Whether the client is served or gone."""
        return self._closed

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

    def __init__(
        self, engine: Engine, most_open: int, name: str = "", metrics: Metrics | None = None
    ) -> None:
        self.engine, self.name = engine, name
        self._metrics = metrics or Metrics()
        self._most_open = most_open
        self._seconds = 1.0  # that a completion took lately, on average
        self._waiting: list[Callable[[], None]] = []  # need the engine idle; its thread only
        self._held: list[Callable[[], None]] = []  # requests that came meanwhile; its thread only
        self._open = 0  # completions with an open ticket; event loop only
        self._ending = False
        self.failed: str | None = None
        """Why the thread ended, if an exception ended it."""
        self._hearers: list[Callable[[str], None]] = []
        self._over, self._lock = False, threading.Lock()  # whether commands are still carried out
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tickets: dict[int, Ticket] = {}  # by the engine's ids; engine thread only
        self._thread = threading.Thread(target=self._run, name="cairn-engine", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def ending(self) -> bool:
        """Whether no new request is taken."""
        return self._ending

    def start(self) -> None:
        """Start the thread."""
        self.engine.when_lost(self._lose)
        self._thread.start()

    def when_failed(self, hears: Callable[[str], None]) -> None:
        """Have somebody told, in the engine's thread, why it ends; call it before `start`."""
        self._hearers.append(hears)

    def drain(self) -> None:
        """Take no new request; those that run go on. Safe in any thread and in a signal handler."""
        self._ending = True

    def end_all(self) -> None:
        """Tell those who still wait that the server ends. Safe in any thread."""
        self._ask(lambda: self._fail_all(_ending()))

    def _lose(self, why: str) -> None:
        """A rank of the engine is lost: those who wait are told, and no new request is taken."""
        log.error("the engine is lost: %s", why)
        self._ending = True
        self._ask(lambda: self._fail_all(_lost()))

    async def alone(self, action: Callable[[Engine], Any], *, abort: bool = False) -> Any:
        """Run `action` in the engine's thread while no request runs; what it gives or raises.

        Running requests are waited for, or aborted; new ones wait until it is done.
        """
        if self._ending:
            raise _ending()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def tell(give: Callable[[Any], None], value: Any) -> None:
            loop.call_soon_threadsafe(lambda: None if done.done() else give(value))

        def act() -> None:
            try:
                if self.failed is not None:
                    raise _failed()
                found = action(self.engine)
            except BaseException as error:  # whatever it is, it is the caller's
                tell(done.set_exception, error)
            else:
                tell(done.set_result, found)

        def ask() -> None:
            self._waiting.append(act)
            if abort:
                self._fail_all(ApiError(503, "the model is being changed", retry_after=1))

        if not self._ask(ask):
            raise _ending()
        return await done

    async def close(self) -> None:
        """Abort what runs, and end the thread after the step that it is in."""
        self._ending = True
        self._ask(None)
        await asyncio.to_thread(self._thread.join)

    async def open(self, jobs: list[Job]) -> Ticket:
        """Queue the jobs; ApiError 400 if one cannot run, 429 if too many are open."""
        if self._ending:
            raise _ending()
        if self._open + len(jobs) > self._most_open:
            wait = self._seconds * self._open / max(1, self.engine.slots)
            message = f"{self._open} completions are open: try again later"
            raise ApiError(429, message, retry_after=min(60, max(1, round(wait))))
        self._open += len(jobs)
        try:
            sequences = await asyncio.to_thread(self._prepare, jobs)
            if self._ending:  # while the prompts were encoded
                raise _ending()
        except BaseException:
            self._open -= len(jobs)
            raise
        places = {sequence.id: place for place, sequence in enumerate(sequences)}
        prompts = [sequence.prompt for sequence in sequences]
        ticket = Ticket(places, prompts, asyncio.get_running_loop(), self._release)
        if not self._ask(lambda: self._enter(ticket, sequences)):
            self._open -= len(jobs)
            raise _ending()
        return ticket

    def _prepare(self, jobs: list[Job]) -> list[Sequence]:
        """In a thread of the loop's pool: encoding a long text holds up nobody."""
        return [self._sequence(job) for job in jobs]

    def _sequence(self, job: Job) -> Sequence:
        prompt, tokenizer = job.prompt, self.engine.tokenizer
        if job.bare and job.suffix is None and isinstance(prompt, str) and tokenizer is not None:
            prompt = tokenizer.encode(prompt)
        try:
            return self.engine.prepare(prompt, job.params, suffix=job.suffix)
        except UserError as error:
            raise refusal(error, job.named) from None

    def _release(self, ticket: Ticket) -> None:
        self._open -= ticket.count
        self._seconds += 0.1 * (time.monotonic() - ticket.begun - self._seconds)
        self._ask(lambda: self._drop(ticket))

    def _ask(self, command: Callable[[], None] | None) -> bool:
        """Leave a command for the thread; whether it will be carried out."""
        with self._lock:
            if not self._over:
                self._commands.put(command)
            return not self._over

    # Everything below runs in the engine's thread.

    def _run(self) -> None:
        try:
            self._drive()
        except BaseException as error:  # whatever it is: nobody else hears how a thread ends
            self.failed = " ".join(f"{type(error).__name__} {error}".split())
            log.critical("the engine of %s ended: %s", self.name, self.failed, exc_info=True)
            for hears in self._hearers:
                hears(self.failed)
        with self._lock:
            self._ending = self._over = True
        self._finish()

    def _drive(self) -> None:
        while self._obey():
            if not self.engine.busy:
                self._act()
                continue
            try:
                deltas = self.engine.step()
            except Exception as error:
                if self.engine.lost is not None:
                    self._fail_all(_lost())
                    continue
                log.exception("the engine failed in a step")
                self._check_device()
                gone = {n: ticket for n, ticket in self._tickets.items() if n not in self.engine}
                self._fail(gone or self._tickets, as_api_error(error))  # the others go on
                continue
            self._route(deltas)

    def _finish(self) -> None:
        """Tell everybody that it is over; an engine that failed is not touched any more."""
        while not self._commands.empty():  # requests that came while the last step ran
            command = self._commands.get()
            if command is not None:
                command()
        self._act()
        self._fail_all(_ending() if self.failed is None else _failed())
        try:
            self.engine.close()
        except Exception:
            if self.failed is None:
                raise
            log.exception("the engine of %s did not close", self.name)

    def _check_device(self) -> None:
        """Raises where a fault has left the GPU unusable for this process: no later step works."""
        if self.engine.model.device.type == "cuda":
            torch.cuda.synchronize(self.engine.model.device)

    def _act(self) -> None:
        """What needs the engine idle, then the requests that were held up by it."""
        while self._waiting:
            self._waiting.pop(0)()
        held, self._held = self._held, []
        for enter in held:
            enter()

    def _obey(self) -> bool:
        """Carry out what was asked for; wait for it if there is nothing else to do."""
        while True:
            try:
                idle = not self.engine.busy and not self._waiting
                command = self._commands.get(block=idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _enter(self, ticket: Ticket, sequences: list[Sequence]) -> None:
        if self._waiting:
            self._held.append(lambda: self._enter(ticket, sequences))
            return
        if ticket.closed:  # while it was held
            return
        # Before they enter: else nobody would tell it of a failure.
        self._tickets |= dict.fromkeys(ticket.places, ticket)
        for sequence in sequences:
            if self.failed is None:
                self.engine.enter(sequence)

    def _drop(self, ticket: Ticket) -> None:
        for request in ticket.places:
            if self.failed is None:
                self.engine.abort(request)
            self._tickets.pop(request, None)

    def _route(self, deltas: list[Delta]) -> None:
        news: dict[asyncio.AbstractEventLoop, list[News]] = {}
        for delta in deltas:
            ticket = self._tickets[delta.id]
            self._count(ticket, delta)
            item = (ticket.places[delta.id], delta)
            news.setdefault(ticket.loop, []).append((ticket, item))
            if delta.completion is not None:
                del self._tickets[delta.id]
        for loop, found in news.items():
            _tell(loop, found)

    def _count(self, ticket: Ticket, delta: Delta) -> None:
        now = time.monotonic()
        if delta.tokens:
            before = ticket.last.get(delta.id)
            since = now - (ticket.begun if before is None else before)
            self._metrics.token(self.name, since, first=before is None)
            ticket.last[delta.id] = now
        if (done := delta.completion) is not None:
            sizes = (len(done.prompt_tokens), len(done.tokens))
            self._metrics.completion(self.name, done.finish_reason, *sizes)

    def _fail_all(self, error: ApiError) -> None:
        self._fail(self._tickets, error)

    def _fail(self, tickets: dict[int, Ticket], error: ApiError) -> None:
        for ticket in dict.fromkeys(tickets.values()):
            self._drop(ticket)
            _tell(ticket.loop, [(ticket, error)])


def _ending() -> ApiError:
    return ApiError(503, "the server is shutting down", retry_after=5)


def _lost() -> ApiError:
    return ApiError(503, "a process of this model ended, and the server ends too", retry_after=30)


def _failed() -> ApiError:
    return ApiError(503, "the engine of this model ended, and the server ends too", retry_after=30)


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
