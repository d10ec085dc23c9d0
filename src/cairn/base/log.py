"""What a person sees while work goes on, and the one writer of metrics.jsonl."""

import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

SHOW_AFTER = 2.0  # seconds; what is faster needs no bar
PLAIN_EVERY = 15.0  # seconds between lines where standard error is no terminal


# What moves a terminal's cursor, colours it, or turns the order of letters around.
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F]
_CONTROLS += [*range(0x2028, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)]
_SHOWN = {code: repr(chr(code))[1:-1] for code in _CONTROLS}


def harmless(text: str) -> str:
    """The text with control characters spelled out: files are named by strangers."""
    return text.translate(_SHOWN)


def note(text: str) -> None:
    """One line for the person, on standard error."""
    print(harmless(text), file=sys.stderr, flush=True)


class Bar:
    """A progress bar that appears once the work has lasted two seconds."""

    def __init__(self, label: str, total: int | None, unit: str, shown: bool = True) -> None:
        self.shown = shown
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._began = self._said = time.monotonic()
        self._rich: RichProgress | None = None
        self._detail = ""
        self._terminal = sys.stderr.isatty()

    def advance(self, by: int = 1, detail: str = "") -> None:
        """Count `by` more units as done; `detail` is a short figure to show beside the bar."""
        self.done += by
        self._detail = detail or self._detail
        if not self.shown:
            return
        now = time.monotonic()
        if self._terminal:
            if self._rich is None and now - self._began > SHOW_AFTER:
                self._start()
            if self._rich is not None:
                self._rich.update(self._rich.task_ids[0], completed=self.done, detail=self._detail)
        elif now - self._said > PLAIN_EVERY:
            self._said = now
            of = f"/{self.total:,}" if self.total else ""
            seconds = f"{now - self._began:.0f} s"
            note(f"{self.label}: {self.done:,}{of} {self.unit}, {seconds} {self._detail}".rstrip())

    def _start(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(self.unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        shown = RichProgress(*columns, console=Console(stderr=True), transient=True)
        shown.add_task(self.label, total=self.total, completed=self.done, detail=self._detail)
        shown.start()
        self._rich = shown

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._rich is not None:
            self._rich.stop()


@contextmanager
def progress(
    label: str, total: int | None = None, unit: str = "", shown: bool = True
) -> Iterator[Bar]:
    """A bar on standard error: rich on a terminal, a plain line now and then elsewhere."""
    bar = Bar(label, total, unit, shown)
    try:
        yield bar
    finally:
        bar.close()


class Metrics:
    """metrics.jsonl: one JSON object a line, appended as the work goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten = ""

    def write(self, **values: Any) -> None:
        """Append one line; where the disk is full, with the next one that it has room for."""
        self._unwritten += json.dumps(values) + "\n"
        size = self.path.stat().st_size if self.path.is_file() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self._unwritten)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            if self.path.is_file():
                os.truncate(self.path, size)  # no half a line
            return
        self._unwritten = ""

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; one that a crash cut short is left out."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def truncate_after(self, step: int) -> None:
        """Drop the lines of later steps, which a resumed run will write again."""
        from cairn.base.files import write_text

        if self.path.exists():
            kept = [row for row in self.read() if row.get("step", 0) <= step]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
