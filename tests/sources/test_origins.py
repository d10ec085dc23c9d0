"""Archives that lie, archives that are whole, and what cannot be read."""

import gzip
import io
import os
import random
import re
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from cairn.base import UserError
from cairn.sources import SOURCE_SCHEMA, directory, packed, read_batches, read_origin
from cairn.sources import archive as archives
from cairn.sources.origins import check

FILES = {"top/a.py": b"print(1)\n", "top/b/c.txt": b"", "top/run": b"#!/bin/sh\n"}


def write_tar(path: Path, members: list[tuple[str, dict[str, object], bytes]], mode: str = "w:gz"):
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, fields, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o100755 if name.endswith("run") else 0o100644) << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
        for name, target in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target)
    return path


def refused(path: Path) -> str:
    """What is told of a source of which nothing may be used."""
    (record,) = read_origin(str(path))
    assert (record.path, record.raw, record.origin.directory_id) == ("", None, "")
    assert record.origin.origin_url == path.resolve().as_uri()
    assert record.problem
    assert path.name in record.problem
    return record.problem


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip", "whl"])
def test_every_kind_of_archive_gives_the_tree_that_was_packed(tmp_path: Path, ending: str):
    path = tmp_path / f"x-1.0.{ending}"
    if ending in {"zip", "whl"}:
        write_zip(path, FILES, {"top/link": "a.py"})
    else:
        run = {"mode": 0o755}
        members = [(f"./{n}", run if n.endswith("run") else {}, c) for n, c in FILES.items()]
        members.append(("top/link", {"type": tarfile.SYMTYPE, "linkname": "a.py"}, b""))
        write_tar(path, members, "w:" + ending.removeprefix("tar").removeprefix("."))
    found = {file.path: file for file in read_origin(str(path))}
    root = tmp_path / "unpacked"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "top/run").chmod(0o755)
    (root / "top/link").symlink_to("a.py")
    expected = {file.path: file for file in read_origin(str(root))}
    assert {n: (f.content_id, f.mode, f.raw) for n, f in found.items()} == {
        n: (f.content_id, f.mode, f.raw) for n, f in expected.items()
    }
    assert found["top/a.py"].origin.directory_id == expected["top/a.py"].origin.directory_id
    assert found["top/a.py"].origin.repo_name == "x-1.0"
    assert list(found) == list(expected)
    assert list(read_origin(str(path))) == list(read_origin(str(path)))


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "zip"])
def test_files_come_in_the_order_of_their_paths_however_little_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
):
    content = {f"{n:02}": bytes([n]) * (n + 1) for n in (7, 3, 9, 0, 5, 2, 8, 1, 6, 4)}
    path = tmp_path / f"x.{ending}"
    if ending == "zip":
        write_zip(path, content)
    else:
        write_tar(path, [(n, {}, c) for n, c in content.items()], f"w:{ending[4:]}")
    whole = list(read_origin(str(path), max_bytes=9))
    monkeypatch.setattr(packed, "WINDOW", 10)
    assert list(read_origin(str(path), max_bytes=9)) == whole
    expected = [(n, c if len(c) < 9 else None) for n, c in sorted(content.items())]
    assert [(file.path, file.raw) for file in whole] == expected


def test_hard_links_are_read_as_what_they_point_to(tmp_path: Path):
    hard = {"type": tarfile.LNKTYPE, "linkname": "a"}
    again = {"type": tarfile.LNKTYPE, "linkname": "b"}
    members = [("a", {}, b"content"), ("b", hard, b""), ("c", {}, b"other"), ("0", again, b"")]
    path = write_tar(tmp_path / "x.tar.gz", members)
    found = [(file.path, file.raw, file.length_bytes) for file in read_origin(str(path))]
    assert found == [(n, b"content", 7) for n in "0ab"] + [("c", b"other", 5)]


