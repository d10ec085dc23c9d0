"""Programs see and change nothing of the machine: files, secrets, network, other processes."""

import os
import socket
import sys
from pathlib import Path

import pytest

from .fixtures.sandboxes import run, sandbox_or_skip


def test_environment_is_clean(sandbox, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    names = run(sandbox, "import os; print(sorted(os.environ))").stdout.decode()
    assert "SECRET_TOKEN" not in names
    assert set(eval(names)) <= {
        *("HOME", "LANG", "LC_CTYPE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH"),
        *("PYTHONHASHSEED", "TMPDIR"),
    }


def test_no_descriptor_is_inherited(sandbox):
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        names = run(sandbox, "import os; print(os.listdir('/proc/self/fd'))").stdout
    finally:
        os.close(read)
        os.close(write)
    assert set(eval(names)) <= {"0", "1", "2", "3"}  # 3: the listing itself


def test_home_and_secrets_are_out_of_reach(hiding, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter2")
    secret.chmod(0o644)
    for path in (secret, Path("/etc/shadow"), Path("/etc/passwd"), Path.home() / ".bashrc"):
        outcome = run(hiding, f"print(open({str(path)!r}).read())")
        assert outcome.status == "error", path
        assert b"PermissionError" in outcome.stderr or b"FileNotFoundError" in outcome.stderr
        assert hiding.backend == "rlimits" or b"FileNotFoundError" in outcome.stderr
    for process in (1, "os.getppid()"):
        source = f"import os; print(open(f'/proc/{{{process}}}/environ', 'rb').read())"
        assert run(hiding, source).status == "error"


def test_nothing_outside_can_be_written(hiding, tmp_path):
    tmp_path.chmod(0o777)
    places = [tmp_path / "x", Path(sys.prefix) / "x", Path("/x"), Path("/usr/x"), Path("/dev/x")]
    for path in places:
        outcome = run(hiding, f"open({str(path)!r}, 'w').write('x')")
        assert outcome.status == "error", path
        assert not path.exists()


def test_the_private_folder_is_writable_and_empty_again(sandbox):
    source = "import os; print(os.listdir('.')); open('left', 'w').write('x')"
    for _ in range(2):
        assert run(sandbox, source).stdout == b"['main.py']\n"


def test_the_machines_network_is_unreachable(sandbox):
    if sandbox.backend == "rlimits" and not sandbox.filtered:
        pytest.skip("without a system call filter rlimits leave the network open, and say so")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        assert run(sandbox, source).status == "error"
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_network_is_gone_even_without_the_filter(isolated, monkeypatch):
    """The namespace alone must hold: the filter is a second wall, not the only one."""
    from cairn.base.sandbox import run as run_module

    boot = run_module.BOOT.replace(
        "main()",
        "import cairn.base.sandbox.jail as j\nj.seccomp.install = lambda **k: None\nmain()",
    )
    monkeypatch.setattr(run_module, "BOOT", boot)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        outcome = run(isolated, source)
    assert b"PermissionError" not in outcome.stderr  # would be the answer of the filter
    assert outcome.status == "error"
    assert b"unreachable" in outcome.stderr or b"refused" in outcome.stderr


def test_filter_refuses_new_namespaces_and_foreign_sockets(sandbox):
    if not sandbox.filtered:
        pytest.skip("the kernel takes no system call filter")
    source = """
import ctypes, socket
libc = ctypes.CDLL(None, use_errno=True)
print(libc.unshare(0x10000000), ctypes.get_errno(), end=' ')
try:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM)
except PermissionError:
    print('refused')
"""
    assert run(sandbox, source).stdout == b"-1 1 refused\n"


def test_no_privilege_inside(sandbox):
    source = """
import os
print(os.getuid() == 0)
for line in open('/proc/self/status'):
    if line.startswith(('CapBnd', 'NoNewPrivs')):
        print(line.split()[1])
"""
    lines = run(sandbox, source).stdout.decode().split()
    assert lines[0] == "False"
    assert lines[2] == "1"


def test_the_supervisor_cannot_be_forged_or_killed(hiding):
    if hiding.backend == "rlimits" and hiding.landlock < 6:
        pytest.skip("this Landlock does not hold back signals, and unprotected says so")
    source = """
import os, signal
for process in os.listdir('/proc'):
    if process.isdigit() and int(process) != os.getpid():
        try:
            for name in os.listdir(f'/proc/{process}/fd'):
                open(f'/proc/{process}/fd/{name}', 'wb').write(b'{"reason": null, "code": 0}\\n')
        except OSError:
            pass
        try:
            os.kill(int(process), signal.SIGKILL)
        except OSError:
            pass
raise SystemExit(7)
"""
    assert run(hiding, source).exit_code == 7


def test_without_landlock_and_filter_it_says_so(monkeypatch):
    from cairn.base.sandbox import run as run_module

    boot = run_module.BOOT.replace(
        "main()",
        "import cairn.base.sandbox.jail as j\nj.landlock.version = lambda: 0\n"
        "j.seccomp.install = lambda **k: exec('raise OSError')\nmain()",
    )
    monkeypatch.setattr(run_module, "BOOT", boot)
    sandbox = sandbox_or_skip("rlimits")
    assert not sandbox.landlock
    said = " ".join(sandbox.unprotected)
    assert "reading" in said
    assert "writing" in said
    assert "network" in said
    assert run(sandbox, "print(open('/etc/passwd').read()[:4])").stdout == b"root\n"
