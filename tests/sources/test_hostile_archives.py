"""Archives that ask for time or memory are refused; all else is still read."""

import bz2
import gzip
import io
import lzma
import os
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from cairn.sources import archive, read_origin
from cairn.sources.record import path_bytes

from .fixtures.measured_reads import MB, MEMORY, measured, refused


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, target: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, target
    return info.tobuf(tarfile.GNU_FORMAT)


def extended(fields: list[tuple[bytes, bytes]], kind: bytes = tarfile.XHDTYPE) -> bytes:
    raw = b""
    for key, value in fields:
        rest = b" %s=%s\n" % (key, value)
        length = len(rest) + 1
        while len(b"%d" % length) + len(rest) != length:
            length += 1
        raw += b"%d%s" % (length, rest)
    return header("x", kind, len(raw)) + padded(raw)


def padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % 512)


def packed(path: Path, *parts: bytes) -> Path:
    """A tar.gz of headers and contents as they are."""
    with gzip.open(path, "wb", compresslevel=6) as file:
        for part in parts:
            file.write(part)
        file.write(bytes(1024))
    return path


ZEROS = bytes(64 * MB)


def endless(path: Path, compress: Callable[[bytes], bytes]) -> Path:
    """A compressed tar whose one member has 10 GB of zeros; streams may follow each other."""
    begin = header("zeros.py", size=160 * len(ZEROS))
    path.write_bytes(compress(begin) + compress(ZEROS) * 160)
    return path


@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        ("tar.gz", lambda raw: gzip.compress(raw, 9)),
        ("tar.bz2", bz2.compress),
        ("tar.xz", lambda raw: lzma.compress(raw, preset=1)),
    ],
)
def test_gigabytes_of_zeros_in_a_small_tar_are_refused(
    tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]
):
    path = endless(tmp_path / f"x.{ending}", compress)
    assert path.stat().st_size < 12 * MB
    assert "looks like a bomb" in refused(path)


def zeros_zip(path: Path, claimed: int) -> Path:
    """A zip of one member of 10 GB of zeros that says it holds `claimed` bytes."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    first, more = (squeeze.compress(ZEROS) + squeeze.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    raw = first + more * 159 + squeeze.flush()
    name = b"zeros.py"
    wide = struct.pack("<HHQQ", 1, 16, claimed, len(raw))
    common = struct.pack("<HHHHHIIIHH", 45, 0, 8, 0, 33, 0, 2**32 - 1, 2**32 - 1, len(name), 20)
    begin = b"PK\3\4" + common + name + wide + raw
    table = b"PK\1\2" + struct.pack("<H", 45) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0)
    table += name + wide
    end = struct.pack("<HHHHIIH", 0, 0, 1, 1, len(table), len(begin), 0)
    path.write_bytes(begin + table + b"PK\5\6" + end)
    return path


def test_gigabytes_of_zeros_in_a_small_zip_are_refused_whatever_it_claims(tmp_path: Path):
    honest = zeros_zip(tmp_path / "x.zip", 160 * len(ZEROS))
    assert honest.stat().st_size < 12 * MB
    with zipfile.ZipFile(honest) as known:
        assert known.infolist()[0].file_size == 160 * len(ZEROS)
    assert "looks like a bomb" in refused(honest)
    assert "truncated or damaged" in refused(zeros_zip(tmp_path / "liar.zip", 100))


def test_archives_in_an_archive_are_files_and_never_opened(tmp_path: Path):
    raw = b"x = 1\n" * 1000
    for _ in range(6):  # 16 ** 6 copies
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as nested:
            for number in range(16):
                nested.writestr(f"lib{number:02}.zip", raw)
        raw = made.getvalue()
    path = tmp_path / "42.zip"
    path.write_bytes(raw)
    files, peak, _ = measured(path)
    assert set(files) == {f"lib{number:02}.zip" for number in range(16)}
    assert sum(length for length, *_ in files.values()) < 10 * MB
    assert peak < MEMORY


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zip", "bin"])
def test_a_compressed_file_that_is_no_archive_is_not_read_to_its_end(tmp_path: Path, ending: str):
    compress = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(ending, bytes)
    path = tmp_path / f"zeros.{ending}"
    path.write_bytes(compress(ZEROS) * (100 if ending in {"gz", "bz2", "xz"} else 0))
    if ending in {"zip", "bin"}:
        os.truncate(path, 10 * 2**30)
    assert "more after the archive's end" in refused(path)


# What a few kilobytes of a tar could make of memory or time, by what is wrong with it.
SMALL_TARS: dict[str, tuple[str, Callable[[], list[bytes]]]] = {
    "folders by the thousand in every path": (
        "more than 2,000,000 files and folders",
        lambda: [
            extended([(b"path", b"%d/" % number + b"a/" * 2000 + b"x")]) + header("x")
            for number in range(1100)
        ],
    ),
    "headers before headers": (
        "a member of more than 8 headers",
        lambda: [extended([(b"path", b"a" * 1_000_000)])] * 400,
    ),
    "a header whose fields overlap": (
        "a damaged record",
        lambda: [header("x", tarfile.XHDTYPE, MB), b"2 " * (MB // 2 - 1) + b"=\n", header("x")],
    ),
    "a map of a sparse file without end": (
        "a map of a sparse file of more than",
        lambda: [sparse_header(), *[sparse_map([(1, 1)] * 21, more=True)] * 100_000],
    ),
    "another map of a sparse file without end": (
        "a map of a sparse file of more than",
        lambda: [
            extended([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]),
            header("x", size=2**30),
            *[b"%d\n" % 10**9 + b"1\n" * (MB // 2)] * 10,
        ],
    ),
    "a map of a sparse file that goes back": (
        "out of order",
        lambda: [
            extended([(b"GNU.sparse.map", b"600,10,20,10"), (b"GNU.sparse.size", b"1000")]),
            header("x", size=20) + bytes(512),
        ],
    ),
    "a size below zero": (
        "a size of -1,024 bytes",
        lambda: [extended([(b"size", b"-1024")]) + header("x")],
    ),
    "a sparse file below zero": (
        "a size of -1,024 bytes",
        lambda: [extended([(b"GNU.sparse.realsize", b"-1024")]) + header("x")],
    ),
}


def sparse_header() -> bytes:
    raw = bytearray(header("x", tarfile.GNUTYPE_SPARSE))
    raw[482] = 1  # the map goes on in the next block
    raw[483:495] = b"%011o\0" % 2**30
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def sparse_map(pieces: list[tuple[int, int]], *, more: bool) -> bytes:
    raw = b"".join(b"%011o\0%011o\0" % piece for piece in pieces)
    return raw + bytes([more]) + bytes(7)


@pytest.mark.parametrize("attack", SMALL_TARS)
def test_a_small_tar_that_asks_for_much_is_refused(tmp_path: Path, attack: str):
    problem, parts = SMALL_TARS[attack]
    path = packed(tmp_path / "x.tar.gz", header("a.py", size=6), padded(b"x = 1\n"), *parts())
    assert path.stat().st_size < 3 * MB
    assert problem in refused(path)


def test_more_headers_than_files_may_be_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of folders, which give no file."""
    monkeypatch.setattr(archive, "MOST_FILES", 1000)
    folders = [header("d/", tarfile.DIRTYPE)] * 1000
    (record,) = read_origin(str(packed(tmp_path / "x.tar.gz", *folders, header("a.py"))))
    assert "too large to be trusted" in (record.problem or "")
    (record,) = read_origin(str(packed(tmp_path / "y.tar.gz", *folders[1:], header("a.py"))))
    assert (record.path, record.problem) == ("a.py", None)


