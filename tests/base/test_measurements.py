"""`cairn bench NAME` runs a script of bench/ as `python bench/NAME.py` does."""

import sys

import pytest

from cairn.base import UserError
from cairn.base.measurements import run_measurement


def test_scripts_find_each_other_and_wrong_names_are_told(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "numbers_of_a_bench.py").write_text("ANSWER = 42\n")
    script = "import sys\nfrom numbers_of_a_bench import ANSWER\n"
    main = 'if __name__ == "__main__":\n    print(ANSWER, sys.argv[1:])\n'
    (folder / "told.py").write_text(script + main)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cairn"])
    monkeypatch.setattr(sys, "path", sys.path.copy())
    run_measurement("told")
    assert capsys.readouterr().out == "42 []\n"
    with pytest.raises(UserError, match="did you mean 'told'"):
        run_measurement("tolt")
    with pytest.raises(UserError, match="is no measurement"):
        run_measurement("numbers_of_a_bench")
