"""The plans: what they say agrees with the reports, and each runs in small."""

import json
import shutil
from pathlib import Path

import pytest

from cairn.base import UserError
from cairn.base.make import make
from cairn.base.plan import load_plan, runs_folder, split_overrides
from cairn.train.page import show_plan
from cairn.train.planning import shape, trainings

PLANS = Path(__file__).resolve().parents[1] / "plans"
FULL = (
    "nemotron_h_8b",
    "nemotron_h_56b",
    "nemotron_nano_12b_v2",
    "starcoder2_3b",
    "starcoder2_7b",
    "starcoder2_15b",
)


def told(name: str) -> dict[str, dict]:
    return trainings(load_plan(PLANS / f"{name}.py"))


def test_nano_12b_takes_the_flops_and_steps_of_its_card():
    """1.45e24 FLOPs; 20T tokens in batches of 736 x 8,192; 18.9B at 512k in some 3,004 steps."""
    found = told("nemotron_nano_12b_v2")
    base, long = found["base"], found["long"]
    assert base["flops"] + long["flops"] == pytest.approx(1.45e24, rel=0.02)
    assert base["tokens_per_step"] == 6_029_312
    assert base["steps"] == pytest.approx(3.317e6, rel=1e-3)
    assert long["steps"] == pytest.approx(3004, abs=1)
    assert long["sequence_length"] == 524_288


@pytest.mark.parametrize(
    ("name", "flops", "tokens", "batch"),
    [
        ("nemotron_h_8b", 7.0e23, 15e12, 768 * 8192),
        ("nemotron_h_56b", 6.8e24, 20e12, 3072 * 8192),
    ],
)
def test_nemotron_h_takes_what_its_shape_and_tokens_say(name, flops, tokens, batch):
    base = told(name)["base"]
    assert base["flops"] == pytest.approx(flops, rel=0.02)
    assert base["tokens"] == pytest.approx(tokens, rel=1e-5)
    assert base["tokens_per_step"] == batch


@pytest.mark.parametrize(
    ("name", "steps", "long_steps", "tokens", "flops"),
    [
        ("starcoder2_3b", 1_200_000, 80_000, 3.3e12, 5.94e22),
        ("starcoder2_7b", 1_000_000, 56_000, 3.7e12, 1.55e23),
        ("starcoder2_15b", 1_000_000, 50_000, 4.3e12, 3.87e23),
    ],
)
def test_starcoder2_takes_the_iterations_and_6nd_of_the_report(
    name, steps, long_steps, tokens, flops
):
    """The report's FLOPs are 6ND, and its own numbers agree to 1% to 6% only."""
    found = told(name)
    base, long = found["base"], found["long"]
    assert base["steps"] == steps
    assert long["steps"] == pytest.approx(long_steps, rel=0.05)
    assert base["tokens"] + long["tokens"] == pytest.approx(tokens, rel=0.02)
    assert base["flops_6nd"] + long["flops_6nd"] == pytest.approx(flops, rel=0.07)


def test_the_long_phase_keeps_the_shape_and_changes_positions():
    plan = load_plan(PLANS / "starcoder2_15b.py")
    base, long = shape(plan, "base"), shape(plan, "long")
    assert base is not None
    assert long is not None
    assert (base.rope_theta, base.max_positions) == (10_000.0, 4096)
    assert (long.rope_theta, long.max_positions) == (100_000.0, 16_384)
    assert long.parameters == base.parameters == 15_957_889_024


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Two artifacts that all plans begin with in small."""
    folder = tmp_path_factory.mktemp("begun")
    make(load_plan(PLANS / "starcoder2_3b.py", {"scale": "tiny"}), folder, "words")
    return folder


@pytest.mark.parametrize("name", FULL)
def test_every_plan_runs_in_small(name, corpus, tmp_path):
    plan = load_plan(PLANS / f"{name}.py", {"scale": "tiny"})
    for artifact in ("corpus", "words"):
        shutil.copytree(corpus / artifact, tmp_path / artifact)
    made = {one.name: one for one in make(plan, tmp_path)}
    assert made["corpus"].status == "skipped", "all begin with the same corpus"
    last = made.get("long", made["base"]).manifest
    assert last.facts["bits_per_byte"] < made["base"].manifest.facts["bits_per_byte_before"]
    full = load_plan(PLANS / f"{name}.py")
    assert list(plan)[1:] == [k for k in full if k != "corpus"][-len(plan) + 1 :]
    rows = (tmp_path / "base" / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(row)["lr"] for row in rows]
    assert rates[-1] < max(rates), "the law of the rate is kept"


def test_show_tells_training_and_a_step_on_paper(capsys):
    path = PLANS / "nemotron_h_56b.py"
    found = show_plan(path, "base", ["base.settings.seed=1"], 6144, "H100", quiet=False)
    out = capsys.readouterr().out
    assert "bytes to a GPU in a step" in out
    assert found["base"]["settings"]["seed"] == 1
    assert found["base"]["training"]["gpu_days"] == found["base"]["step"]["gpu_days"]
    nano = PLANS / "nemotron_nano_12b_v2.py"
    both = show_plan(nano, None, [], 736, None, quiet=False)
    assert both["base"]["step"]["fits"]
    assert "gpus=736" in both["long"]["no_step"]
    assert "long: gpus=736" in capsys.readouterr().out
    with pytest.raises(UserError, match="gpus=736"):
        show_plan(nano, "long", [], 736, None, quiet=True)
    alone = show_plan(path, None, [], None, None, quiet=True)
    assert alone["base"]["training"]["mfu"] == 0.4
    assert "training" not in alone["words"]


def test_parameters_of_a_plan():
    path = PLANS / "starcoder2_3b.py"
    assert load_plan(path, {"scale": "tiny"})["base"] != load_plan(path)["base"]
    with pytest.raises(UserError, match="scale='tini'"):
        load_plan(path, {"scale": "tini"})
    with pytest.raises(UserError, match="did you mean 'scale'"):
        load_plan(path, {"scal": "tiny"})
    with pytest.raises(UserError, match=r"is no parameter of .*pico"):
        load_plan(PLANS / "pico.py", {"scale": "tiny"})
    given = ["scale=tiny", "base.settings.steps=5"]
    assert split_overrides(given) == ({"scale": "tiny"}, ["base.settings.steps=5"])
    assert runs_folder(Path("runs"), path, {"scale": "tiny"}) == Path("runs/starcoder2_3b-tiny")
