"""Documentation on disk: which files are given, and manual pages that are packed."""

import gzip
import tarfile
from pathlib import Path

import pytest

from cairn.base import UserError
from cairn.sources import documentation, read_origin
from cairn.sources.documentation import is_documentation
from cairn.sources.record import SourceFile
from cairn.sources.spec import parse
from cairn.sources.swhid import content_hash

PAGE = b".TH LS 1\n.SH NAME\nls \\- list\n"


def read(text: str, max_bytes: int = 10_000) -> dict[str, SourceFile]:
    spec = parse(f"docs:{text}", {"docs": documentation.OPTIONS})
    files = documentation.read(
        spec, max_bytes=max_bytes, source=lambda path: read_origin(path, max_bytes=max_bytes)
    )
    return {file.path: file for file in files}


def tree(folder: Path) -> Path:
    files = {
        "index.html": b"<p>x", "a/b.MD": b"# b", "a/code.py": b"x = 1\n", "man1/ls.1.gz": b"",
        "lib.so.1": b"\x7fELF", "manual.pdf": b"%PDF-", "LICENSE": b"MIT", "bad.3.gz": b"\x1f\x8b",
        "cut.8.gz": gzip.compress(PAGE)[:-3], "bomb.5.gz": gzip.compress(b"x" * 2_000_000),
    }  # fmt: skip
    files["man1/ls.1.gz"] = gzip.compress(PAGE)
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    (folder / "link.md").symlink_to("a/b.MD")
    return folder


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_documents_of_a_folder_or_an_archive_are_given(tmp_path: Path, form: str):
    path = tree(tmp_path / "made")
    if form == "archive":
        with tarfile.open(tmp_path / "made.tar", "w") as packed:
            packed.add(path, "")
        path = tmp_path / "made.tar"
    files = read(f"{path}?licence=MIT")
    told = {"bad.3.gz", "cut.8.gz"}
    assert set(files) == {"index.html", "a/b.MD", "man1/ls.1", "manual.pdf", "bomb.5.gz"} | told
    assert {file.kind for file in files.values()} == {"documentation"}
    assert {file.detected_licenses for file in files.values()} == {("MIT",)}
    page = files["man1/ls.1"]
    assert (page.raw, page.content_id, page.length_bytes) == (PAGE, content_hash(PAGE), len(PAGE))
    assert {name for name, file in files.items() if file.problem} == told
    assert (files["bomb.5.gz"].raw, files["bomb.5.gz"].length_bytes) == (None, 10_000)


def test_one_file_is_a_source_and_a_path_that_is_none_a_mistake(tmp_path: Path):
    path = tree(tmp_path) / "index.html"
    (file,) = read(str(path)).values()
    assert (file.raw, file.path, file.kind) == (b"<p>x", "index.html", "documentation")
    assert (file.origin.repo_name, file.origin.origin_url) == ("index.html", path.as_uri())
    with pytest.raises(UserError, match="does not exist"):
        read(str(tmp_path / "none.html"))


def test_names_promise_documentation():
    names = (
        "a.htm x/B.PDF r.rst git-add.1 x.3pm.gz printf.3p y.adoc z.man.gz gcc-12.1.gz notes.txt o.8"
    )
    assert [name for name in names.split() if not is_documentation(name)] == []
    names = "a.py libc.so.6 release-1.2 v1.2.3 log.tar.gz syslog.log.1 pdf x.0 1.5 Makefile a.gz"
    assert [name for name in names.split() if is_documentation(name)] == []


def test_manual_pages_of_this_machine_are_read():
    folder = Path("/usr/share/man/man5")
    if not any(folder.glob("*.5.gz")):
        pytest.skip("no manual pages are installed")
    files = read(str(folder), 10**6)
    packed = [path for path in folder.glob("*.gz") if not path.is_symlink()]
    assert len(files) > 50
    for path in packed:
        assert files[path.name.removesuffix(".gz")].raw == gzip.decompress(path.read_bytes())
