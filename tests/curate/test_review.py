"""What a hostile or careless user found: each test is an input that once went wrong."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cairn.base import UserError, Work
from cairn.base.make import make
from cairn.cli import main
from cairn.curate import Curate, Thresholds, lookup, read_files
from cairn.curate.answers import AnswersLimits
from cairn.curate.intermediate import IntermediateLimits
from cairn.curate.pulls import PullLimits
from cairn.curate.redact import redact
from cairn.curate.rendering import Limits
from cairn.curate.threads import IssueLimits

AUTHOR = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
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


def repository(root: Path, url: str) -> Path:
    """A git repository with one file, cloned from `url`."""
    source = folder(root, here=CODE.format(name="here"))
    origin = [["init", "-q"], ["remote", "add", "origin", url]]
    for words in (*origin, ["add", "."], [*AUTHOR, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=source, check=True)
    return source


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("https://github.com/Owner/name", 1),
        ("https://github.com/owner/NAME.git", 1),
        ("http://www.github.com/Owner/name/", 1),
        ("github.com/Owner/name", 1),
        ("git@github.com:Owner/name.git", 1),
        ("ssh://git@github.com/Owner/name", 1),
        ("https://github.com/owner", 1),
        ("https://github.com/Owner/name/tree/main", 1),
        ("https://github.com/Owner/name/blob/main/here.py#L1-L2", 1),
        ("https://github.com/Owner/name/blob/main/here.py?plain=1", 1),
        ("owner", 1),
        ("OWNER/name", 1),
        ("https://github.com/Owner/name/blob/main/none.py", 0),
        ("https://github.com/Own", 0),
        ("https://github.com", 0),
        ("https://gitlab.com/Owner/name", 0),
    ],
)
def test_lookup_takes_urls_as_browsers_and_git_show_them(
    cloned: Path, query: str, found: int
) -> None:
    assert len(lookup(cloned, query)) == found


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of a clone of Owner/name on GitHub."""
    root = tmp_path_factory.mktemp("cloned")
    return curate(root / "runs", repository(root / "one", "https://github.com/Owner/name"))


def test_events_of_a_folder_are_read(tmp_path: Path) -> None:
    source = repository(tmp_path / "one", "https://github.com/Owner/name")
    star = {"type": "WatchEvent", "id": "1", "actor": {"login": "a"}, "payload": {}}
    star |= {"repo": {"id": 7, "name": "Owner/name"}, "created_at": "2023-05-01T00:00:00Z"}
    hours = tmp_path / "hours"
    hours.mkdir()
    (hours / "2023-05-01-0.json").write_text(json.dumps(star))
    corpus = curate(tmp_path / "runs", source, events=(str(hours),))
    (row,) = next(read_files(corpus)).to_pylist()
    assert (row["star_events_count"], row["github_id"]) == (1, 7)


def test_events_that_are_not_there_are_told(tmp_path: Path) -> None:
    source = folder(tmp_path / "one", here=CODE.format(name="here"))
    with pytest.raises(UserError, match=r"events.*does not exist"):
        curate(tmp_path / "runs", source, events=(str(tmp_path / "none"),))


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("malware", "required", "malware='required': is not a choice; did you mean 'require'"),
        ("redact", "of", "redact='of': is not a choice; did you mean 'off'"),
        ("selection", "tiny", "selection='tiny': is not a choice"),
        ("licence_tool", "scancod", "is not a choice; did you mean 'scancode'"),
        ("driver", "dask", "driver='dask': is not a choice"),
        ("seed", "x", "seed='x': is not a whole number"),
        ("near_duplicates", "no", "near_duplicates='no': is not a truth value"),
        ("thresholds", {"max_lines": 5}, "is no Thresholds"),
    ],
)
def test_what_a_plan_says_wrongly_is_told(
    tmp_path: Path, field: str, value: Any, told: str
) -> None:
    recipe = Curate(sources=(str(tmp_path),), **{field: value})
    with pytest.raises(UserError) as caught:
        make({"corpus": recipe}, tmp_path / "runs", "corpus", report=lambda _: None)
    assert told in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_thresholds_and_caps_that_cannot_be_are_told() -> None:
    with pytest.raises(UserError, match=r"thresholds\.alphabetic_share=25: is no share"):
        Thresholds(alphabetic_share=25)
    with pytest.raises(UserError, match=r"thresholds\.average_line=nan"):
        Thresholds(average_line=float("nan"))
    with pytest.raises(UserError, match=r"thresholds\.max_lines=-1"):
        Thresholds(max_lines=-1)
    with pytest.raises(UserError, match=r"limits\.issues\.fewest_characters=-5: is less than"):
        Limits(issues=IssueLimits(fewest_characters=-5))
    with pytest.raises(UserError, match=r"limits\.pulls\.data_kept=7: is no share"):
        Limits(pulls=PullLimits(data_kept=7))
    with pytest.raises(UserError, match=r"limits\.intermediate\.size_share=80: is no share"):
        Limits(intermediate=IntermediateLimits(size_share=80))
    with pytest.raises(UserError, match=r"limits\.pulls\.most_context=2: is less than 3"):
        Limits(pulls=PullLimits(most_context=2))
    Limits(answers=AnswersLimits(least_score=-3))
    with pytest.raises(UserError, match="names no language of linguist's; did you mean 'Java'"):
        Curate(sources=("x",), caps=("Jaba=1GB",))


