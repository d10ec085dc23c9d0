"""Compiles the C of the package as it is built or installed: each library lies beside its sources.

Without a compiler the package is complete all the same: numpy and PyTorch do the work, more
slowly, and the build says so. `python hatch_build.py` compiles in place, where none is installed.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # run by hand, where nothing is packed
    BuildHookInterface = object

NATIVE = "src/cairn/ops/native/"
BASE = ("-O3", "-fPIC")
FLOATS = ("-std=gnu11", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
PLAIN = ("-DCAIRN_ONE_VERSION",)  # for compilers that do not know function versions


@dataclass(frozen=True)
class Library:
    """One shared library: what it does in words, its main source, and all that it includes."""

    task: str
    otherwise: str
    path: str
    source: str
    included: tuple[str, ...]
    flags: tuple[str, ...]
    plain: tuple[str, ...] | None = None
    """Flags that are tried when the first ones fail."""

    def digest(self, root: Path) -> str:
        """SHA-256 over the sources, by which the loader knows a library that is not of them."""
        whole = hashlib.sha256()
        for name in (self.source, *self.included):
            whole.update((root / name).read_bytes())
        return whole.hexdigest()


def libraries(root: Path) -> list[Library]:
    """What this machine can make use of."""
    near = "src/cairn/curate/near/"
    found = [
        Library(
            "near duplicates",
            "numpy",
            near + "libminhash.so.1",
            near + "minhash.c",
            (),
            (*BASE, "-std=c11"),
            PLAIN,
        )
    ]
    main = NATIVE + "native.c"
    files = {path.name for path in (root / NATIVE).iterdir() if path.suffix in (".c", ".h")}
    included = tuple(NATIVE + name for name in sorted(files - {"native.c"}))
    for level, flags in levels().items():
        path = f"{NATIVE}libcairn_{level}.so.1"
        flags = (*BASE, *FLOATS, *flags)
        found.append(Library(f"models ({level})", "PyTorch", path, main, included, flags))
    return found


def levels() -> dict[str, tuple[str, ...]]:
    """Instruction sets that the models' operations are compiled for; the loader takes the best."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return {"base": ()}
    return {
        "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
        "avx2": ("-march=x86-64-v3",),
        "base": (),
    }


def compile_library(root: Path, library: Library) -> str:
    """Why there is no library; empty where there is one."""
    path = root / library.path
    path.unlink(missing_ok=True)  # what remained could be of another source
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if not compiler or shutil.which(compiler[0]) is None:
        return f"no compiler {' '.join(compiler)!r} on the PATH"
    made, object_file = (path.with_suffix(f".{os.getpid()}{end}") for end in ("", ".o"))
    digest = f'-DCAIRN_SOURCE="{library.digest(root)}"'
    problem = ""
    for more in ((), library.plain) if library.plain else ((),):
        # In two steps: with -fopenmp a linker would bind the library to an OpenMP of its own.
        compiling = [*compiler, *library.flags, *more, digest, "-c", str(root / library.source)]
        linking = [*compiler, "-shared", str(object_file), "-lm", "-o", str(made)]
        for command in ([*compiling, "-o", str(object_file)], linking):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                problem = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[0]
                break
        else:
            made.replace(path)  # whole or not at all: others may be loading it
            object_file.unlink()
            return ""
    for left in (made, object_file):
        left.unlink(missing_ok=True)
    return problem


class CompileKernel(BuildHookInterface):
    """Leaves the libraries beside their sources, and makes the wheel one of this platform."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        for library in libraries(root):
            problem = compile_library(root, library)
            if problem:
                self.app.display_warning(
                    f"{library.task}: {library.otherwise} instead of compiled C ({problem})"
                )
                continue
            self.app.display_info(f"{library.task}: compiled {library.source}")
            tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{tag}"
            build_data["pure_python"] = False
            build_data["artifacts"].append(f"/{library.path}")


if __name__ == "__main__":
    here = Path(__file__).parent
    for one in libraries(here):
        print(f"{one.path}: {compile_library(here, one) or 'compiled'}")  # noqa: T201
