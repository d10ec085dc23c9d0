"""Landlock: rules of the kernel that an ordinary process may lay on itself.

The backend `rlimits` has no root folder of its own; these rules keep a program to the files that
the other backends would show it, and its signals to its own processes.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from cairn.base.sandbox.kernel import check, libc

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on all machines
ASK_VERSION, PATH_BENEATH = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE, IOCTL_DEVICE = 1 << 14, 1 << 15
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by version
SCOPED = 0b11  # no signals and no abstract sockets to processes outside; version 6
SCOPES_FROM = 6
READING = EXECUTE | READ_FILE | READ_DIR


def version() -> int:
    """The kernel's version of Landlock; 0 where it has none or keeps it switched off."""
    found = libc.syscall(ctypes.c_long(CREATE_RULESET), None, ctypes.c_ulong(0), ASK_VERSION)
    return max(found, 0)


def restrict(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Keep this process and all that it starts to these files and folders.

    Needs PR_SET_NO_NEW_PRIVS. OSError where the kernel has no Landlock.
    """
    at = version()
    rights = RIGHTS[max((known for known in RIGHTS if known <= at), default=1)]
    fields = [rights] + ([0] if at >= 4 else []) + ([SCOPED] if at >= SCOPES_FROM else [])
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    rules = check(
        libc.syscall(ctypes.c_long(CREATE_RULESET), attributes, ctypes.c_ulong(len(attributes)), 0),
        "landlock_create_ruleset",
    )
    for paths, allowed in ((readable, READING), (writable, rights)):
        for path in paths:
            if Path(path).exists():
                _allow(rules, path, allowed & rights)
    check(libc.syscall(ctypes.c_long(RESTRICT_SELF), rules, 0), "landlock_restrict_self")
    os.close(rules)


def _allow(rules: int, path: str, allowed: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        allowed = allowed if Path(path).is_dir() else allowed & OF_FILES
        rule = struct.pack("=Qi", allowed, place)
        done = libc.syscall(ctypes.c_long(ADD_RULE), rules, PATH_BENEATH, rule, 0)
        check(done, f"landlock_add_rule {path}")
    finally:
        os.close(place)
