"""Programs that ask for too much time, memory, disk or output end cleanly and leave nothing."""

import os
import subprocess
import sys
import time
from pathlib import Path

from cairn.base.sandbox import Limits, Program, python_program

from .fixtures.sandboxes import SHORT, processes_with, run, sandbox_or_skip


def test_endless_loop_ends_by_processor_time(sandbox):
    outcome = run(sandbox, "while True: pass")
    assert (outcome.status, outcome.exit_code) == ("timeout", None)
    assert outcome.seconds < 6


def test_sleep_ends_by_wall_time(sandbox):
    limits = Limits(seconds=0.7)
    outcome = sandbox.run(python_program("import time; time.sleep(60)"), limits)
    assert outcome.status == "timeout"
    assert outcome.seconds < 6


def test_ignored_signals_do_not_help(sandbox):
    source = """
import signal
for number in range(1, 32):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True: pass
"""
    outcome = run(sandbox, source)
    assert outcome.status == "timeout"
    assert outcome.seconds < 7


def test_fork_bomb(sandbox):
    source = """
import os
born = refused = 0
for _ in range(200):
    try:
        if os.fork() == 0:
            while True: pass
        born += 1
    except BlockingIOError:
        refused += 1
print(born, refused, flush=True)
"""
    outcome = run(sandbox, source)
    born, refused = map(int, outcome.stdout.split())
    assert 1 <= born <= SHORT.processes
    assert born + refused == 200
    assert outcome.seconds < 7


def test_recursive_fork_bomb_leaves_nothing(sandbox):
    marker = f"bomb-{os.getpid()}-{sandbox.backend}"
    source = """
import os, time
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)
"""
    argv = (sys.executable, "-c", source, marker)
    outcome = sandbox.run(Program(argv=argv), Limits(seconds=1.5, cpu_seconds=1, processes=8))
    assert outcome.status in {"timeout", "killed"}
    assert processes_with(marker) == []


def test_one_process_with_too_much_memory(sandbox):
    outcome = run(sandbox, "x = bytearray(10**10)")
    assert (outcome.status, outcome.exit_code) == ("memory", 1)


def test_many_processes_with_too_much_memory_together(sandbox):
    source = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        held = bytearray(os.urandom(1 << 20)) * 120
        time.sleep(60)
time.sleep(60)
"""
    outcome = run(sandbox, source)
    assert (outcome.status, outcome.exit_code) == ("memory", None)
    assert outcome.seconds < 7


def test_memory_shared_after_a_fork_counts_once(sandbox):
    source = """
import os, time
held = bytearray(os.urandom(1 << 20)) * 120
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        time.sleep(0.5)
        os._exit(0)
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children])
"""
    outcome = run(sandbox, source)
    assert (outcome.status, outcome.stdout) == ("ok", b"[0, 0, 0, 0]\n")


def test_file_size(sandbox):
    limits = Limits(file_bytes=100_000)
    source = "import os\ntry: open('big', 'wb').write(bytes(10**6))\n"
    source += "except OSError: print(os.path.getsize('big'))"
    assert sandbox.run(python_program(source), limits).stdout == b"100000\n"


def test_disk_size(isolated):
    source = """
import os
total = 0
try:
    for number in range(100):
        total += open(str(number), 'wb').write(bytes(10**6))
except OSError as error:
    print(error.strerror)
"""
    outcome = isolated.run(python_program(source), Limits(disk_bytes=8 << 20))
    assert outcome.stdout == b"No space left on device\n"


def test_huge_output_is_cut_and_ends_the_program(sandbox):
    outcome = run(sandbox, "while True: print('y' * 1000)")
    assert (outcome.status, outcome.exit_code) == ("output", None)
    assert len(outcome.stdout) == SHORT.output_bytes
    errors = run(sandbox, "import sys\nwhile True: sys.stderr.write('n' * 1000)")
    assert (errors.status, len(errors.stderr)) == ("output", SHORT.output_bytes)


def test_grandchild_that_outlives_its_parent(sandbox):
    marker = f"orphan-{os.getpid()}-{sandbox.backend}"
    source = f"""
import os, subprocess, sys
code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(300)"
subprocess.Popen([sys.executable, '-c', code, {marker!r}], start_new_session=True)
print('gone')
"""
    begin = time.monotonic()
    outcome = run(sandbox, source)
    assert (outcome.status, outcome.stdout) == ("ok", b"gone\n")
    assert time.monotonic() - begin < 6
    assert processes_with(marker) == []


def test_zombies_are_buried(sandbox):
    source = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        os._exit(0)
time.sleep(0.2)
print('done')
"""
    assert run(sandbox, source).stdout == b"done\n"
    assert not [p for p in Path("/proc").glob("[0-9]*/stat") if _is_own_zombie(p)]


def _is_own_zombie(path):
    try:
        state, parent = path.read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return False
    return state == "Z" and int(parent) == os.getpid()


def test_folder_without_rights_is_removed():
    sandbox = sandbox_or_skip("rlimits")
    source = "import os; os.mkdir('a'); open('a/b', 'w'); os.chmod('a', 0); print(os.getcwd())"
    outcome = run(sandbox, source)
    assert outcome.status == "ok"
    assert not Path(outcome.stdout.decode().strip()).exists()


def test_death_of_the_caller_ends_the_program(sandbox, tmp_path):
    marker = f"abandoned-{os.getpid()}-{sandbox.backend}"
    code = f"""
from cairn.base.sandbox import *
import sys
argv = (sys.executable, "-c", "import time; time.sleep(300)", {marker!r})
Sandbox({sandbox.backend!r}).run(Program(argv=argv), Limits(seconds=200))
"""
    # a killed caller cannot tidy up: its folder is this test's
    tmp_path.chmod(0o755)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    caller = subprocess.Popen([sys.executable, "-c", code], env=environment)
    waited = time.monotonic() + 15
    while not any(b"sleep" in p for p in processes_with(marker) if b"Sandbox" not in p):
        assert time.monotonic() < waited
        time.sleep(0.05)
    caller.kill()
    caller.wait()
    waited = time.monotonic() + 10
    while processes_with(marker):
        assert time.monotonic() < waited
        time.sleep(0.05)
