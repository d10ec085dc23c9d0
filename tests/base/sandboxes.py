"""Sandboxes with short limits, of a backend or a reason to skip, and what runs on the machine."""

import os
from pathlib import Path

import pytest

from cairn.base.sandbox import Limits, Sandbox, SandboxError, python_program

SHORT = Limits(seconds=8.0, cpu_seconds=1, memory=256 << 20, processes=8, output_bytes=10_000)


def sandbox_or_skip(backend):
    try:
        return Sandbox(backend, SHORT)
    except SandboxError as error:
        pytest.skip(str(error))


def run(sandbox, source, **changes):
    return sandbox.run(python_program(source, **changes))


def processes_with(marker):
    """Command lines on the machine that hold `marker`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = entry.read_bytes()
        except OSError:
            continue
        if marker.encode() in text and int(entry.parent.name) != os.getpid():
            found.append(text)
    return found
