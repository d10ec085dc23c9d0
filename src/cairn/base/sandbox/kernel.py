"""The few system calls that Python 3.11 does not wrap. Linux on x86_64 and aarch64."""

import ctypes
import os
import platform
import struct

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_NEWCGROUP, CLONE_NEWTIME = 0x02000000, 0x00000080
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 0x2
ADDR_NO_RANDOMIZE = 0x0040000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS = 1, 4, 8
PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 22, 36, 38, 47
SECCOMP_MODE_FILTER = 2
CAP_DAC_READ_SEARCH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 0x1, 0x2

MACHINE = platform.machine()
NUMBERS = {  # pivot_root, mount_setattr, capset
    "x86_64": (155, 442, 126),
    "aarch64": (41, 442, 91),
}

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """`result`, or OSError with errno where it is negative."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def prctl(option: int, *arguments: int) -> None:
    """prctl(2)."""
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    check(libc.prctl(option, *padded), f"prctl {option}")


def unshare(flags: int) -> None:
    """unshare(2)."""
    check(libc.unshare(flags), "unshare")


def personality(persona: int) -> None:
    """personality(2)."""
    check(libc.personality(ctypes.c_ulong(persona)), "personality")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    arguments = [text.encode() or None for text in (source, target, kind)]
    made = libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() or None)
    check(made, f"mount {source} on {target}")


def make_read_only(path: str, *, recursive: bool) -> None:
    """Make a mount (and those below it) read-only, without set-user-id programs."""
    attributes = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    made = libc.syscall(
        ctypes.c_long(NUMBERS[MACHINE][1]),
        ctypes.c_long(AT_FDCWD),
        path.encode(),
        ctypes.c_ulong(flags),
        attributes,
        ctypes.c_ulong(len(attributes)),
    )
    check(made, f"mount_setattr {path}")


def enter_root(path: str) -> None:
    """Make `path`, a mount, the root folder, and let go of the old one."""
    os.chdir(path)
    check(libc.syscall(ctypes.c_long(NUMBERS[MACHINE][0]), b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/")


def keep_reading() -> None:
    """Reduce a former root's capabilities to one: pass by the permissions that forbid reading."""
    bit = 1 << CAP_DAC_READ_SEARCH
    header = struct.pack("=Ii", 0x20080522, 0)
    data = struct.pack("=6I", bit, bit, bit, 0, 0, 0)
    made = libc.syscall(ctypes.c_long(NUMBERS[MACHINE][2]), header, data)
    check(made, "capset")
    prctl(PR_CAP_AMBIENT, 2, CAP_DAC_READ_SEARCH)
