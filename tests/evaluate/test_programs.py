"""Functional correctness: what passes, what fails, and what only pretends."""

import gzip

import pytest

from cairn.base import UserError
from cairn.evaluate.functions import Functions
from cairn.evaluate.humaneval import GAPS, HumanEval, HumanEvalInfilling
from cairn.evaluate.mbpp import Mbpp
from cairn.evaluate.programs import before, indented, score_programs
from cairn.evaluate.task import Example, Setting

ADD = Example(id="add", prompt="", reference="", facts={"tests": "assert add(2, 3) == 5"})
RIGHT = "def add(a, b):\n    return a + b\n"


def statuses(setting, *solutions, example=ADD):
    scores, records = score_programs(Functions(), [example], [solutions], setting)
    return scores, [(record["passed"], record["status"], record["error"]) for record in records]


def test_right_wrong_broken_and_endless(setting):
    scores, found = statuses(
        setting,
        RIGHT,
        "def add(a, b):\n    return a - b\n",
        "def add(a, b)\n    return a + b\n",
        "def add(a, b):\n    raise KeyError(a)\n",
        "def other(): pass\n",
    )
    assert found == [
        (True, "ok", ""),
        (False, "error", "AssertionError"),
        (False, "error", "SyntaxError"),
        (False, "error", "KeyError"),
        (False, "error", "NameError"),
    ]
    assert [(score.metric, score.n) for score in scores] == [("pass@1", 1)]
    assert scores[0].value == pytest.approx(0.2)


@pytest.mark.parametrize(
    "trick",
    [
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "import sys; sys.exit()",
        "print('passed-0000000000000000'); quit()",
        "import sys; sys.stdout = None",
        "import builtins; builtins.print = lambda *a, **k: None",
        "while True: pass",
    ],
)
def test_tricks_do_not_pass(setting, trick):
    _, found = statuses(setting, f"{RIGHT}{trick}\n" if "print" not in trick else trick)
    assert not found[0][0]


def test_output_of_its_own_does_not_hurt(setting):
    assert statuses(setting, f"print('hello', end='\\n')\n{RIGHT}")[1][0][0]


def test_pass_at_k_needs_k_samples(setting):
    solutions = [RIGHT] * 3 + ["x = 1"] * 7
    scores, records = statuses(setting, *solutions)
    assert [score.metric for score in scores] == ["pass@1", "pass@10"]
    assert scores[0].value == pytest.approx(0.3)
    assert scores[1].value == 1.0
    assert len(records) == 10


def test_a_functions_body_ends_where_indentation_ends():
    assert indented("    return 1\n\ndef g():\n") == "    return 1\n"
    assert (
        indented("    a = '''\n    b'''\n    return a\nx") == "    a = '''\n    b'''\n    return a"
    )
    assert indented(" return 1") == " return 1"
    assert before("abc#d\nX", ["\nX", "#"]) == "abc"
    assert before("abc", ["x"]) == "abc"


def test_every_function_has_a_passing_reference_and_a_failing_mistake(setting):
    task = Functions()
    examples = task.examples()
    assert len(examples) >= 30
    assert len({example.id for example in examples}) == len(examples)
    right = task.score(examples, [[example.reference] for example in examples], setting)
    assert [record["id"] for record in right.records if not record["passed"]] == []
    assert right.scores[0].value == 1.0
    wrong = task.score(examples, [[example.facts["wrong"]] for example in examples], setting)
    assert [record["id"] for record in wrong.records if record["passed"]] == []
    assert {record["status"] for record in wrong.records} == {"error"}


def test_a_functions_answer_is_cut_after_the_body(setting):
    task = Functions()
    examples = task.examples(1)
    long = examples[0].reference + "\n\ndef double_evens(numbers):\n    return None\n"
    result = task.score(examples, [[long]], setting)
    assert result.records[0]["passed"]
    assert "def " not in result.records[0]["answer"]


def with_data(setting: Setting, data_folder, limit) -> Setting:
    return Setting(data=data_folder, limit=limit, sandbox=setting.sandbox, workers=2)


@pytest.mark.parametrize("task", [HumanEval(), Mbpp(), *map(HumanEvalInfilling, GAPS)])
def test_reference_solutions_pass(setting, data_folder, task):
    """A sample of each file."""
    here = with_data(setting, data_folder, None)
    examples = task.examples(here)[:: 41 if task.name != "humaneval_infilling_multi_line" else 601]
    result = task.score(examples, [[example.reference] for example in examples], here)
    assert len(examples) >= 4
    assert [record for record in result.records if not record["passed"]] == []
    assert result.scores[0].metric == "pass@1"
    assert result.scores[0].n == len(examples)
    assert set(result.references) == {example.id for example in examples}


@pytest.mark.parametrize("task", [HumanEval(), Mbpp(), HumanEvalInfilling()])
def test_empty_answers_fail(setting, data_folder, task):
    here = with_data(setting, data_folder, 12)
    examples = task.examples(here)
    result = task.score(examples, [[""] for _ in examples], here)
    assert result.scores[0].value < 0.2  # a gap may be a line that no test misses


def test_benchmarks_have_their_known_sizes(setting, data_folder):
    here = with_data(setting, data_folder, None)
    sizes = {name: len(HumanEvalInfilling(name).examples(here)) for name in GAPS}
    assert list(sizes.values()) == [1033, 5815, 1640, 164]
    assert len(HumanEval().examples(here)) == 164
    mbpp = Mbpp().examples(here)
    assert (len(mbpp), mbpp[0].id, mbpp[-1].id) == (500, "11", "510")


def test_data_may_be_unpacked(setting, data_folder, tmp_path):
    (tmp_path / "mbpp").mkdir()
    packed = (data_folder / "mbpp" / "mbpp.jsonl.gz").read_bytes()
    (tmp_path / "mbpp" / "mbpp.jsonl").write_bytes(gzip.decompress(packed))
    there, here = (with_data(setting, folder, 3) for folder in (data_folder, tmp_path))
    assert Mbpp().examples(there) == Mbpp().examples(here)


def test_missing_or_damaged_data_is_named(setting, tmp_path):
    with pytest.raises(UserError, match="--data"):
        HumanEval().examples(setting)
    here = Setting(data=tmp_path, sandbox=setting.sandbox)
    with pytest.raises(UserError, match="humaneval/HumanEval"):
        HumanEval().examples(here)
    (tmp_path / "mbpp").mkdir()
    (tmp_path / "mbpp" / "mbpp.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match="cannot be read"):
        Mbpp().examples(here)
