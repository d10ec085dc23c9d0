"""Ranks that are killed, told to stop, hang or meet a full disk: still the same is learned."""

import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from .fixtures.rank_runs import SETTINGS, WORKER, case, run_ranks, start, torchrun

KILLS = 10


@pytest.mark.parallel
@pytest.mark.parametrize("seed", [0, 1])
def test_kill_9_of_any_rank_at_random_moments_changes_nothing(run: Path, tmp_path: Path, seed: int):
    settings = SETTINGS | {"steps": 300, "save_every": 5, "sequences": 2}
    file = tmp_path / "cases.json"
    file.write_text(json.dumps([case("run", {}, pause=0.03) | {"settings": settings}]))

    undisturbed = life(2, 0, run, tmp_path / "whole", file)
    assert undisturbed.wait(timeout=250) == 0
    child, out = life(2, KILLS, run, tmp_path / "cut", file), tmp_path / "cut"
    drawn, killed = random.Random(seed), 0
    while killed < KILLS and child.poll() is None:
        living = re.findall(rf"life {killed} rank \d is (\d+)", (out / "said").read_text())
        if len(living) == 2:
            time.sleep(drawn.uniform(0.0, 2.5))  # at its start, at a step, or while it saves
            os.kill(int(drawn.choice(living)), signal.SIGKILL)
            killed += 1
        time.sleep(0.05)
    assert child.wait(timeout=250) == 0
    assert killed == KILLS, "the run ended before"
    hold_exactly(out / "run", tmp_path / "whole" / "run", 300)


def life(world: int, restarts: int, run: Path, out: Path, cases: Path) -> subprocess.Popen:
    """A run of the cases under torchrun; what it says goes to out/said."""
    out.mkdir()
    worker = (str(WORKER), str(run / "shards"), str(out), str(cases))
    said = (out / "said").open("w")
    given = os.environ | {"OMP_NUM_THREADS": "1"}
    command = torchrun(world, restarts, *worker)
    return subprocess.Popen(command, stdout=said, stderr=said, env=given)


@pytest.mark.parallel
def test_sigterm_to_one_rank_saves_and_all_leave(run: Path, tmp_path: Path):
    settings = SETTINGS | {"steps": 40, "save_every": 100}
    one = case("run", {"shard": 2}) | {"settings": settings}
    run_ranks(2, run / "shards", tmp_path / "whole", [one])
    children = start(2, run / "shards", tmp_path / "cut", [one | {"pause": 0.05}])
    metrics = tmp_path / "cut" / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 3):
        assert [child.poll() for child in children] == [None, None]
        time.sleep(0.02)
    children[1].send_signal(signal.SIGTERM)
    assert [child.wait(timeout=60) for child in children] == [0, 0]
    (save,) = (tmp_path / "cut" / "run" / "resume").iterdir()
    assert 4 <= int(save.name.removeprefix("step-")) < 40
    run_ranks(2, run / "shards", tmp_path / "cut", [one])
    hold_exactly(tmp_path / "cut" / "run", tmp_path / "whole" / "run", 40)


def hold_exactly(found: Path, wanted: Path, steps: int) -> None:
    """Every step once, with the same loss and as many tokens; the same weights."""
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        for folder in (found, wanted)
    )
    assert [row["step"] for row in ours] == list(range(1, steps + 1))
    for key in ("loss", "tokens", "grad_norm"):
        assert [row[key] for row in ours] == [row[key] for row in theirs]
    ours, theirs = (torch.load(folder / "weights.pt") for folder in (found, wanted))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def told(world: int, shards: Path, out: Path, one: dict) -> tuple[list[int], list[str]]:
    """How the ranks of a run ended, and what each said."""
    children = start(world, shards, out, [one], subprocess.PIPE)
    try:
        said = [child.communicate(timeout=120)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    return [child.returncode for child in children], said


@pytest.mark.parallel
def test_one_ranks_full_disk_is_met_by_all(run: Path, tmp_path: Path):
    shards, settings = run / "shards", SETTINGS | {"save_every": 5}
    one = case("run", {"shard": 2}) | {"settings": settings}
    assert told(2, shards, tmp_path / "whole", one)[0] == [0, 0]
    # At one save of four: the run goes on without it.
    some = one | {"full": (10, 13), "pause": 0.1}
    codes, said = told(2, shards, tmp_path / "some", some)
    assert codes == [0, 0]
    failures = [re.findall(r"step-\d+ could not be written: .*File too large", s) for s in said]
    assert [len(found) for found in failures] == [1, 0], "told once, by the first rank"
    assert "step-000000010" in failures[0][0]
    hold_exactly(tmp_path / "some" / "run", tmp_path / "whole" / "run", 20)
    # From then on: all end with the same words, and the next run goes on from the save before.
    codes, said = told(2, shards, tmp_path / "rest", one | {"full": (10,)})
    assert codes == [1, 1]
    last = [s.strip().splitlines()[-1].partition(" ")[2] for s in said]  # after the rank's name
    assert last[0] == last[1]
    assert re.search(r"step-000000020 could not be written: .*File too large", last[0])
    resume = tmp_path / "rest" / "run" / "resume"
    assert [path.name for path in resume.iterdir()] == ["step-000000005"]
    assert told(2, shards, tmp_path / "rest", one)[0] == [0, 0]
    hold_exactly(tmp_path / "rest" / "run", tmp_path / "whole" / "run", 20)


@pytest.mark.parallel
def test_a_hung_rank_is_ended_and_the_run_goes_on(run: Path, tmp_path: Path):
    file = tmp_path / "cases.json"
    one = case("run", {}, more={"watchdog": 5.0})
    file.write_text(json.dumps([one | {"hang": 13}]))
    run_ranks(2, run / "shards", tmp_path / "whole", [one])
    assert life(2, 1, run, tmp_path / "cut", file).wait(timeout=200) == 0
    said = (tmp_path / "cut" / "said").read_text()
    assert "Timeout (0:00:05)!" in said
    assert "life 1 rank 0" in said
    hold_exactly(tmp_path / "cut" / "run", tmp_path / "whole" / "run", 20)
