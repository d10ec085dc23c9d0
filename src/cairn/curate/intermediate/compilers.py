"""The compilers that give LLVM IR as text: how each is called, which are here, and one call.

Flags are those of The Stack v2 (arXiv 2402.19173), section 2.6, and of its published scripts.
Programs are anyone's: a compiler reads them in the sandbox, without network and other files.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cairn.base.sandbox import Limits, Outcome, Program, Sandbox

PATIENCE = 20.0  # seconds in which a compiler must tell its version
# Folders beside a compiler's `bin` that belong to it. The whole prefix may be a user's home.
BESIDE = ("lib", "lib64", "libexec", "include", "import", "etc")
SETTINGS = ("/etc/ldc2.conf", "/etc/clang", "/var/lib/ghc/package.conf.d")
DATES = ('-D__DATE__="Jan  1 1970"', '-D__TIME__="00:00:00"')
DATES = (*DATES, '-D__TIMESTAMP__="Thu Jan  1 00:00:00 1970"')
CLANG = ("-S", "-emit-llvm", "-fno-discard-value-names", "-fstandalone-debug", "-w", "-Qn")
CLANG = (*CLANG, "-fno-crash-diagnostics", "-Wno-builtin-macro-redefined", *DATES, "-o", "-")


@dataclass(frozen=True, kw_only=True)
class Command:
    """How a language's compiler is called.

    size, speed: flags for small and for fast code. written: the file that it writes; empty where
    it writes to standard output.
    """

    names: tuple[str, ...]
    source: str
    flags: tuple[str, ...]
    size: tuple[str, ...]
    speed: tuple[str, ...]
    written: str = ""


def _clang(source: str, *flags: str) -> Command:
    names = ("clang-17", "clang", *(f"clang-{version}" for version in range(22, 13, -1)))
    return Command(
        names=names, source=source, flags=(*flags, *CLANG), size=("-Oz",), speed=("-O3",)
    )


COMMANDS: Mapping[str, Command] = {
    "C": _clang("program.c", "-std=gnu17"),
    "C++": _clang("program.cpp", "--driver-mode=g++", "-std=gnu++17"),
    "Objective-C": _clang("program.m"),
    "Rust": Command(
        names=("rustc",),
        source="program.rs",
        flags=(
            "--emit=llvm-ir",
            "--edition=2021",
            "--cap-lints=allow",
            "-Ccodegen-units=1",
            "-Cllvm-args=--inline-threshold=0",  # as -Cinline-threshold, which newer ones ignore
            "-o",
            "-",
        ),
        size=("-Copt-level=z",),
        speed=("-Copt-level=3",),
    ),
    "D": Command(
        names=("ldc2",),
        source="program.d",
        flags=("-c", "--output-ll", "-w", "-of=program.ll"),
        size=("-Oz",),
        speed=("-O3",),
        written="program.ll",
    ),
    "Fortran": Command(
        names=("flang-new", "flang", *(f"flang-new-{version}" for version in range(22, 15, -1))),
        source="program.f90",
        flags=("-S", "-emit-llvm", "-o", "-"),
        size=("-O0",),
        speed=("-O3",),
    ),
    "Haskell": Command(
        names=("ghc",),
        source="program.hs",
        flags=("-fllvm", "-keep-llvm-files", "-c", "-w", "-O0"),
        size=(),
        speed=(),
        written="program.ll",
    ),
    "Swift": Command(
        names=("swiftc",),
        source="program.swift",
        flags=("-emit-ir", "-suppress-warnings", "-module-name", "program", "-o", "-"),
        size=("-Osize",),
        speed=("-O",),
    ),
    "Go": Command(
        names=("llvm-goc",),
        source="program.go",
        flags=("-S", "-emit-llvm", "-o", "-"),
        size=("-Os",),
        speed=("-O3",),
    ),
    "Python": Command(
        names=("codon",),
        source="program.py",
        flags=("build", "-release", "-llvm", "-o", "program.ll"),
        size=(),
        speed=(),
        written="program.ll",
    ),
}


@dataclass(frozen=True)
class Compiler:
    """A compiler that is here: `path` is the program itself, `version` its own first two lines."""

    language: str
    path: str
    version: str
    readable: tuple[str, ...] = ()
    """Paths that it needs beside the system's."""


def available(path: str | None = None) -> dict[str, Compiler]:
    """By language, the compiler that `path` (as PATH; None: the environment's) has for it.

    One that does not run, or tells no version, is not available.
    """
    found: dict[str, Compiler] = {}
    for language, command in COMMANDS.items():
        for name in command.names:
            where = shutil.which(name, path=path)
            if where is not None and (compiler := _compiler(language, where)) is not None:
                found[language] = compiler
                break
    return found


class Workshop:
    """Compilers and the sandbox that they run in."""

    def __init__(self, compilers: Mapping[str, Compiler], sandbox: Sandbox | None = None) -> None:
        self.compilers = compilers
        readable = sorted({path for one in compilers.values() for path in one.readable})
        self._sandbox = sandbox or Sandbox(readable=readable)

    def compile(self, language: str, source: bytes, *, small: bool, limits: Limits) -> Outcome:
        """One call of the language's compiler; its standard output is the IR, if it ends well."""
        command = COMMANDS[language]
        flags = command.flags
        if language == "Rust" and b"fn main" not in source:  # else nothing at all is made
            flags = ("--crate-type=lib", "-Clink-dead-code", *flags)
        level = command.size if small else command.speed
        argv = (self.compilers[language].path, *level, *flags, command.source)
        if command.written:
            told = f'"$@" >&2 && exec cat {command.written}'
            argv = ("/bin/sh", "-c", told, "sh", *argv)
        program = Program(
            argv=argv,
            files={command.source: source},
            environment={"SOURCE_DATE_EPOCH": "0", "HOME": ".", "TMPDIR": "."},
        )
        return self._sandbox.run(program, limits)


def workshop() -> Workshop:
    """That of the compilers on the PATH; made once in a process."""
    return _workshop(os.environ.get("PATH", os.defpath))


@cache
def _workshop(path: str) -> Workshop:
    return Workshop(available(path))


def _compiler(language: str, where: str) -> Compiler | None:
    if language == "Rust":  # what is on the PATH may be rustup's, which needs its settings
        root = _told(where, "--print", "sysroot")
        own = Path(root[0], "bin", "rustc") if root else Path(where)
        where = str(own) if own.is_file() else where
    version = _told(where, "--version" if language != "Go" else "-version")
    if not version:
        return None
    binary = Path(where).resolve()
    prefix = binary.parent.parent
    home = Path.home().resolve().is_relative_to(prefix)  # then they may hold anything
    beside = [] if home else [prefix / name for name in BESIDE]
    paths = [binary, *beside, *map(Path, SETTINGS)]
    return Compiler(
        language, str(binary), "; ".join(version[:2]), tuple(str(p) for p in paths if p.exists())
    )


def _told(*command: str) -> list[str]:
    """Lines that a command prints; none if it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, cwd="/", timeout=PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    text = done.stdout.decode(errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()] * (done.returncode == 0)
