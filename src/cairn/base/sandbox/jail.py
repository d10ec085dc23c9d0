"""The child that confines itself, starts the program, watches it and ends all it has left behind.

Runs in a bare interpreter of its own (`python -I -S`), single-threaded, so that it may fork. It
reads its orders from one descriptor, reports on another, and ends everything once a third one
reaches its end: that is the caller's wish, or the caller's death.
"""

import base64
import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from cairn.base.sandbox import kernel, landlock, mounts, seccomp

NOBODY = 65534
WATCH_EVERY = 0.05  # seconds between two looks at the memory of all processes


def main() -> None:
    """Entry of the child: descriptors of orders, report and control are the arguments."""
    orders, report, control = map(int, sys.argv[1:4])
    for descriptor in (orders, report, control):
        os.set_inheritable(descriptor, False)
    try:
        with open(orders, "rb") as file:  # noqa: PTH123 - a descriptor
            spec = json.load(file)
        if spec["backend"] == "namespaces":
            if (child := _enter_namespaces(spec)) != 0:
                os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
            mounts.build_root(spec)
        _become_nobody(spec)
        _say(report, {"ready": True, "filtered": _probe_filter(), "landlock": landlock.version()})
        _write_files(spec)
        outcome = _supervise(_start(spec), spec, control)
    except Exception as error:
        _say(report, {"failure": f"{type(error).__name__}: {error}"})
        os._exit(1)
    _say(report, outcome)
    os._exit(0)


def _say(report: int, message: dict[str, Any]) -> None:
    os.write(report, json.dumps(message).encode() + b"\n")


def _enter_namespaces(spec: dict[str, Any]) -> int:
    """New namespaces; forks, for only a child is inside the new process namespace."""
    flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
    flags |= kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    user, group = os.getuid(), os.getgid()
    if spec["uid"] is None:
        kernel.unshare(flags | kernel.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    else:  # root may do without, and can then let an unreadable home hold the interpreter
        kernel.unshare(flags)
    launcher = os.getpid()
    child = os.fork()
    if child == 0:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() not in (0, launcher):  # 0: a parent outside the namespace
            os._exit(1)
    return child


def _become_nobody(spec: dict[str, Any]) -> None:
    """Give up root, every capability, and the ability to gain any; guard this process itself."""
    if spec["uid"] is not None:
        if spec["keep_reading"]:
            kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        try:
            os.setresgid(spec["uid"], spec["uid"], spec["uid"])
            os.setresuid(spec["uid"], spec["uid"], spec["uid"])
        except OSError:  # inside a container that maps few user ids
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        if spec["keep_reading"]:
            kernel.keep_reading()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # the program may not trace it or open its descriptors
    os.umask(0o022)


def _probe_filter() -> bool:
    """Whether the kernel takes the system call filter, tried in a child."""
    child = os.fork()
    if child == 0:
        try:
            seccomp.install(local_sockets=True)
        except Exception:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _write_files(spec: dict[str, Any]) -> None:
    folder = Path(spec["folder"])
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, content in spec["files"].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))


def _start(spec: dict[str, Any]) -> int:
    """Fork and become the program; the child's own failure is exit code 127 and a line."""
    child = os.fork()
    if child:
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1, 2):  # else a reader waits for this process too
            os.dup2(null, descriptor)
        os.close(null)
        return child
    try:
        os.setsid()
        os.chdir(spec["folder"])
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        with contextlib.suppress(OSError):  # equal addresses on every run, where it is allowed
            kernel.personality(kernel.ADDR_NO_RANDOMIZE)
        _limit(spec)
        if spec["backend"] == "rlimits" and landlock.version():
            landlock.restrict([*spec["binds"], *spec["links"], "/proc"], _writable(spec))
        os.closerange(3, 1 << 16)
        with contextlib.suppress(OSError):  # reported before, by the probe
            seccomp.install(local_sockets=spec["backend"] != "rlimits")
        os.execvpe(spec["argv"][0], spec["argv"], spec["environment"])
    except BaseException as error:
        os.write(2, f"cannot run {spec['argv'][0]}: {error}\n".encode())
    os._exit(127)


