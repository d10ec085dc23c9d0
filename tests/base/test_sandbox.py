"""Ordinary programs run as they should, many at a time, and backends say what they are."""

import pytest

from cairn.base import UserError
from cairn.base.sandbox import Limits, Program, Sandbox, SandboxError, python_program

from .fixtures.sandboxes import run, sandbox_or_skip


def test_ordinary_program(sandbox):
    outcome = run(sandbox, "import sys\nprint('out')\nprint('err', file=sys.stderr)")
    assert (outcome.status, outcome.exit_code) == ("ok", 0)
    assert (outcome.stdout, outcome.stderr) == (b"out\n", b"err\n")
    assert outcome.backend == sandbox.backend
    assert 0 < outcome.seconds < 8


def test_exit_codes_and_signals(sandbox):
    assert run(sandbox, "raise SystemExit(3)").exit_code == 3
    assert run(sandbox, "raise SystemExit(3)").status == "error"
    outcome = run(sandbox, "import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert (outcome.status, outcome.exit_code) == ("killed", -15)
    assert run(sandbox, "import ctypes; ctypes.string_at(0)").exit_code == -11


def test_standard_input(sandbox):
    text = b"line\n" * 100_000
    source = "import sys; data = sys.stdin.buffer.read(); print(len(data))"
    assert run(sandbox, source, stdin=text).stdout == b"500000\n"
    assert run(sandbox, "print('unread')", stdin=text).stdout == b"unread\n"


def test_any_command_and_files(sandbox):
    program = Program(argv=("cat", "a/b.txt"), files={"a/b.txt": b"\xff\x00held"})
    assert sandbox.run(program).stdout == b"\xff\x00held"
    missing = sandbox.run(Program(argv=("no-such-command",)))
    assert (missing.status, missing.exit_code) == ("error", 127)
    assert b"no-such-command" in missing.stderr


def test_threads_and_multiprocessing_work(sandbox):
    source = """
import multiprocessing, threading
def square(n): return n * n
threads = [threading.Thread(target=square, args=(i,)) for i in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
with multiprocessing.Pool(2) as pool:
    print(pool.map(square, range(4)))
"""
    outcome = run(sandbox, source)
    assert outcome.stdout == b"[0, 1, 4, 9]\n", outcome


def test_same_outcomes_eight_at_a_time(sandbox):
    sources = [
        "print(sum(range(1000)))",
        "print(object(), {'a', 'b', 'c'})",
        "import sys; sys.exit(4)",
        "while True: pass",
        "while True: print('x' * 100)",
        "x = bytearray(10**10)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "raise ValueError('no')",
    ]
    programs = [python_program(source) for source in sources]
    limits = Limits(seconds=30, cpu_seconds=1, memory=256 << 20, output_bytes=1000)
    chosen = Sandbox(sandbox.backend, limits)
    alone = chosen.run_many(programs, workers=1)
    together = chosen.run_many(programs, workers=8)
    if sandbox.backend == "rlimits":  # its private folders have names of their own
        assert [o.status for o in alone] == [o.status for o in together]
    else:
        assert alone == together
    assert [o.status for o in alone[:6]] == ["ok", "ok", "error", "timeout", "output", "memory"]
    assert [o.status for o in alone[6:]] == ["killed", "error"]


def test_it_says_what_it_does_not_protect():
    sandbox = sandbox_or_skip("rlimits")
    assert any("reading" in text for text in sandbox.unprotected)
    chosen = Sandbox()
    assert chosen.backend in {"bubblewrap", "namespaces", "rlimits"}
    assert chosen.unprotected


def test_a_backend_that_does_not_work_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxError, match="no bwrap"):
        Sandbox("bubblewrap")


def test_mistakes_of_the_user():
    with pytest.raises(UserError, match="backend='docker'"):
        Sandbox("docker")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="seconds"):
        Limits(seconds=0)
    with pytest.raises(UserError, match="leaves the working folder"):
        Program(argv=("true",), files={"../x": b""})
    with pytest.raises(UserError, match="argv"):
        Program(argv=())
