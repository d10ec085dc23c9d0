"""Mistakes on the command line, before a verb runs."""

import pytest

from cairn.cli import main


@pytest.mark.parametrize(
    "given",
    [
        ["show", "qwen3-8b", "--context", "0"],
        ["show", "qwen3-8b", "--context", "1e5"],
        ["show", "qwen3-8b", "--dtype", "int4"],
        ["serve", "folder", "--slots", "x"],
        ["nothing"],
        ["show"],
    ],
)
def test_a_mistake_is_one_line_and_a_2(given, capsys):
    with pytest.raises(SystemExit) as left:
        main(given)
    told = capsys.readouterr()
    assert left.value.code == 2
    assert told.out == ""
    assert told.err.startswith("cairn")
    assert told.err.count("\n") == 1
    assert "_" not in told.err
