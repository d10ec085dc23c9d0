"""What may go wrong in a run of weeks: losses that leave the road, ranks that hang, machines taken.

A killed process or a full disk is `resume`'s affair; here is what the loop asks at every step.
"""

import faulthandler
import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from cairn.train import TrainSettings

REMEMBERED = 32  # steps whose mean loss a spike is measured from
LEAST = 8  # steps that have to be known before anything is called a spike


@dataclass
class Progress:
    """Where a run is: what a save holds beside tensors."""

    step: int = 0
    tokens: int = 0
    counted: float = 0.0
    last_loss: float = math.nan
    recent: list[float] = field(default_factory=list)
    """Losses of the last steps that were no fault."""
    skipped: int = 0
    """Steps that changed nothing, since their loss or gradient was a fault."""
    in_a_row: int = 0
    """Of them, those since the last step that was none."""
    rewinds: int = 0
    """Times that weights went back to a save."""

    def fault(self, settings: TrainSettings, loss: float, norm: float) -> str:
        """What is wrong with a step's loss or gradient; empty where nothing is. Counts it."""
        problem = self._problem(settings, loss, norm)
        if problem:
            self.skipped += 1
            self.in_a_row += 1
        else:
            self.in_a_row = 0
            self.recent = [*self.recent, loss][-REMEMBERED:]
        return problem

    def _problem(self, settings: TrainSettings, loss: float, norm: float) -> str:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"loss {loss:g}, gradient norm {norm:g}"
        if settings.spike and len(self.recent) >= LEAST:
            usual = math.fsum(self.recent) / len(self.recent)
            if loss > usual + settings.spike:
                return f"loss {loss:g} after {usual:g} on average"
        return ""


class Leaving:
    """Whether SIGTERM has come: a scheduler wants the machine back."""

    asked = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


@contextmanager
def leaving() -> Iterator[Leaving]:
    """Inside, SIGTERM is remembered instead of ending the process."""
    found = Leaving()
    if threading.current_thread() is not threading.main_thread():
        yield found  # signals belong to the main thread
        return
    before = signal.signal(signal.SIGTERM, found._ask)
    try:
        yield found
    finally:
        signal.signal(signal.SIGTERM, before)


class Watchdog:
    """Ends a process that makes no step for too long, with a stack trace of every thread.

    A hung process is worse than a dead one, which `torchrun --max-restarts` starts again: a rank
    that waits for it in a collective never returns either. The interpreter's own timer runs even
    where a library holds the interpreter's lock.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def step(self) -> None:
        """A step begins, and has so long from now."""
        if self.seconds:
            said = sys.__stderr__ or sys.stderr  # what replaces it may be no file
            faulthandler.dump_traceback_later(self.seconds, exit=True, file=said)

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(self, *error: object) -> None:
        if self.seconds:
            faulthandler.cancel_dump_traceback_later()
