"""What to run, within which limits, and what became of it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cairn.base.errors import UserError

MIB = 1 << 20

Status = Literal["ok", "error", "timeout", "memory", "output", "killed"]
Backend = Literal["bubblewrap", "namespaces", "rlimits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may use. Above a limit it is ended, or its call fails."""

    seconds: float = 20.0
    """Wall time. Keep it well above `cpu_seconds`: it depends on the load of the machine."""
    cpu_seconds: int = 10
    """Processor time of each process."""
    memory: int = 512 * MIB
    """Bytes: address space of each process, and resident memory of all of them together."""
    processes: int = 16
    """Processes and threads at one time."""
    file_bytes: int = 16 * MIB
    """Size of each file written."""
    disk_bytes: int = 64 * MIB
    """Size of the private folder (not enforced by the backend `rlimits`)."""
    output_bytes: int = 64 * 1024
    """Bytes kept of standard output, and of standard error; a program that writes more is ended."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) <= 0:
                raise UserError(name, getattr(self, name), "is not positive", "raise it")


@dataclass(frozen=True, kw_only=True)
class Program:
    """A command, the files in its working folder, and its standard input."""

    argv: tuple[str, ...]
    """The command; a name without a slash is looked up in /usr/local/bin, /usr/bin and /bin."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files of the working folder, by relative path."""
    stdin: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to a fixed minimal environment; nothing of the caller's is inherited."""

    def __post_init__(self) -> None:
        if not self.argv:
            raise UserError("argv", "()", "is empty", "name the command to run")
        for name in self.files:
            parts = name.split("/")
            if name.startswith("/") or any(part in {"", ".", ".."} for part in parts):
                raise UserError("files", name, "leaves the working folder", "use a relative path")


def python_program(source: str, stdin: bytes = b"") -> Program:
    """A Python program for this process's own interpreter, as `main.py` in the working folder."""
    argv = (sys.executable, "-s", "-B", "main.py")
    return Program(argv=argv, files={"main.py": source.encode("utf-8", "replace")}, stdin=stdin)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a program. All but `seconds` is the same for the same program."""

    status: Status
    """`ok`: exit code 0. `error`: another exit code. `timeout`: wall or processor time. `memory`:
    ended above the limit, or Python's own MemoryError. `output`: wrote too much. `killed`: ended by
    another signal."""
    exit_code: int | None
    """Exit code; minus the signal's number; None where the program was ended from outside."""
    stdout: bytes
    stderr: bytes
    seconds: float = field(compare=False)
    backend: Backend
