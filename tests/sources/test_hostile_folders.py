"""Folders that ask for time, memory or what lies outside: all else is still read."""

import os
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cairn.base import UserError
from cairn.sources import directory, read_origin

from .fixtures.measured_reads import MB, MEMORY, measured


def test_a_sparse_file_of_10_gb_is_told_and_never_read(tmp_path: Path):
    (tmp_path / "a.py").write_text("x = 1\n")
    with (tmp_path / "endless.py").open("wb") as file:
        file.truncate(10 * 2**30)
    files, peak, _ = measured(tmp_path)
    assert files["a.py"][:3] == [6, True, None]
    length, has_bytes, problem, _ = files["endless.py"]
    assert (length, has_bytes) == (10 * 2**30, False)
    assert problem == "holds 10,737,418,240 bytes, more than 4,294,967,296"
    assert peak < MEMORY


def test_a_large_file_is_hashed_in_pieces(tmp_path: Path):
    (tmp_path / "a.py").write_text("x = 1\n")
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(150 * MB)
    files, _, more = measured(tmp_path)
    assert files["large.bin"][:3] == [150 * MB, False, None]
    assert more < 20 * MB
    command = ["git", "hash-object", "--no-filters", str(tmp_path / "large.bin")]
    assert files["large.bin"][3] == subprocess.check_output(command, text=True).strip()


def test_memory_grows_by_little_for_each_of_many_files(tmp_path: Path):
    many = 50_000
    for number in range(many):
        os.close(os.open(tmp_path / f"{number:05}", os.O_CREAT, 0o644))
    files, _, more = measured(tmp_path)
    assert len(files) == many
    assert more < many * 3000  # a list of what was read, of the test's own, is in it


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A thousand folders in each other, with files; Python cannot remove them."""
    deepest = root = tmp_path / "root"
    root.mkdir()
    for _ in range(1000):
        deepest /= "d"
        deepest.mkdir()
    (deepest / "deep.py").write_text("x = 1\n")
    (root / "a.py").write_text("x = 2\n")
    yield root
    subprocess.run(["rm", "-rf", str(root)], check=True)


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_a_thousand_folders_in_each_other_are_read(deep: Path, form: str):
    source = deep
    if form == "tar":
        source = deep.with_name("deep.tar")
        subprocess.run(["tar", "-C", str(deep), "-cf", str(source), "."], check=True)
    files, peak, _ = measured(source)
    assert set(files) == {"a.py", "d/" * 1000 + "deep.py"}
    assert all(has_bytes and problem is None for _, has_bytes, problem, _ in files.values())
    assert peak < MEMORY


def odd_nodes(root: Path) -> int:
    """A pipe, a socket, and devices where they may be made; how many."""
    os.mkfifo(root / "pipe.py")
    with socket.socket(socket.AF_UNIX) as made, inside(root):
        made.bind("socket.py")
    try:
        os.mknod(root / "zero.py", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        os.mknod(root / "disk.py", stat.S_IFBLK | 0o666, os.makedev(7, 0))
    except PermissionError:
        return 2
    return 4


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_pipes_sockets_and_devices_are_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "below").mkdir()
    (tmp_path / "below/a.py").write_text("x = 1\n")
    assert odd_nodes(tmp_path) >= 2
    opened: list[bytes] = []
    really = os.open

    def note(path: Any, *arguments: Any, **more: Any) -> int:
        opened.append(os.fsencode(path))
        return really(path, *arguments, **more)

    monkeypatch.setattr(os, "open", note)
    assert [file.path for file in read_origin(str(tmp_path))] == ["below/a.py"]
    assert {os.path.basename(path) for path in opened} == {b"a.py"}  # noqa: PTH119


@pytest.mark.parametrize("held", [0, MB])
@pytest.mark.parametrize("other", ["pipe", "link", "folder", "device", "nothing"])
def test_a_file_that_becomes_another_thing_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str, held: int
):
    """After it was listed (held), and between the two looks at it."""
    monkeypatch.setattr(directory, "HELD", held)
    for name in ("a.py", "b.py", "c.py"):
        (tmp_path / name).write_text("x = 1\n")

    def swap() -> None:
        target = tmp_path / "b.py"
        target.unlink()
        if other == "pipe":
            os.mkfifo(target)
        elif other == "link":
            target.symlink_to("/dev/zero")
        elif other == "folder":
            target.mkdir()
        elif other == "device":
            os.mknod(target, stat.S_IFCHR | 0o666, os.makedev(1, 5))

    if held:
        listed = list(directory.walk(tmp_path))
        swap_or_skip(swap)
        found = list(directory.read("x", "", listed, MB))
    else:
        files = read_origin(str(tmp_path))
        found = [next(files)]
        swap_or_skip(swap)
        found += files
    assert [(one.path, one.raw) for one in (found[0], found[2])] == [
        ("a.py", b"x = 1\n"),
        ("c.py", b"x = 1\n"),
    ]
    assert found[1].raw is None
    problem = found[1].problem or ""
    assert "changed while" in problem or "cannot be read" in problem


def swap_or_skip(swap: Callable[[], None]) -> None:
    try:
        swap()
    except PermissionError:
        pytest.skip("only root may make devices")


def test_a_source_that_is_a_pipe_a_device_or_a_loop_is_refused(tmp_path: Path):
    odd_nodes(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe.py", "socket.py", "loop", "/dev/zero"):
        with pytest.raises(UserError):
            read_origin(str(tmp_path / name))


def test_links_are_never_followed_wherever_they_lead(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("key")
    targets = {
        "loop": "loop",
        "one": "two",
        "two": "one",
        "self": ".",
        "up": "../..",
        "out": "../secret",
        "file": "../secret/key",
        "root": "/",
        "long": "a/" * 2000 + "a",
    }
    for name, target in targets.items():
        (root / name).symlink_to(target)
    (root / "a.py").write_text("x = 1\n")
    os.link(root / "a.py", root / "hard.py")
    found = {file.path: (file.mode, file.raw) for file in read_origin(str(root))}
    plain = (0o100644, b"x = 1\n")
    links = {name: (0o120000, target.encode()) for name, target in targets.items()}
    assert found == links | {"a.py": plain, "hard.py": plain}


def test_what_may_not_be_read_is_told_and_the_rest_is_read():
    """As another user where the tests run as root, whom nothing stops."""
    user = os.geteuid() or 65534
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("a.py", "closed.py", "shut/b.py", "listed/c.py", "z.py"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text("x = 1\n")
        for name, mode in (("closed.py", 0o000), ("shut", 0o000), ("listed", 0o444)):
            (root / name).chmod(mode)
        root.chmod(0o755)
        before = os.geteuid()
        os.seteuid(user)
        try:
            found = {file.path: file for file in read_origin(str(root))}
        finally:
            os.seteuid(before)
            for name in ("shut", "listed"):
                (root / name).chmod(0o755)
    told = {path for path, file in found.items() if file.problem}
    assert told == {"closed.py", "shut", "listed/c.py"}
    assert all("Permission denied" in (found[path].problem or "") for path in told)
    assert {path for path, file in found.items() if file.raw == b"x = 1\n"} == {"a.py", "z.py"}
