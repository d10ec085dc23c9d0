"""The sandbox as the rest of the house sees it: choose a backend, run programs, tell outcomes."""

import base64
import contextlib
import dataclasses
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal

from cairn.base.errors import UserError
from cairn.base.sandbox import mounts
from cairn.base.sandbox.program import MIB, Backend, Limits, Outcome, Program, Status

BACKENDS: tuple[Backend, ...] = ("bubblewrap", "namespaces", "rlimits")
GRACE = 30.0  # seconds beyond the wall limit after which the child itself must have hung
PACKAGE = Path(__file__).resolve().parent
# `cairn` and `cairn.base` as bare packages: their own __init__ would load far more than needed
BOOT = f"""
import sys, types
for name, path in (("cairn", {str(PACKAGE.parent.parent)!r}), ("cairn.base", {str(PACKAGE.parent)!r})):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from cairn.base.sandbox.jail import main
main()
"""  # noqa: E501
SCOPES_SIGNALS = 6  # the first version of Landlock that does
SHARED_KERNEL = "faults of the kernel, and the load it puts on the machine"


class SandboxError(RuntimeError):
    """The sandbox itself failed: this says nothing about the program."""


class Sandbox:
    """Runs untrusted programs. Thread-safe: each run has its own processes and folders.

    `backend`: "auto" takes the first of bubblewrap, namespaces and rlimits that is shown to work
    by running a program in it. `readable`: more paths to show, read-only.
    """

    def __init__(
        self,
        backend: Backend | Literal["auto"] = "auto",
        limits: Limits | None = None,
        readable: Iterable[str | Path] = (),
    ) -> None:
        if backend not in ("auto", *BACKENDS):
            raise UserError("backend", backend, "is unknown", f"one of auto, {', '.join(BACKENDS)}")
        self.limits = limits or Limits()
        self._readable = [*_interpreter(), *(str(Path(path).resolve()) for path in readable)]
        self._keep_reading = False
        self.filtered, self.landlock = False, 0
        failures = []
        for choice in BACKENDS if backend == "auto" else (backend,):
            self.backend: Backend = choice
            failure = self._try()
            if failure is None:
                break
            failures.append(f"{choice}: {failure}")
        else:
            raise SandboxError("no backend works here: " + "; ".join(failures))

    def _try(self) -> str | None:
        """Run a program in the backend; why it does not work, or None. Sets what was learnt."""
        if self.backend == "bubblewrap" and shutil.which("bwrap") is None:
            return "no bwrap on the PATH"
        program = Program(argv=(sys.executable, "-s", "-c", "print('in')"))
        attempts = (False, True) if self.backend == "rlimits" and os.geteuid() == 0 else (False,)
        failure = None
        for self._keep_reading in attempts:
            try:
                outcome, child = self._run(program, Limits(seconds=60, memory=1 << 30))
            except (SandboxError, OSError) as error:
                failure = str(error)
                continue
            self.filtered, self.landlock = child.filtered, child.landlock
            if outcome.status == "ok" and outcome.stdout == b"in\n":
                return None
            failure = f"{outcome.status}: {outcome.stderr.decode(errors='replace').strip()}"
        return failure

    @property
    def unprotected(self) -> tuple[str, ...]:
        """What this backend does not keep a program from, in words."""
        if self.backend != "rlimits":
            open_ends = [SHARED_KERNEL, "reading /usr and the folders of the Python installation"]
            return tuple(open_ends + ([] if self.filtered else ["rare system calls (no filter)"]))
        open_ends = [SHARED_KERNEL, "seeing the machine's processes", "filling the disk with files"]
        root = os.geteuid() == 0
        if self.landlock:
            open_ends.append("names and sizes of files")
            open_ends.append("reading /usr and the folders of the Python installation")
        elif root:
            reading = "any file of the machine" if self._keep_reading else "what any user may read"
            open_ends += [f"reading {reading}", "writing where any user may"]
        else:
            open_ends.append("reading and writing all files of the user who runs cairn")
        if not root and self.landlock < SCOPES_SIGNALS:
            open_ends.append("signals to that user's processes, this one's among them")
        return tuple(open_ends + ([] if self.filtered else ["network connections"]))

    def run(self, program: Program, limits: Limits | None = None) -> Outcome:
        """Run one program to its end or to a limit. Raises SandboxError if it cannot be started."""
        return self._run(program, limits or self.limits)[0]

    def run_many(self, programs: Iterable[Program], workers: int | None = None) -> list[Outcome]:
        """Outcomes in the order of `programs`, `workers` at a time (None: one per processor)."""
        workers = workers or len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(max_workers=workers) as pool:
            return list(pool.map(self.run, programs))

    def _run(self, program: Program, limits: Limits) -> tuple[Outcome, "_Child"]:
        begin = time.monotonic()
        outside = Path(tempfile.mkdtemp(prefix="cairn-sandbox-"))
        try:
            spec = self._spec(program, limits, outside)
            if self.backend == "rlimits" and spec["uid"] is not None:
                os.chown(outside, spec["uid"], spec["uid"])
            with _Child(self._command(spec), spec, program.stdin, limits) as child:
                child.collect()
        finally:
            _remove(outside)
        if child.failure:
            raise SandboxError(child.failure)
        outcome = Outcome(
            status=child.status(),
            exit_code=child.code,
            stdout=bytes(child.stdout),
            stderr=bytes(child.stderr),
            seconds=time.monotonic() - begin,
            backend=self.backend,
        )
        return outcome, child

    def _spec(self, program: Program, limits: Limits, outside: Path) -> dict[str, Any]:
        inside = [str(PACKAGE)] if self.backend == "bubblewrap" else []  # its child starts inside
        binds, links = mounts.system_binds([*self._readable, *inside])
        folder = str(outside) if self.backend == "rlimits" else "/tmp/sandbox"
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": folder,
            "TMPDIR": folder,
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        # a user id of its own for each run: its process limit then counts its processes alone
        uid = 1_000_000_000 + threading.get_native_id() if os.geteuid() == 0 else None
        return {
            "backend": self.backend,
            "argv": list(program.argv),
            "environment": {**environment, **program.environment},
            "files": {k: base64.b64encode(v).decode() for k, v in sorted(program.files.items())},
            "folder": folder,
            "limits": dataclasses.asdict(limits),
            "disk": max(limits.disk_bytes, MIB),
            "root": str(outside),
            "binds": binds,
            "links": links,
            "uid": uid,
            "keep_reading": self._keep_reading,
        }

    def _command(self, spec: dict[str, Any]) -> list[str]:
        boot = [sys.executable, "-I", "-S", "-B", "-c", BOOT]
        return [*_bubblewrap(spec), *boot] if self.backend == "bubblewrap" else boot


