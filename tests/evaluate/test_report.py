"""The report as an artifact and as an answer to the command line."""

import json
import shutil

import pytest

from cairn.base import Ref, UserError
from cairn.base.make import make
from cairn.evaluate import Evaluate, Sampling, all_tasks, evaluate, find_tasks
from cairn.evaluate.exposure import exposure
from cairn.evaluate.functions import Functions
from cairn.evaluate.speaker import Speaker
from cairn.evaluate.task import Example, Setting

from .conftest import PLAN

REPORT = Evaluate(checkpoint=Ref("base"), shards=Ref("shards"), corpus=Ref("corpus"), limit=3)


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


@pytest.fixture(scope="module")
def runs(made, tmp_path_factory):
    """The artifacts with a report among them; a copy, so that others see none."""
    folder = tmp_path_factory.mktemp("report") / "runs"
    shutil.copytree(made, folder)
    make({**PLAN, "scores": REPORT}, folder)
    return folder


def test_report_says_what_was_measured_and_how(runs):
    report = json.loads((runs / "scores" / "report.json").read_text())
    base = json.loads((runs / "base" / "manifest.json").read_text())
    assert report["checkpoint"] == {"name": "base", "digest": base["digest"]}
    assert set(report["tasks"]) == {"bits_per_byte", "infilling", "functions"}
    assert list(dict.fromkeys(score["task"] for score in report["scores"])) == list(REPORT.tasks)
    for score in report["scores"]:
        assert set(score) == {
            *("task", "version", "metric", "value", "n", "standard_error", "higher_is_better"),
        }
        assert score["n"] >= 1
    for name, conditions in report["tasks"].items():
        assert conditions["version"] == all_tasks()[name].version
        assert len(conditions["prompt_digest"]) == 64
    assert report["tasks"]["functions"]["sampling"]["temperature"] == 0
    assert report["seen_in_corpus"] == {"functions": {"checked": 0, "found": []}}
    page = (runs / "scores" / "report.md").read_text()
    assert "| bits_per_byte v1 | bits_per_byte |" in page
    assert base["digest"] in page
    assert "containers included" in page


def test_every_example_has_a_record(runs):
    folder = runs / "scores" / "tasks"
    for name in ("bits_per_byte", "infilling", "functions"):
        lines = (folder / name / "records.jsonl").read_text().splitlines()
        result = json.loads((folder / name / "result.json").read_text())
        assert len(lines) == result["conditions"]["examples"]
        assert len({json.loads(line)["id"] for line in lines}) == len(lines)


def test_manifest_has_facts_and_a_headline(runs):
    manifest = json.loads((runs / "scores" / "manifest.json").read_text())
    assert manifest["facts"]["scores"]["functions/pass@1"] == 0.0
    assert manifest["headline"].startswith("bits per byte ")
    assert manifest["headline"].endswith("functions pass@1 0.00")


def test_again_and_after_an_interruption_the_bytes_are_the_same(made, runs, tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    shutil.copytree(made, folder)

    def interrupted(self, setting):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Functions, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make({**PLAN, "scores": REPORT}, folder)
    assert (folder / "scores" / "tasks" / "infilling" / "result.json").exists()
    monkeypatch.setattr(Speaker, "bits", interrupted)  # that part is done and not done again
    make({**PLAN, "scores": REPORT}, folder)
    assert files_of(folder / "scores") == files_of(runs / "scores")


def test_function_finds_the_heldout_files_by_itself(runs):
    report = evaluate(runs / "base", ("bits_per_byte",), limit=3)
    made = json.loads((runs / "scores" / "report.json").read_text())
    same = [score for score in made["scores"] if score["task"] == "bits_per_byte"]
    assert report["scores"] == same
    assert report["checkpoint"]["name"] == "base"


def test_function_with_a_plain_folder_and_public_data(runs, tmp_path, data_folder):
    plain = tmp_path / "plain"
    shutil.copytree(runs / "base", plain)
    (plain / "manifest.json").unlink()
    report = evaluate(plain, ("humaneval",), data=data_folder, limit=2, out=tmp_path / "out")
    assert [(s["metric"], s["n"]) for s in report["scores"]] == [("pass@1", 2)]
    assert len(report["checkpoint"]["digest"]) == 64
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert len((tmp_path / "out" / "humaneval.jsonl").read_text().splitlines()) == 2
    with pytest.raises(UserError, match="held-out files"):
        evaluate(plain, ("bits_per_byte",))
    assert evaluate(plain, ("bits_per_byte",), shards=runs / "shards", limit=1)["scores"]


def test_samples_are_seeded_one_by_one(made, sandbox):
    speaker = Speaker.load(made / "base", "cpu")
    sampling = Sampling(samples=2, temperature=1.0, seed=5)
    examples = [Example(id=str(n), prompt="def f(", reference="") for n in range(3)]
    together = speaker.answer("t", examples, sampling, 8)
    alone = [speaker.answer("t", [example], sampling, 8)[0] for example in examples]
    assert together == alone
    assert len({text for several in together for text in several}) > 3
    other = speaker.answer("t", examples, Sampling(samples=2, temperature=1.0, seed=6), 8)
    assert other != together


def test_exposure_finds_answers_whatever_their_white_space():
    long = "for item in items:\n    total += item * weight[item]\nreturn total / count(items)\n"
    found = exposure(
        {"a": long, "b": "return x", "c": long.replace("total", "other")},
        ["nothing", f"# file\n{long.replace(chr(10), chr(10) + '    ')}"],
    )
    assert found == {"checked": 2, "found": ["a"]}


def test_mistakes_of_the_user(made, tmp_path):
    with pytest.raises(UserError, match="did you mean 'humaneval'"):
        find_tasks(("humanevl",))
    with pytest.raises(UserError, match="tasks"):
        find_tasks(())
    with pytest.raises(UserError, match=r"config\.json"):
        evaluate(tmp_path, ("functions",))
    with pytest.raises(UserError, match="no such folder"):
        evaluate(made / "base", ("humaneval",), data=tmp_path / "none")
    with pytest.raises(UserError, match="all be equal"):
        Sampling(samples=3)
    with pytest.raises(UserError, match="temperature"):
        Sampling(temperature=-1.0)
    with pytest.raises(UserError, match="--data"):
        evaluate(made / "base", ("humaneval",))


def test_a_setting_without_files_says_so():
    with pytest.raises(UserError, match="held-out files"):
        _ = Setting().heldout
