"""A system call filter: no sockets to the outside, no new namespaces, mounts, traces or keys."""

import ctypes
import errno
import struct

from cairn.base.sandbox.kernel import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MACHINE,
    PR_SET_SECCOMP,
    SECCOMP_MODE_FILTER,
    prctl,
)

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
SOCKET, CLONE, CLONE3 = {"x86_64": (41, 56, 435), "aarch64": (198, 220, 435)}.get(
    MACHINE, (-1, -1, -1)
)
# fmt: off
DENIED = {  # in this order: ptrace mount umount2 pivot_root unshare setns process_vm_readv
    # process_vm_writev bpf perf_event_open add_key request_key keyctl userfaultfd init_module
    # finit_module kexec_load open_by_handle_at, then six with the same number everywhere:
    # io_uring_setup open_tree move_mount fsopen pidfd_getfd mount_setattr
    "x86_64": (
        101, 165, 166, 155, 272, 308, 310, 311, 321, 298, 248, 249, 250, 323, 175, 313, 246, 304,
        425, 428, 429, 430, 438, 442,
    ),
    "aarch64": (
        117, 40, 39, 41, 97, 268, 270, 271, 280, 241, 217, 218, 219, 282, 105, 273, 104, 265,
        425, 428, 429, 430, 438, 442,
    ),
}
# fmt: on
NEW_NAMESPACES = (
    CLONE_NEWNS
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET
    | CLONE_NEWCGROUP
)
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
AF_UNIX = 1


def rules(*, local_sockets: bool) -> list[tuple[int, int, int, int]]:
    """The filter as (code, jump if true, jump if false, operand)."""
    program = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, AUDIT_ARCH[MACHINE]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
    ]
    if MACHINE == "x86_64":  # the x32 calling convention has its own numbers
        program += [(AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, KILL)]
    for number in DENIED[MACHINE]:
        program += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ERROR | errno.EPERM)]
    # clone3 hides its flags behind a pointer; without it the C library uses clone
    program += [(EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, ERROR | errno.ENOSYS)]
    program += [
        (EQUAL, 0, 4, CLONE),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (ANY_BIT, 0, 1, NEW_NAMESPACES),
        (RETURN, 0, 0, ERROR | errno.EPERM),
        (RETURN, 0, 0, ALLOW),
        (EQUAL, 0, 4, SOCKET),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (EQUAL, 1 if local_sockets else 0, 0, AF_UNIX),
        (RETURN, 0, 0, ERROR | errno.EACCES),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, ALLOW),
    ]
    return program


def install(*, local_sockets: bool) -> None:
    """Filter this process and all that it starts; OSError where the kernel cannot.

    Needs PR_SET_NO_NEW_PRIVS. Where `local_sockets` is false, AF_UNIX is refused as well (for a
    backend in which the sockets of the machine's own services are in sight).
    """
    if MACHINE not in AUDIT_ARCH:
        raise OSError(errno.ENOSYS, f"no system call table for {MACHINE}")
    packed = [struct.pack("=HBBI", *rule) for rule in rules(local_sockets=local_sockets)]
    code = ctypes.create_string_buffer(b"".join(packed))
    program = struct.pack("=H6xQ", len(packed), ctypes.addressof(code))
    holder = ctypes.create_string_buffer(program)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(holder))
