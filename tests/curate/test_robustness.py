"""What a machine can do to a run: a full disk, a worker that is killed, kills at any moment."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from cairn.base import read_manifest

SCRIPT = """
import sys
from pathlib import Path
from cairn.base.make import make
from cairn.curate import Curate
if __name__ == "__main__":
    recipe = Curate(sources=tuple(sys.argv[2].split(",")), workers=2)
    try:
        make({"corpus": recipe}, Path(sys.argv[1]))
    except OSError as error:
        print(error)
        sys.exit(28)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six trees, enough that they are read by several workers at once."""
    root = tmp_path_factory.mktemp("sources")
    rng = random.Random(5)
    made = []
    for number in range(6):
        tree = root / f"tree{number}"
        tree.mkdir()
        for file in range(120):
            names = [f"name_{rng.randrange(10**6)}" for _ in range(121)]
            lines = [f"{one} = function({other})" for one, other in pairwise(names)]
            (tree / f"m{file:03d}.py").write_text("\n".join(lines))
        made.append(Path(shutil.make_archive(str(root / f"tree{number}"), "gztar", tree)))
    return made


def command(folder: Path, sources: list[Path], script: Path) -> list[str]:
    script.write_text(SCRIPT)
    return [sys.executable, str(script), str(folder), ",".join(map(str, sources))]


@pytest.fixture(scope="module")
def undisturbed(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(folder / "runs", sources, folder / "script.py"), check=True)
    return read_manifest(folder / "runs" / "corpus").digest


def children_of(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children")
    return [int(one) for one in found.read_text().split()]


def workers_of(process: int) -> list[int]:
    """Workers are children of the one process that has imported what all need."""
    return [worker for server in children_of(process) for worker in children_of(server)]


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_kills_at_any_moment_change_nothing(sources: list[Path], undisturbed: str, tmp_path: Path):
    line = command(tmp_path / "runs", sources, tmp_path / "script.py")
    rng = random.Random(9)
    for _ in range(6):
        running = subprocess.Popen(line, start_new_session=True)
        time.sleep(rng.uniform(0.3, 2.5))
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    subprocess.run(line, check=True)
    assert read_manifest(tmp_path / "runs" / "corpus").digest == undisturbed


def test_a_killed_worker_ends_the_run_and_loses_nothing(
    sources: list[Path], undisturbed: str, tmp_path: Path
):
    line = command(tmp_path / "runs", sources, tmp_path / "script.py")
    running = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    stages = tmp_path / "runs" / "corpus" / "resume"
    while running.poll() is None and not list(stages.glob("read-*/part-*")):
        time.sleep(0.002)
    os.kill(workers_of(running.pid)[0], signal.SIGKILL)
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 28
    assert "a worker was killed" in said
    subprocess.run(line, check=True)
    assert read_manifest(tmp_path / "runs" / "corpus").digest == undisturbed


def test_workers_end_with_a_run_that_was_killed(sources: list[Path], tmp_path: Path):
    line = command(tmp_path / "runs", sources, tmp_path / "script.py")
    running = subprocess.Popen(line)
    workers: list[int] = []
    while running.poll() is None and len(workers) < 2:
        time.sleep(0.002)
        workers = workers_of(running.pid)
    running.kill()
    running.wait()
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_running, workers))


def test_a_full_disk_ends_the_run_and_loses_nothing(
    sources: list[Path], undisturbed: str, tmp_path: Path
):
    small = tmp_path / "small"
    small.mkdir()
    line = command(small / "runs", sources, tmp_path / "script.py")
    mount = f"mount -t tmpfs -o size=1m tmpfs {small}"
    inside = (
        f"{mount} && {' '.join(line)}; code=$?; cp -a {small}/runs {tmp_path}/saved; exit $code"
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", inside], capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no private mount here: {done.stderr.strip()}")
    assert done.returncode == 28, done.stderr
    assert "No space left" in done.stdout
    shutil.copytree(tmp_path / "saved", small / "runs", dirs_exist_ok=True)
    subprocess.run(line, check=True)
    assert read_manifest(small / "runs" / "corpus").digest == undisturbed
