"""ScanCode itself, as an optional pass over licence files (extra `scancode`; far slower).

ScanCode runs in a process of its own, which is killed if a file takes longer than the report's 100
seconds. It keeps about 1.3 GB and takes some 10 seconds to start.
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from cairn.base import UserError
from cairn.curate.licences.expressions import chosen

DEADLINE = 100  # seconds for a file, as in the report's code
STARTING = 300  # seconds for ScanCode to load its index, or to build it the first time
UNKNOWN = "LicenseRef-scancode-unknown"  # of a file that takes too long, or that stops ScanCode


def require_scancode() -> None:
    """Raises UserError where ScanCode is not installed."""
    if find_spec("scancode") is None:
        raise UserError(
            "licence_tool", "scancode", "needs ScanCode", "install cairn-lm[scancode], or templates"
        )


def scancode_detect(text: str | Path) -> frozenset[str]:
    """SPDX identifiers that ScanCode finds in a text, or in the file at a path.

    Of alternatives the permissive ones, as `detect` has it. A file past the deadline is
    `LicenseRef-scancode-unknown`, which is not permissive. Equal texts are read once. Raises
    UserError where ScanCode is not installed.
    """
    require_scancode()
    raw = text.read_bytes() if isinstance(text, Path) else text.encode("utf-8", "surrogatepass")
    return _answer(raw)


@lru_cache(maxsize=1024)
def _answer(raw: bytes) -> frozenset[str]:
    if not raw:
        return frozenset()
    with tempfile.TemporaryDirectory(prefix="cairn-licence-") as folder:
        path = Path(folder) / "LICENSE"
        path.write_bytes(raw)
        expression = _scanner(os.getpid()).ask(str(path))
    return frozenset() if expression is None else chosen(expression)


@cache
def _scanner(_: int) -> "Scanner":
    """The one of this process; a fork must not share its parent's pipes."""
    return Scanner([sys.executable, "-m", "cairn.curate.licences.scancode"])


class Scanner:
    """A process that answers paths, one a line, with expressions; started anew if it hangs."""

    def __init__(self, command: list[str], deadline: float = DEADLINE):
        self.command, self.deadline = command, deadline
        self.process: subprocess.Popen[str] | None = None

    def ask(self, path: str) -> str | None:
        """The SPDX expression of the file at `path`; None if it names no licence."""
        process = self.process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(path) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._stop()
        answer = _line(process.stdout, self.deadline)
        return json.loads(answer) if answer else self._stop()

    def _start(self) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, text=True)
        if not _line(self.process.stdout, STARTING):
            self._stop()
            raise UserError("licence_tool", "scancode", "does not start", "see its message above")
        return self.process

    def _stop(self) -> str:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None
        return UNKNOWN


def _line(stream: IO[str] | None, seconds: float) -> str:
    """A line, or nothing if there is none in time. Each answer is one short line."""
    assert stream is not None
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return stream.readline() if selector.select(seconds) else ""


def main() -> None:
    """The process: ScanCode may print, so answers go to a copy of its standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from scancode.api import get_licenses  # pyright: ignore[reportMissingImports]

    with tempfile.NamedTemporaryFile("w", suffix=".txt") as first:
        first.write("MIT License\n")
        first.flush()
        get_licenses(first.name)  # loads the index
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        found = get_licenses(json.loads(line), deadline=time.time() + DEADLINE)
        print(json.dumps(found["detected_license_expression_spdx"]), file=answers, flush=True)


if __name__ == "__main__":
    main()
