"""The root folder that a program sees: the system read-only, a private /tmp, and nothing else."""

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

from cairn.base.sandbox import kernel

DEVICES = ("null", "zero", "full", "random", "urandom")
DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1"}


def build_root(spec: dict[str, Any]) -> None:
    """Mount `spec["binds"]` read-only under a fresh root and make that the root folder.

    For the first process of new mount, process and network namespaces, still privileged there.
    """
    root = Path(spec["root"])
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    plain = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", str(root), "tmpfs", plain, "size=4m,mode=755")
    (root / "tmp").mkdir()
    kernel.mount("tmpfs", f"{root}/tmp", "tmpfs", plain, f"size={spec['disk']},mode=1777")
    for path, target in spec["links"].items():
        (root / path.lstrip("/")).symlink_to(target)
    for path in spec["binds"]:
        _bind(path, root)
    _devices(root)
    _processes(root)
    kernel.enter_root(str(root))
    kernel.make_read_only("/", recursive=False)
    with contextlib.suppress(OSError):
        socket.sethostname("sandbox")


def _bind(path: str, root: Path) -> None:
    target = root / path.lstrip("/")
    if Path(path).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    kernel.mount(path, str(target), "", kernel.MS_BIND | kernel.MS_REC)
    kernel.make_read_only(str(target), recursive=True)


def _devices(root: Path) -> None:
    folder = root / "dev"
    folder.mkdir()
    for name in DEVICES:
        (folder / name).touch()
        kernel.mount(f"/dev/{name}", str(folder / name), "", kernel.MS_BIND)
    for name, target in DEVICE_LINKS.items():
        (folder / name).symlink_to(target)
    (folder / "shm").symlink_to("/tmp")  # semaphores of multiprocessing live there


def _processes(root: Path) -> None:
    """/proc with the processes of this namespace alone; a container may forbid it."""
    (root / "proc").mkdir()
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    try:
        kernel.mount("proc", f"{root}/proc", "proc", flags, "subset=pid")
    except OSError:
        with contextlib.suppress(OSError):
            kernel.mount("proc", f"{root}/proc", "proc", flags)


def system_binds(readable: list[str]) -> tuple[list[str], dict[str, str]]:
    """(paths to show read-only, links to make) for the system, its loader, and `readable`."""
    links: dict[str, str] = {}
    wanted: list[str] = []
    for path in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store"):
        if Path(path).is_symlink():
            links[path] = os.readlink(path)  # noqa: PTH115 - the text, not a path
        elif Path(path).is_dir():
            wanted.append(path)
    for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime"):
        if Path(f"/etc/{name}").exists():
            wanted.append(f"/etc/{name}")
    wanted += readable
    binds: list[str] = []
    for path in sorted(set(wanted), key=lambda path: (len(Path(path).parts), path)):
        covered = any(Path(path).is_relative_to(earlier) for earlier in binds)
        through_link = any(Path(path).is_relative_to(link) for link in links)
        if not covered and not through_link:
            binds.append(path)
    return binds, links
