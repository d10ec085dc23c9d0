"""The standard library and installed distributions, real ones and made ones."""

from pathlib import Path

import pytest

from cairn.base import UserError
from cairn.sources import read_origin


def test_the_standard_library_and_a_distribution_are_read_with_their_licences():
    files = {file.path: file for file in read_origin("python:rich")}
    assert b"Permission is hereby granted" in (files["LICENSE"].raw or b"")
    origin = files["rich/table.py"].origin
    assert origin.repo_name.lower() == "textualize/rich"
    assert origin.origin_url.startswith("https://github.com/")
    assert not any("__pycache__" in path or path.endswith("RECORD") for path in files)
    library = [file.path for file in read_origin("python:stdlib", exclude=("test/*", "idlelib/*"))]
    assert {"json/decoder.py", "LICENSE.txt"} <= set(library)
    assert not any(path.startswith(("test/", "idlelib/", "site-packages/")) for path in library)
    assert library == sorted(library)


def install(folder: Path, files: dict[str, str], metadata: str = "", listed: str = "") -> None:
    """A distribution `made` 1.0 as pip leaves it, listing `files` and the lines of `listed`."""
    info = "made-1.0.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: Made\nVersion: 1\n{metadata}"
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    record = "".join(f"{name},,\n" for name in files) + f"{info}/RECORD,,\n{listed}"
    (folder / info / "RECORD").write_text(record)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_licences_of_a_distribution_stand_at_its_root_and_none_is_lost(site: Path):
    info = "made-1.0.dist-info"
    files = {
        "made/__init__.py": "x = 1\n",
        "made/old.pyc": "",
        "made/__pycache__/__init__.cpython-311.pyc": "",
        f"{info}/LICENSE": "one",
        f"{info}/licenses/LICENSE": "two",
        f"{info}/licenses/made/inner/COPYING": "three",
        f"{info}/Terms.txt": "four",
        f"{info}/INSTALLER": "pip",
        f"{info}/REQUESTED": "",
        f"{info}/direct_url.json": "{}",
    }
    install(site, files, "License-File: Terms.txt\n")
    (site / "made/__init__.py").chmod(0o755)
    found = {file.path: (file.raw or b"").decode() for file in read_origin("python:made")}
    assert found.pop(f"{info}/METADATA").startswith("Metadata")
    assert found == {
        "LICENSE": "one",
        "LICENSE.2": "two",
        "Terms.txt": "four",
        "made/__init__.py": "x = 1\n",
        "made/inner/COPYING": "three",
    }
    files_found = {file.path: file.mode for file in read_origin("python:made")}
    assert files_found["made/__init__.py"] == 0o100755
    assert files_found["LICENSE"] == 0o100644


def test_what_a_distributions_list_points_at_outside_is_not_read(site: Path, tmp_path: Path):
    (tmp_path / "secret").write_text("secret")
    install(site, {"made.py": ""}, listed=f"../secret,,\n{tmp_path}/secret,,\n")
    paths = [file.path for file in read_origin("python:made")]
    assert paths == ["made-1.0.dist-info/METADATA", "made.py"]


def test_what_is_not_there_is_told_and_an_editable_distribution_is_refused(site: Path):
    install(site, {"made.py": ""}, listed="gone.py,,\n")
    told = {file.path: file.problem for file in read_origin("python:made")}
    assert told["gone.py"] == "is listed and cannot be read (No such file or directory)"
    assert told["made.py"] is None
    editable = '{"url": "file:///x", "dir_info": {"editable": true}}'
    install(site, {"made.pth": "/x", "made-1.0.dist-info/direct_url.json": editable})
    with pytest.raises(UserError, match="is installed in editable mode"):
        list(read_origin("python:made"))


@pytest.mark.parametrize(
    ("metadata", "name", "url"),
    [
        ("", "pypi/Made", "https://pypi.org/project/Made/"),
        ("Home-page: https://made.org/\n", "pypi/Made", "https://made.org"),
        ("Home-page: UNKNOWN\n", "pypi/Made", "https://pypi.org/project/Made/"),
        (
            "Project-URL: Homepage, https://made.org\n"
            "Project-URL: Source-Code, https://user:pw@github.com/o/n.git\n",
            "o/n",
            "https://github.com/o/n",
        ),
        (
            "Project-URL: Repository, https://github.com/o/n/tree/main/made\n",
            "o/n",
            "https://github.com/o/n",
        ),
    ],
)
def test_a_distributions_origin_is_its_repository(site: Path, metadata: str, name: str, url: str):
    install(site, {"made.py": ""}, metadata)
    origin = next(read_origin("python:made")).origin
    assert (origin.repo_name, origin.origin_url) == (name, url)
