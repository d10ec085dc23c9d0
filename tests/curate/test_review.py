"""What a hostile or careless user found: each test is an input that once went wrong."""

from pathlib import Path
from typing import Any

import pytest

from cairn.base.make import make
from cairn.curate import Curate, lookup

CODE = 'def {name}(first, second):\n    """Give what the two numbers make."""\n    return first\n'


def curate(root: Path, source: Path, **fields: Any) -> Path:
    """The corpus folder of one source, made in this process without a scan for malware."""
    recipe = Curate(sources=(str(source),), malware="off", workers=1, **fields)
    make({"corpus": recipe}, root, "corpus", report=lambda _: None)
    return root / "corpus"


def folder(root: Path, **files: str) -> Path:
    """A folder of Python files by their stem."""
    root.mkdir(parents=True)
    for name, text in files.items():
        (root / f"{name}.py").write_text(text)
    return root


@pytest.mark.parametrize("name", ["r*y", "r[X]y", "r?y", "r[!a]y", "it's"])
def test_a_runs_folder_named_like_a_pattern_reads_no_other_corpus(
    tmp_path: Path, name: str
) -> None:
    curate(tmp_path / "rXy", folder(tmp_path / "other", there=CODE.format(name="there")))
    here = curate(tmp_path / name, folder(tmp_path / "one", here=CODE.format(name="here")))
    assert [row["path"] for row in lookup(here, "here.py")] == ["here.py"]
    assert lookup(here, "there.py") == []