HOSTILE_TARS = {
    "climbs": ("../x", {}, b"x"),
    "climbs inside": ("a/../../x", {}, b"x"),
    "absolute": ("/etc/x", {}, b"x"),
    "absolute link": ("l", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, b""),
    "climbing link": ("a/l", {"type": tarfile.SYMTYPE, "linkname": "../../x"}, b""),
    "climbing hard link": ("a", {"type": tarfile.LNKTYPE, "linkname": "../x"}, b""),
    "hard link to nothing": ("a", {"type": tarfile.LNKTYPE, "linkname": "b"}, b""),
    "long path": ("a/" * 3000 + "x", {}, b"x"),
    "long link": ("l", {"type": tarfile.SYMTYPE, "linkname": "a/" * 3000}, b""),
    "device": ("d", {"type": tarfile.CHRTYPE}, b""),
    "pipe": ("p", {"type": tarfile.FIFOTYPE}, b""),
}


@pytest.mark.parametrize("attack", HOSTILE_TARS, ids=str)
def test_hostile_tars_are_refused_before_anything_is_read(tmp_path: Path, attack: str):
    path = write_tar(tmp_path / "evil.tar.gz", [("fine.py", {}, b"1"), HOSTILE_TARS[attack]])
    assert refused(path)


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/../../x", "C:\\x", "..\\x", "a/" * 3000 + "x", "fine.py/x", "./fine.py"],
)
def test_hostile_zips_are_refused(tmp_path: Path, name: str):
    path = write_zip(tmp_path / "evil.zip", {"fine.py": b"1", name: b"2"})
    assert refused(path)


def test_a_zip_with_a_climbing_link_is_refused(tmp_path: Path):
    path = write_zip(tmp_path / "evil.zip", {"fine.py": b"1"}, {"a/link": "../../etc"})
    assert re.search("is a link out of the archive", refused(path))


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_a_zip_with_a_device_is_refused(tmp_path: Path, kind: int):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("device")
        info.external_attr = (kind | 0o644) << 16
        archive.writestr(info, b"")
    assert re.search(r"is a device or a pipe", refused(path))


def test_an_encrypted_zip_is_refused(tmp_path: Path):
    path = write_zip(tmp_path / "locked.zip", {"a": b"x"})
    raw = bytearray(path.read_bytes())
    for place in (6, raw.index(b"PK\1\2") + 8):  # the flags of both headers
        raw[place] |= 1
    path.write_bytes(raw)
    assert re.search(r"is encrypted", refused(path))


def test_two_entries_of_a_zip_that_share_their_bytes_are_refused(tmp_path: Path):
    path = write_zip(tmp_path / "overlap.zip", {"a": bytes(500), "b": bytes(500)})
    raw = bytearray(path.read_bytes())
    first = raw.index(b"PK\1\2")
    second = raw.index(b"PK\1\2", first + 1)
    raw[second + 42 : second + 46] = raw[first + 42 : first + 46]  # the offset of the local header
    path.write_bytes(raw)
    assert re.search(r"truncated or damaged", refused(path))


def test_of_a_name_that_comes_twice_in_a_tar_the_last_stays(tmp_path: Path):
    link: dict[str, object] = {
        "type": tarfile.LNKTYPE,
        "linkname": "a",
    }  # of the first, as tar unpacks it
    symlink: dict[str, object] = {"type": tarfile.SYMTYPE, "linkname": "b"}
    members = [("a", {}, b"1"), ("l", link, b""), ("c", symlink, b""), ("./a", {}, b"22")]
    path = write_tar(tmp_path / "twice.tar.gz", [*members, ("b", {}, b"3"), ("c", {}, b"4")])
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "xf", str(path), "-C", str(unpacked)], check=True)
    expected = {one.name: one.read_bytes() for one in unpacked.iterdir()}
    assert expected == {"a": b"22", "l": b"1", "b": b"3", "c": b"4"}
    assert {file.path: file.raw for file in read_origin(str(path))} == expected