def _bubblewrap(spec: dict[str, Any]) -> list[str]:
    """The bwrap command that shows the same root folder as `mounts.build_root`."""
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxError("bwrap is gone from the PATH")
    command = [found, "--die-with-parent", "--as-pid-1", "--clearenv", "--chdir", "/"]
    if spec["uid"] is None:
        command += ["--unshare-all", "--hostname", "sandbox"]
    else:  # root needs no user namespace, and gives up root inside
        command += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
        command += ["--hostname", "sandbox", "--cap-drop", "ALL"]
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    command += ["--perms", "1777", "--size", str(spec["disk"]), "--tmpfs", "/tmp"]
    for path, target in spec["links"].items():
        command += ["--symlink", target, path]
    # the folders above a bind: of itself bwrap closes them to all but root
    above = {str(up) for path in spec["binds"] for up in Path(path).parents} - {"/", "/tmp"}
    for path in sorted(above):
        command += ["--perms", "0755", "--dir", path]
    for path in spec["binds"]:
        command += ["--ro-bind", path, path]
    command += ["--proc", "/proc", "--dir", "/dev"]
    for name in mounts.DEVICES:
        command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in mounts.DEVICE_LINKS.items():
        command += ["--symlink", target, f"/dev/{name}"]
    return [*command, "--symlink", "/tmp", "/dev/shm", "--remount-ro", "/", "--"]


def _interpreter() -> list[str]:
    """Folders that this Python needs: environment, installation, and where its program lies."""
    binary = Path(sys.executable).resolve()
    return [sys.prefix, sys.base_prefix, sys.exec_prefix, str(binary.parent.parent)]