def test_names_of_gigabytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive, "MOST_NAMES", 4_000_000)
    long = [
        extended([(b"path", b"%d/" % number + b"a" * 3990)]) + header("x") for number in range(1010)
    ]
    (record,) = read_origin(str(packed(tmp_path / "x.tar.gz", *long)))
    assert "names of more than 4,000,000 bytes" in (record.problem or "")
    assert len(list(read_origin(str(packed(tmp_path / "y.tar.gz", *long[:1000]))))) == 1000


def test_fields_of_headers_that_nobody_needs_are_not_held(tmp_path: Path):
    """300 MB of owners' names and comments, and 60,000 fields that hold for every member."""
    wide = [(b"k%d" % number, b"") for number in range(60_000)]
    large = extended([(b"uname", b"u" * 500_000), (b"comment", b"c" * 500_000)])
    parts = [extended(wide, tarfile.XGLTYPE)]
    parts += [large + header(f"{number}.py") for number in range(300)]
    files, _, more = measured(packed(tmp_path / "x.tar.gz", *parts))
    assert len(files) == 300
    assert not any(problem for _, _, problem, _ in files.values())
    assert more < 60 * MB


@pytest.mark.parametrize("form", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_members_are_read_as_tar_unpacks_them(tmp_path: Path, form: str):
    root = tmp_path / "root"
    root.mkdir()
    with (root / "holes.bin").open("wb") as file:
        for place in range(0, 40 * MB, 1 * MB):  # more pieces than the first header holds
            file.seek(place + 4096)
            file.write(b"%d\n" % place)
        file.truncate(50 * MB)
    (root / "a.py").write_text("x = 1\n")
    path = tmp_path / "x.tar"
    line = ["tar", "-C", str(root), "-S", "-cf", str(path), "holes.bin", "a.py"]
    line += ["--format=gnu"] if form == "gnu" else ["--format=pax", f"--sparse-version={form}"]
    subprocess.run(line, check=True)
    if path.stat().st_size > 10 * MB:
        pytest.skip("no sparse files here")
    found, expected = (
        {file.path: (file.content_id, file.length_bytes) for file in read_origin(str(source))}
        for source in (path, root)
    )
    assert found == expected


def test_names_that_are_no_utf8_come_from_folders_and_archives_alike(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    names = [
        b"\xff",
        b"\xc3\x28",
        b"a\nb",
        b"back\\xff",
        b"\xed\xa0\x80",
        "ä".encode(),
        b" ",
        b"\t",
    ]
    for name in names:
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(name)
    for form in ("gnu", "pax", "ustar", "v7"):
        path = tmp_path / f"{form}.tar"
        subprocess.run(
            ["tar", "-C", str(root), f"--format={form}", "-cf", str(path), "."], check=True
        )
        found = {path_bytes(file.path): file.raw for file in read_origin(str(path))}
        assert found == {name: name for name in names}
    found = {path_bytes(file.path): file.raw for file in read_origin(str(root))}
    assert found == {name: name for name in names}
