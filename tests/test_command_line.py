"""The command line: a mistake is one line, help fits a terminal, lists fit the eye."""

import argparse

import pytest

from cairn.arguments import build_parser
from cairn.base.tables import files_list, matches_list
from cairn.cli import VERBS, main


def test_every_verb_has_arguments_and_a_function(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    actions = build_parser()._actions
    (verbs,) = (one for one in actions if isinstance(one, argparse._SubParsersAction))
    assert set(verbs.choices) == set(VERBS)
    for parser in verbs.choices.values():
        assert max(map(len, parser.format_help().splitlines())) <= 80
        for option in parser._actions:
            assert option.help, f"{parser.prog} {option.dest} says nothing"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["show", "x", "--context", "abc"], "--context: abc is not a positive whole number"),
        (["show", "x", "--batch", "0"], "--batch: 0 is not a positive whole number"),
        (["serve", "x", "--cache-size", "3x"], "size='3x': is no size"),
        (["make"], "required: PLAN; see cairn make --help"),
    ],
)
def test_an_argument_that_is_wrong_is_one_line(capsys, given, line):
    with pytest.raises(SystemExit) as ended:
        main(given)
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert line in told
    assert told.startswith("cairn ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["make", "README.md"], "plan='README.md': is no Python file"),
        (["show", "README.md"], "checkpoint='README.md': is no folder"),
        (["show", "runs/none"], "checkpoint='runs/none': is no folder"),
        (["show", "nemotron-h-8"], "did you mean 'nemotron-h-8b'?"),
    ],
)
def test_what_is_no_plan_and_no_model_is_told(tmp_path, monkeypatch, capsys, given, line):
    (tmp_path / "README.md").write_text("# Not a plan\n")
    monkeypatch.chdir(tmp_path)
    assert main(given) == 2
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "goes_on"), [("make", True), ("evaluate", False)])
def test_ctrl_c_says_whether_the_command_goes_on(monkeypatch, capsys, verb, goes_on):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, verb, interrupted)
    assert main([verb, "x", "y"]) == 130
    assert ("same command continues" in capsys.readouterr().err) == goes_on


def test_files_are_listed_with_identifiers_whole(capsys):
    kept = {"repo_name": "a/b", "path": "c.py", "swhid": "swh:1:cnt:" + 40 * "0", "row": 3}
    kept |= {"license_type": "permissive", "detected_licenses": ["MIT", "0BSD", "ISC"]}
    step = {key: kept[key] for key in kept if key != "row"} | {"ledger_row": 3, "micro_batch": 0}
    lost = {"repo_name": "cut", "path": None, "swhid": None, "row": 4, "license_type": "no_license"}
    lost |= {"detected_licenses": None, "verdict": "drop", "rule": "unreadable", "reason": "cut"}
    files_list([kept | {"verdict": "keep", "rule": "", "reason": ""}, lost])
    files_list([step | {"tokens": 1024, "shards": "code"}])
    files_list([])
    assert capsys.readouterr().out.splitlines() == [
        "keep a/b c.py",
        f"    {kept['swhid']}, row 3",
        "    permissive: MIT, 0BSD and 1 more",
        "drop cut",
        "    unreadable: cut",
        "    unread, row 4",
        "    no_license",
        "a/b c.py",
        f"    {kept['swhid']}, row 3",
        "    permissive: MIT, 0BSD and 1 more, 1,024 tokens of micro-batch 0 from code",
        "nothing found",
    ]


def test_without_a_match_the_shortest_length_is_told(capsys):
    matches_list([], 24)
    assert capsys.readouterr().out == "no match of 24 bytes or more in the training data\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError("no memory: the system refuses 7 MiB"), "no memory: the system refuses 7 MiB"),
        (MemoryError(), "no memory left"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_what_the_system_refuses_is_one_line(error, told, monkeypatch, capsys):
    def refused(arguments):
        raise error

    monkeypatch.setitem(VERBS, "show", refused)
    assert main(["show", "nothing"]) == 2
    assert capsys.readouterr().err == f"cairn: {told}\n"