def test_names_of_files_do_not_command_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "\x1b[2J\u202ered\nforged row [bold]x"
    corpus = curate(tmp_path / "runs", folder(tmp_path / "one", **{name: CODE.format(name="a")}))
    assert main(["lookup", str(corpus), "one"]) == 0
    shown = capsys.readouterr().out
    assert r"\x1b[2J\u202ered\nforged row [bold]x.py" in shown
    assert not set(shown) & {"\x1b", "\u202e"}
    assert main(["lookup", str(corpus / "\x1b[2J"), "one"]) == 2
    assert main(["lookup", str(corpus), "\x1b[2J"]) == 0
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err


@pytest.mark.parametrize(
    "wrong",
    [
        *("text:{}/none", "{}/plain.json", "git:{}", "docs:{}?a=b", "docs:{}?licence=MIIT"),
        *("gitt:{}", "https://github.com/owner/name"),
    ],
)
def test_a_source_that_cannot_be_is_told_before_others_are_read(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "plain.json").write_text("{}")
    good = folder(tmp_path / "one", here=CODE.format(name="here"))
    recipe = Curate(sources=(str(good), wrong.format(tmp_path)), malware="off", workers=1)
    work = Work(tmp_path / "out", {})
    with pytest.raises(UserError, match="source"):
        recipe.run(work)
    assert not (tmp_path / "out").exists(), "nothing was read"


@pytest.mark.parametrize(
    "fields", [{"benchmarks": "{}"}, {"redact": "model", "redact_model": "{}"}], ids=str
)
def test_folders_that_hold_nothing_of_use_are_told_before_anything_is_read(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    good = folder(tmp_path / "one", here=CODE.format(name="here"))
    filled = {name: text.format(tmp_path) for name, text in fields.items()}
    recipe = Curate(sources=(str(good),), malware="off", workers=1, **filled)
    with pytest.raises(UserError, match=next(reversed(fields))):
        recipe.run(Work(tmp_path / "out", {}))
    assert not (tmp_path / "out").exists(), "nothing was read"


def test_licences_are_told_in_any_case_and_as_expressions(tmp_path: Path) -> None:
    rows = ["mit", "Apache-2.0 OR GPL-3.0", "gpl-3.0", "House rules"]
    texts = [{"text": f"This is the text of number {n}.", "license": n} for n in rows]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, texts)))
    recipe = Curate(sources=(f"text:{tmp_path}",), malware="off", workers=1)
    make({"corpus": recipe}, tmp_path / "runs", "corpus", report=lambda _: None)
    rows = lookup(tmp_path / "runs" / "corpus", "some")
    found = [(row["detected_licenses"], row["license_type"]) for row in rows]
    assert found == [
        (["MIT"], "permissive"),
        (["Apache-2.0"], "permissive"),
        (["GPL-3.0-only"], "non_permissive"),
        (["House rules"], "non_permissive"),
    ]


def test_an_empty_query_is_no_query(tmp_path: Path) -> None:
    corpus = curate(tmp_path / "runs", folder(tmp_path / "one", here=CODE.format(name="here")))
    with pytest.raises(UserError, match="query"):
        lookup(corpus, " ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://:s3cretPw9x@redis:6379/0", "redis://:<PASSWORD>@redis:6379/0"),
        ("mongodb://adm:Zx81kQ9v@db.acme.net/x", "mongodb://adm:<PASSWORD>@db.acme.net/x"),
        ("https://user:letmein@acme.com/x", "https://user:<EMAIL>/x"),  # better than nothing
        ("mailto:jane7doe@acme.com", "mailto:<EMAIL>"),
        ("ssh://jane7doe@acme.com/x", "ssh://<EMAIL>/x"),
    ],
)
def test_passwords_of_addresses_are_passwords(text: str, expected: str) -> None:
    assert redact(text)[0] == expected


def test_licences_and_quality_may_be_left_out(tmp_path: Path) -> None:
    every = ("permissive", "no_license", "non_permissive")
    long = CODE.format(name="long") + f"# {'word ' * 300}\n"
    source = folder(tmp_path / "one", long=f"# SPDX-License-Identifier: GPL-3.0-only\n{long}")
    corpus = curate(
        tmp_path / "runs", source, licenses=every, licence_tool="off", quality=False, redact="off"
    )
    (row,) = lookup(corpus, "long.py")
    assert (row["verdict"], row["license_type"]) == ("keep", "no_license")
    with pytest.raises(UserError, match="licenses='permissive, no_license': cannot be told apart"):
        Curate(sources=(str(source),), licence_tool="off")


def test_a_slow_search_for_near_duplicates_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder(tmp_path / "one", here=CODE.format(name="here"))
    monkeypatch.setattr("cairn.curate.near.is_compiled", lambda: False)
    curate(tmp_path / "runs", source)
    assert "near duplicates are sought slowly" in capsys.readouterr().err


def test_names_that_are_no_utf8_or_hold_backslashes_are_found_as_the_shell_gives_them(
    tmp_path: Path,
) -> None:
    source = folder(tmp_path / "one", plain=CODE.format(name="plain"))
    for name in (b"caf\xe9.py", b"back\\slash.py"):
        text = CODE.format(name=f"of_{len(name)}").encode()
        Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_bytes(text)
    corpus = curate(tmp_path / "runs", source)
    for query, path in (
        ("caf\udce9.py", r"caf\xe9.py"),
        (r"caf\xe9.py", r"caf\xe9.py"),
        (r"back\slash.py", r"back\\slash.py"),
        (r"back\\slash.py", r"back\\slash.py"),
    ):
        assert [row["path"] for row in lookup(corpus, query)] == [path]
    on_disk = str(source) + "/caf\udce9.py"
    assert [row["path"] for row in lookup(corpus, on_disk)] == [r"caf\xe9.py"]
    assert lookup(corpus, "https://github.com/owner/caf\udce9") == []
    with pytest.raises(UserError, match="is no text"):
        lookup(corpus, "\ud800")