def test_names_that_come_twice_in_a_zip_or_clash_are_refused(tmp_path: Path):
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", b"2")
    assert re.search("is in it twice", refused(twice))
    clash = write_tar(tmp_path / "clash.tar", [("a", {}, b"1"), ("a/b", {}, b"2")], "w")
    assert re.search("is a file and a folder", refused(clash))


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_zip(tmp_path / "bomb.zip", {"zeros": bytes(70 * 2**20)})
    assert re.search("looks like a bomb", refused(path))
    path = write_tar(tmp_path / "bomb.tar.gz", [("zeros", {}, bytes(70 * 2**20))])
    assert re.search("looks like a bomb", refused(path))
    monkeypatch.setattr(archives, "MOST_BYTES", 10)
    path = write_zip(tmp_path / "large.zip", {"a": b"123456", "b": b"123456"})
    assert re.search("too large to be trusted", refused(path))


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz", "zip"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.8])
def test_truncated_archives_are_named(tmp_path: Path, ending: str, share: float):
    content = {f"f{n}.bin": os.urandom(3000) for n in range(20)}
    path = tmp_path / f"cut.{ending}"
    if ending == "zip":
        write_zip(path, content)
    else:
        mode = "w:" + ending.removeprefix("tar").removeprefix(".")
        write_tar(path, [(n, {}, c) for n, c in content.items()], mode)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert re.search(r"truncated or damaged", refused(path))


@pytest.mark.parametrize("cut", [512, 1024 + 100, 1024 + 512])
def test_a_tar_cut_between_members_or_in_a_header_is_no_shorter_archive(tmp_path: Path, cut: int):
    path = write_tar(tmp_path / "cut.tar", [("a", {}, b"1"), ("b", {}, b"2")], "w")
    path.write_bytes(path.read_bytes()[:cut])
    assert re.search(r"truncated or damaged", refused(path))


def test_a_damaged_header_in_the_middle_does_not_end_the_archive(tmp_path: Path):
    path = write_tar(tmp_path / "x.tar", [("a", {}, b"1"), ("b", {}, b"2")], "w")
    raw = bytearray(path.read_bytes())
    raw[1024] ^= 0xFF  # the second header's first byte
    path.write_bytes(raw)
    assert re.search("truncated or damaged", refused(path))


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_random_damage_is_found_or_harmless_and_never_a_traceback(tmp_path: Path, ending: str):
    rng = random.Random(3)
    content = {f"d/f{n}.bin": rng.randbytes(600) for n in range(6)}
    path = tmp_path / f"x.{ending}"
    if ending == "zip":
        write_zip(path, content)
    else:
        mode = "w:" + ending.removeprefix("tar").removeprefix(".")
        write_tar(path, [(n, {}, c) for n, c in content.items()], mode)
    whole = path.read_bytes()
    count = 0
    for _ in range(60):
        raw = bytearray(whole)
        raw[rng.randrange(len(raw))] ^= rng.randrange(1, 256)
        path.write_bytes(raw)
        files = list(read_origin(str(path)))
        if files[0].problem:
            assert len(files) == 1
            count += 1
            continue
        assert len(files) == len(content), "damage never makes an archive shorter"
        if ending != "tar":  # a plain tar has no checksums of contents
            assert {file.raw for file in files} == set(content.values())
    assert count > (5 if ending == "tar" else 30)


def test_a_header_that_claims_to_be_huge_is_not_read(tmp_path: Path):
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**21
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(2**21)))
    assert re.search("a header of 2,097,152 bytes", refused(path))


def test_a_corrupt_member_is_found(tmp_path: Path):
    path = write_zip(tmp_path / "x.zip", {"a": os.urandom(2000)})
    raw = bytearray(path.read_bytes())
    raw[200] ^= 0xFF
    path.write_bytes(raw)
    assert re.search("truncated or damaged", refused(path))