def _writable(spec: dict[str, Any]) -> list[str]:
    """What a program may write to where it sees the machine's own folders."""
    devices = [f"/dev/{name}" for name in mounts.DEVICES]
    return [spec["folder"], "/dev/shm", *devices]  # semaphores of multiprocessing are in shm


def _limit(spec: dict[str, Any]) -> None:
    limits = spec["limits"]
    processes = limits["processes"] + 2  # the supervisor, and the launcher beside it
    if spec["backend"] == "rlimits" and spec["uid"] is None:
        processes = limits["processes"] + _tasks_of_user()
    wanted = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_CPU: (limits["cpu_seconds"], limits["cpu_seconds"] + 1),
        resource.RLIMIT_AS: (limits["memory"], limits["memory"]),
        resource.RLIMIT_FSIZE: (limits["file_bytes"], limits["file_bytes"]),
        resource.RLIMIT_NOFILE: (256, 256),
        resource.RLIMIT_MSGQUEUE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_NPROC: (processes, processes),
    }
    for kind, (soft, hard) in wanted.items():
        most = resource.getrlimit(kind)[1]
        if most != resource.RLIM_INFINITY:  # one may lower a hard limit, never raise it
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))


def _tasks_of_user() -> int:
    """Threads of this user on the machine: the kernel's process limit counts them all."""
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == os.getuid():
                    count += sum(1 for _ in (entry / "task").iterdir())
    return count


def _supervise(child: int, spec: dict[str, Any], control: int) -> dict[str, Any]:
    """Wait for the program or for a reason to end it; then end whatever it started."""
    limits = spec["limits"]
    deadline = time.monotonic() + limits["seconds"]
    look_at = time.monotonic() + WATCH_EVERY
    waiting = select.poll()
    waiting.register(control, select.POLLIN | select.POLLHUP)
    pause, reason, ended = 1.0, None, None
    while ended is None and reason is None:
        ended = _reap(child)
        now = time.monotonic()
        if ended is not None:
            break
        if waiting.poll(pause):
            reason = "stopped"
        elif now > deadline:
            reason = "timeout"
        elif now > look_at:
            look_at = now + WATCH_EVERY
            reason = "memory" if _exceeds(limits["memory"]) else None
        pause = min(pause * 1.5, 20.0)  # milliseconds
    _end_all()
    if ended is None:
        return {"reason": reason, "code": None}
    code = os.waitstatus_to_exitcode(ended[0])
    if code in (-signal.SIGXCPU, -signal.SIGKILL) and ended[1] >= limits["cpu_seconds"] - 0.1:
        return {"reason": "timeout", "code": None}
    return {"reason": None, "code": code}


def _reap(child: int) -> tuple[int, float] | None:
    """Bury what has died; (status, processor seconds) of the program if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            process, status, usage = os.wait4(-1, os.WNOHANG)
            if process == 0:
                break
            if process == child:
                found = (status, usage.ru_utime + usage.ru_stime)
    return found


def _descendants() -> list[int]:
    """Processes below this one. Orphans count: they are handed to a subreaper, which this is."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names only, in a tight loop
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                text = Path(f"/proc/{entry}/stat").read_text(errors="replace")
                parent = int(text.rpartition(")")[2].split()[1])  # the name may hold anything
                children.setdefault(parent, []).append(int(entry))
    found, rest = [], [os.getpid()]
    while rest:
        below = children.get(rest.pop(), [])
        found += below
        rest += below
    return found


def _exceeds(limit: int) -> bool:
    """Whether all processes below hold more resident bytes than `limit` together."""
    page = resource.getpagesize()
    total, processes = 0, _descendants()
    for process in processes:
        with contextlib.suppress(OSError, IndexError, ValueError):
            total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * page
    if total <= limit:
        return False
    shares = 0  # after a fork, pages are shared: then the cheap sum is too high
    for process in processes:
        with contextlib.suppress(OSError, IndexError, ValueError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            shares += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return shares > limit if shares else True


def _end_all() -> None:
    """Kill and bury every process that the program left."""
    if os.getpid() == 1:  # alone with them in a process namespace: one signal reaches all at once
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(-1, signal.SIGKILL)
            while True:
                os.waitpid(-1, 0)
        return
    give_up = time.monotonic() + 10
    while (left := _descendants()) and time.monotonic() < give_up:
        for process in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        _reap(-1)
        time.sleep(0.001)
