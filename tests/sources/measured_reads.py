"""A source is read in a process of its own, whose time and memory are bounded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MB = 2**20
SECONDS, MEMORY = 20, 300 * MB  # of a process that reads one source; Python alone takes 90 MB
READ = """
import json, re, sys
from pathlib import Path
from cairn.sources import read_origin
def peak():
    return int(re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1]) * 1024
before = peak()
files = [(file.path, file.length_bytes, file.raw is not None, file.problem, file.content_id)
         for file in read_origin(sys.argv[1])]
print(json.dumps([files, peak(), peak() - before]))
"""


def measured(source: Path) -> tuple[dict[str, list[Any]], int, int]:
    """({path: length, has bytes, problem, content id}, peak bytes, bytes above the start's)."""
    line = [sys.executable, "-c", READ, str(source)]
    done = subprocess.run(line, capture_output=True, timeout=SECONDS, check=True)
    files, peak, more = json.loads(done.stdout)
    return {path: rest for path, *rest in files}, peak, more


def refused(source: Path) -> str:
    """Why nothing of a source may be used, which is found in bounded time and memory."""
    files, peak, _ = measured(source)
    assert list(files) == [""]
    assert peak < MEMORY
    return files[""][2]