def test_what_is_no_source_is_refused(tmp_path: Path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    with pytest.raises(UserError, match="neither a directory nor an archive"):
        read_origin(str(tmp_path / "picture.png"))
    with pytest.raises(UserError, match="does not exist"):
        read_origin(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"python:rihc.*did you mean 'rich'"):
        read_origin("python:rihc")
    for spec, problem in (("", "is empty"), ("x" * 5000, "too long"), ("~no-such-user/x", "home")):
        with pytest.raises(UserError, match=problem):
            read_origin(spec)
        with pytest.raises(UserError, match=problem):
            check(spec)


def test_what_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "closed.py").write_text("x = 1\n")
    opened = os.open

    def refuse(path: bytes, *arguments: object) -> int:  # the tests may run as root
        if path.endswith(b"closed.py"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    (tmp_path / "open.py").write_text("x = 2\n")
    closed, other = read_origin(str(tmp_path))
    assert (closed.path, closed.problem) == ("closed.py", "cannot be read (Permission denied)")
    assert (other.raw, other.problem) == (b"x = 2\n", None)
    assert closed.origin.directory_id == other.origin.directory_id == "", "cannot be known"


@pytest.mark.parametrize("held", [0, 2**20])
def test_a_file_that_changes_between_two_looks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
):
    monkeypatch.setattr(directory, "HELD", held)
    for name in ("a.py", "b.py", "c.py"):
        (tmp_path / name).write_text("x = 1\n")
    before = list(read_origin(str(tmp_path)))
    files = read_origin(str(tmp_path))
    first = next(files)
    (tmp_path / "b.py").write_text("x = 2\n")
    second, third = files
    assert [first, third] == [before[0], before[2]]
    if held:  # one look was enough
        assert second == before[1]
    else:
        assert second.problem == "changed while it was read"
        assert (second.raw, second.content_id) == (None, before[1].content_id)


def test_an_archive_that_changes_between_two_looks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(packed, "WINDOW", 60_000)
    path = write_tar(tmp_path / "x.tar", [(n, {}, bytes(51_200)) for n in "abc"], "w")
    before = list(read_origin(str(path)))
    files = read_origin(str(path))
    first = next(files)
    with path.open("r+b") as file:
        file.seek(512 + 51_200 + 512)  # of b, in place
        file.write(b"X")
    second, third = files
    assert [first, third] == [before[0], before[2]]
    assert second.problem == "changed while it was read"
    assert second.content_id == before[1].content_id


def test_only_the_first_files_are_given_and_the_identifier_is_of_all(tmp_path: Path):
    for name in ("a.py", "b.py", "c.py"):
        (tmp_path / name).write_text(name)
    (whole,) = read_batches(str(tmp_path))
    (part,) = read_batches(str(tmp_path), max_files=2)
    assert part.equals(whole.slice(0, 2))


def test_names_of_roots_that_are_no_utf8_are_escaped(tmp_path: Path):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff"))
    root.mkdir()
    (root / "a").write_text("1")
    packed = write_tar(root.with_name(root.name + ".tar"), [("a", {}, b"1")], "w")
    for spec in (root, packed):
        (batch,) = read_batches(str(spec))
        assert batch.column("repo_name").to_pylist() == ["odd\\xff"]


def test_two_looks_give_the_same_batches(tmp_path: Path):
    for name in ("b/c", "a", "a-b", "b.c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name * 100)
    first, second = (list(read_batches(str(tmp_path), batch_bytes=150)) for _ in range(2))
    assert len(first) > 1
    assert all(one.equals(other) for one, other in zip(first, second, strict=True))
    paths = [path for batch in first for path in batch.column("path").to_pylist()]
    assert paths == ["a", "a-b", "b.c", "b/c"]


def test_excluded_files_still_count_for_the_identifier(tmp_path: Path):
    for name in ("a.py", "b.txt"):
        (tmp_path / name).write_text(name)
    whole = list(read_origin(str(tmp_path)))
    part = list(read_origin(str(tmp_path), exclude=("*.txt",)))
    assert [file.path for file in part] == ["a.py"]
    assert part[0].origin == whole[0].origin


def test_large_files_are_recorded_without_their_bytes_and_batches_keep_the_schema(tmp_path: Path):
    (tmp_path / "large").write_bytes(bytes(100))
    (tmp_path / "small").write_bytes(bytes(99))
    (batch,) = read_batches(str(tmp_path), max_bytes=100)
    assert batch.schema.equals(SOURCE_SCHEMA)
    assert batch.column("raw").is_null().to_pylist() == [True, False]
    assert batch.column("length_bytes").to_pylist() == [100, 99]
