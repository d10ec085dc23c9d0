"""Compiles src/cairn/curate/near/minhash.c as the package is built or installed.

Without a compiler the package is complete all the same, numpy does the work, and the build says so.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "src/cairn/curate/near/minhash.c"
LIBRARY = "src/cairn/curate/near/libminhash.so.1"
FLAGS = ("-std=c11", "-O3", "-shared", "-fPIC")
PLAIN = ("-DCAIRN_ONE_VERSION",)  # for compilers that do not know function versions


class CompileKernel(BuildHookInterface):
    """Leaves the library beside its source, and makes the wheel one of this platform."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        problem = self._compile()
        if problem:
            self.app.display_warning(f"near duplicates: numpy instead of compiled C ({problem})")
            return
        self.app.display_info(f"near duplicates: compiled {SOURCE}")
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["pure_python"] = False
        build_data["artifacts"].append(f"/{LIBRARY}")

    def _compile(self) -> str:
        """Why there is no library; empty where there is one."""
        source, library = Path(self.root, SOURCE), Path(self.root, LIBRARY)
        library.unlink(missing_ok=True)  # what remained could be of another source
        compiler = shlex.split(os.environ.get("CC", "cc"))
        if not compiler or shutil.which(compiler[0]) is None:
            return f"no compiler {' '.join(compiler)!r} on the PATH"
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        made = library.with_suffix(f".{os.getpid()}")
        problem = ""
        for more in ((), PLAIN):
            command = [*compiler, *FLAGS, *more, f'-DCAIRN_SOURCE="{digest}"']
            done = subprocess.run(
                [*command, "-o", str(made), str(source)], capture_output=True, text=True
            )
            if done.returncode == 0:
                made.replace(library)  # whole or not at all: others may be loading it
                return ""
            problem = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[0]
        made.unlink(missing_ok=True)
        return problem