def _memory_file(content: bytes) -> int:
    """A descriptor to read `content` from, of whatever size: no pipe to fill and wait for."""
    descriptor = os.memfd_create("orders")
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _remove(folder: Path) -> None:
    """Remove a folder even where a program has taken its owner's rights away."""
    for path, names, _ in os.walk(folder):
        for name in names:
            inside = Path(path, name)
            if not inside.is_symlink():
                with contextlib.suppress(OSError):
                    inside.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


class _Child:
    """One child process: its pipes, and what came out of them."""

    def __init__(
        self, command: list[str], spec: dict[str, Any], stdin: bytes, limits: Limits
    ) -> None:
        self.limits = limits
        self.stdout, self.stderr, self.report = bytearray(), bytearray(), bytearray()
        self.overflow, self.failure = False, ""
        self.filtered, self.landlock = False, 0
        self.code: int | None = None
        self.reason: str | None = None
        self._left = memoryview(stdin)
        orders = _memory_file(json.dumps(spec).encode())
        self._report_from, report_to = os.pipe()
        control_from, self._control = os.pipe()
        passed = (orders, report_to, control_from)
        try:
            self.process = subprocess.Popen(
                [*command, *map(str, passed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=passed,
                env={},
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            os.close(self._report_from)
            os.close(self._control)
            raise
        finally:
            for descriptor in passed:
                os.close(descriptor)

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        try:
            self.process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        os.close(self._report_from)

    def _stop(self) -> None:
        """Ask the child to end everything: the end of its control pipe is the sign."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def collect(self) -> None:
        """Feed and drain the pipes until the child has reported and all have closed."""
        deadline = time.monotonic() + self.limits.seconds + GRACE
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with selectors.DefaultSelector() as selector:
            sinks = ((process.stdout, self.stdout), (process.stderr, self.stderr))
            for pipe, sink in (*sinks, (self._report_from, self.report)):
                selector.register(pipe, selectors.EVENT_READ, sink)
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            reading = 3
            while reading:
                if time.monotonic() > deadline:
                    process.kill()
                    self.failure = f"the child did not end within {GRACE:.0f} s after the limit"
                    return
                for key, _ in selector.select(timeout=1.0):
                    if key.data is None:
                        self._feed(selector, process.stdin)
                    elif not self._drain(key.fd, key.data):
                        selector.unregister(key.fileobj)
                        reading -= 1
        self._understand()

    def _feed(self, selector: selectors.BaseSelector, pipe: IO[bytes]) -> None:
        try:
            self._left = self._left[os.write(pipe.fileno(), self._left[:65536]) :]
        except BlockingIOError:
            return
        except OSError:  # the program reads no further
            self._left = self._left[:0]
        if not self._left:
            selector.unregister(pipe)
            pipe.close()

    def _drain(self, descriptor: int, sink: bytearray) -> bool:
        chunk = os.read(descriptor, 65536)
        sink += chunk
        if sink is not self.report and len(sink) > self.limits.output_bytes:
            del sink[self.limits.output_bytes :]
            self.overflow = True
            self._stop()
        return bool(chunk)

    def _understand(self) -> None:
        messages = [json.loads(line) for line in self.report.splitlines()]
        known: dict[str, Any] = {}
        for message in messages:
            known.update(message)
        self.filtered, self.landlock = bool(known.get("filtered")), known.get("landlock", 0)
        if "failure" in known or "ready" not in known:
            said = self.stderr.decode(errors="replace").strip()[-500:]
            self.failure = known.get("failure") or f"the child ended without a report: {said}"
            return
        self.reason = known.get("reason", "killed")  # no report: the program ended its supervisor
        self.code = known.get("code")

    def status(self) -> Status:
        """The outcome in one word; see `Outcome.status`."""
        if self.overflow:
            self.code = None
            return "output"
        if self.reason in ("timeout", "memory", "killed"):
            return self.reason  # type: ignore[return-value]
        if self.code is None or self.code < 0:
            return "killed"
        if self.code == 0:
            return "ok"
        last = self.stderr.rstrip().rpartition(b"\n")[2]
        return "memory" if last.startswith(b"MemoryError") else "error"
