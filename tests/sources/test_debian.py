"""Debian source packages, against what dpkg-source unpacks."""

import hashlib
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from cairn.sources import read_origin

Files = dict[str, str]  # a target after `->` for a link; mode 755 where the name ends in `.sh`


def pack(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:" + path.suffix.removeprefix(".")) as archive:  # type: ignore[call-overload]
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if name.endswith(".sh") else 0o644
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif text.startswith("->"):
                info.type, info.linkname = tarfile.SYMTYPE, text[2:]
            else:
                info.size = len(text)
            archive.addfile(info, BytesIO(text.encode()) if info.isreg() else None)
    return path


def write_dsc(path: Path, version: str, parts: list[Path], *, signed: bool = True) -> Path:
    revision = "" if any(one.name.startswith("made_1.0.tar") for one in parts) else "-1"
    lines = [
        f"Format: {version}",
        "Source: made",
        f"Version: 1.0{revision}",
        "Maintainer: A <a@b.c>",
    ]
    lines += ["Package-List:", " made deb devel optional arch=any"]
    for title, hashed in (("Checksums-Sha256", hashlib.sha256), ("Files", hashlib.md5)):
        lines.append(f"{title}:")
        for one in parts:
            raw = one.read_bytes()
            lines.append(f" {hashed(raw).hexdigest()} {len(raw)} {one.name}")
    text = "\n".join(lines) + "\n"
    if signed:
        text = f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{text}\n"
        text += "-----BEGIN PGP SIGNATURE-----\n\niQ\n-----END PGP SIGNATURE-----\n"
    path.write_text(text)
    return path


UPSTREAM: Files = {
    "made-1.0/": "",
    "made-1.0/main.c": "int main;\n",
    "made-1.0/run.sh": "#!/bin/sh\n",
    "made-1.0/link": "->main.c",
    "made-1.0/lib/old": "replaced by the component\n",
    "made-1.0/debian/upstreams-own": "does not stay\n",
}
DEBIAN: Files = {
    "debian/": "",
    "debian/source/format": "3.0 (quilt)\n",  # dpkg-source writes it where it lacks
    "debian/changelog": "made (1.0-1) unstable; urgency=low\n",
    "debian/patches/series": "one.patch\n",
    "debian/patches/one.patch": "--- a/main.c\n+++ b/main.c\n@@ -1 +1 @@\n-int main;\n+int two;\n",
}
CASES = {
    "quilt": ("3.0 (quilt)", {"orig": UPSTREAM, "debian": DEBIAN}),
    "components": (
        "3.0 (quilt)",
        {"orig": UPSTREAM, "orig-lib": {"x/": "", "x/new": "1\n"}, "debian": DEBIAN},
    ),
    "several at the root": ("3.0 (quilt)", {"orig": {"a": "1", "b/c": "2"}, "debian": DEBIAN}),
    "an empty folder beside": (
        "3.0 (quilt)",
        {"orig": {"a/": "", "a/b": "1", "c/": ""}, "debian": DEBIAN},
    ),
    "one file alone": ("3.0 (quilt)", {"orig": {"a": "1"}, "debian": DEBIAN}),
    "native": (
        "3.0 (native)",
        {"": UPSTREAM | {"made-1.0/debian/source/format": "3.0 (native)\n"}},
    ),
    "old native": ("1.0", {"": UPSTREAM}),
    "old": ("1.0", {"orig": UPSTREAM}),
}


def build(folder: Path, version: str, archives: dict[str, Files], ending: str = "gz") -> Path:
    folder.mkdir(exist_ok=True)
    parts = []
    for kind, files in archives.items():
        middle = f".{kind}" if kind else ""
        revision = "-1" if kind == "debian" else ""
        parts.append(pack(folder / f"made_1.0{revision}{middle}.tar.{ending}", files))
    if version == "1.0" and "orig" in archives:
        diff = folder / "made_1.0-1.diff.gz"
        diff.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0")  # empty
        parts.append(diff)
    return write_dsc(folder / "made_1.0-1.dsc", version, parts)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_a_package_is_the_tree_that_dpkg_source_unpacks(tmp_path: Path, case: str, ending: str):
    if shutil.which("dpkg-source") is None:
        pytest.skip("dpkg-source is not installed")
    version, archives = CASES[case]
    if version == "1.0" and ending != "gz":
        pytest.skip("format 1.0 knows gzip alone")
    dsc = build(tmp_path / "in", version, archives, ending)
    flag = {"1.0": "--skip-debianization", "3.0 (quilt)": "--skip-patches"}.get(version)
    out = tmp_path / "out"
    command = ["dpkg-source", "--no-check", *([flag] if flag else []), "-x", str(dsc), str(out)]
    subprocess.run(command, check=True, capture_output=True)
    expected = [(f.path, f.mode, f.raw) for f in read_origin(str(out))]
    found = list(read_origin(str(dsc)))
    assert [(f.path, f.mode, f.raw) for f in found] == expected
    assert found[0].origin.directory_id == next(read_origin(str(out))).origin.directory_id
    assert {f.origin.repo_name for f in found} == {"made"}


def test_the_debian_folder_lies_over_upstreams_and_patches_are_not_applied(tmp_path: Path):
    dsc = build(tmp_path, *CASES["components"])
    found = {file.path: file.raw for file in read_origin(str(dsc))}
    assert found["main.c"] == b"int main;\n"
    assert {path for path in found if not path.startswith("debian/")} == {
        "lib/new", "link", "main.c", "run.sh",
    }  # fmt: skip
    assert "debian/upstreams-own" not in found
    assert "debian/changelog" in found
    unsigned = tmp_path / "made_1.0-1.dsc"
    write_dsc(unsigned, "3.0 (quilt)", sorted(tmp_path.glob("*.tar.gz")), signed=False)
    assert {file.path: file.raw for file in read_origin(str(unsigned))} == found


DAMAGE = {
    "missing part": "made_1.0.orig.tar.gz cannot be read",
    "other sum": "has another SHA-256 sum",
    "other size": "has another size",
    "cut text": "its signature is missing",
    "no sums": "lists no SHA-256 sums",
    "unknown format": "is of the format '3.0 (git)'",
    "a path for a name": "no SHA-256 sum",
    "no text": "no text in UTF-8",
    "a field twice": "is no field",
    "hostile archive": "climbs out",
    "clash": "runs through a file of another",
    "no upstream": "no upstream archive",
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_package_is_told_as_a_whole(tmp_path: Path, case: str):
    version, archives = CASES["quilt"]
    if case == "hostile archive":
        archives = archives | {"debian": {"debian/../../x": "1"}}
    if case == "clash":
        archives = archives | {"debian": {"main.c/x": "1"}}
    if case == "no upstream":
        archives = {"debian": DEBIAN, "debian2": DEBIAN}
    dsc = build(tmp_path, "3.0 (git)" if case == "unknown format" else version, archives)
    orig, text = tmp_path / "made_1.0.orig.tar.gz", dsc.read_bytes()
    if case == "missing part":
        orig.unlink()
    elif case in {"other sum", "other size"}:
        raw = bytearray(orig.read_bytes())
        raw[-1] ^= 1
        orig.write_bytes(raw if case == "other sum" else raw + b"1")
    elif case == "cut text":
        text = text[: text.index(b"Files:")]
    elif case == "no sums":
        text = text.replace(b"Checksums-Sha256", b"Checksums-Sha1")
    elif case == "a path for a name":
        text = text.replace(b" made_1.0.orig", b" ../made_1.0.orig")
    elif case == "no text":
        text = text.replace(b"Maintainer: A", b"Maintainer: \xff")
    elif case == "a field twice":
        text = text.replace(b"Version:", b"Source: other\nVersion:")
    dsc.write_bytes(text)
    (record,) = read_origin(str(dsc))
    assert (record.path, record.raw, record.origin.directory_id) == ("", None, "")
    assert DAMAGE[case] in (record.problem or "")
    assert "made_1.0-1.dsc" in (record.problem or "")
