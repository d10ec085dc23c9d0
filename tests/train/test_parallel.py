"""One process = two = four: sharded, tensor, context parallel, and each pair of them."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cairn.base import UserError, read_manifest
from cairn.train import Parallel
from cairn.train.parallel.ranks import join

WORKER = Path(__file__).parent / "fixtures" / "ranks.py"
MODEL = {
    "pattern": "M*-M",
    "hidden_size": 32,
    "intermediate_size": 64,
    "attention_heads": 4,
    "key_value_heads": 2,
    "head_dim": 16,
    "mamba_heads": 8,
    "mamba_head_dim": 8,
    "state_size": 16,
    "groups": 2,
    "chunk_size": 16,
    "max_positions": 256,
}
SETTINGS = {
    "steps": 20,
    "sequences": 4,
    "sequence_length": 48,
    "lr": 3e-3,
    "warmup": 2,
    "save_every": 10,
    "precision": "fp32",
}


def start(
    world: int, shards: Path, out: Path, cases: list[dict], said: int | None = None
) -> list[subprocess.Popen]:
    """The processes of a run, connected over loopback."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"cases-{world}.json"
    file.write_text(json.dumps(cases))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world)}
    given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(WORKER), str(shards), str(out), str(file)]
    return [
        subprocess.Popen(command, env=given | {"RANK": str(rank)}, stderr=said, text=True)
        for rank in range(world)
    ]


def run_ranks(world: int, shards: Path, out: Path, cases: list[dict]) -> None:
    children = start(world, shards, out, cases)
    try:
        assert [child.wait(timeout=280) for child in children] == [0] * world
    finally:
        for child in children:
            child.kill()


def case(name: str, parallel: dict, **more) -> dict:
    return {"name": name, "parallel": parallel, "settings": SETTINGS, "model": MODEL} | more


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def hold(found: Path, wanted: Path) -> None:
    """Losses to 1e-4, gradients to 1e-5."""
    assert len(losses(found)) == len(losses(wanted))
    assert losses(found) == pytest.approx(losses(wanted), abs=1e-4)
    ours, theirs = (torch.load(folder / "gradients.pt") for folder in (found, wanted))
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        worst = (ours[name] - gradient).abs().max().item()
        assert worst < 1e-5, (name, worst)


@pytest.fixture(scope="module")
def alone(run: Path, tmp_path_factory) -> Path:
    """What one process learns."""
    out = tmp_path_factory.mktemp("alone")
    run_ranks(1, run / "shards", out, [case("one", {}, gradients=True)])
    return out / "one"


TWO = {"fsdp": {"shard": 2}, "tensor": {"tensor": 2}, "context": {"context": 2}}
FOUR = {
    "fsdp": {"shard": 4},
    "hybrid": {"data": 2, "shard": 2},
    "tensor": {"tensor": 4},
    "context": {"context": 4},
    "fsdp-tensor": {"shard": 2, "tensor": 2},
    "fsdp-context": {"shard": 2, "context": 2},
    "tensor-context": {"tensor": 2, "context": 2},
}


def test_two_processes_learn_what_one_learns(run: Path, tmp_path: Path, alone: Path):
    cases = [case(name, sizes, gradients=True) for name, sizes in TWO.items()]
    run_ranks(2, run / "shards", tmp_path, cases)
    for name in TWO:
        hold(tmp_path / name, alone)


@pytest.mark.parallel
def test_four_processes_learn_what_one_learns(run: Path, tmp_path: Path, alone: Path):
    cases = [case(name, sizes, gradients=True) for name, sizes in FOUR.items()]
    again = {"recompute": "M*-"}  # activations are computed again: what passes between ranks, too
    pairs = [name for name in FOUR if "-" in name]
    cases += [case(f"{n}-again", FOUR[n], gradients=True, more=again) for n in pairs]
    run_ranks(4, run / "shards", tmp_path, cases)
    for one in cases:
        hold(tmp_path / one["name"], alone)


# Three of seven layers are in FP8, and widths of a rank's part are multiples of 16.
WIDE = MODEL | {
    "pattern": "M*M-*-M",
    "hidden_size": 64,
    "intermediate_size": 128,
    "mamba_heads": 32,
}


@pytest.mark.parametrize("recipe", ["bf16", "current", "block"])
def test_two_processes_learn_in_fp8_what_one_learns(run: Path, tmp_path: Path, recipe: str):
    """Two micro-batches of one process are one of each of two that share parameters: the same
    scales and counts, and fp32 sums in another order. Tensor ranks pass on summands in bf16, and
    context ranks have scales of their own tokens.
    """
    settings = SETTINGS | {"sequences": 2, "accumulate": 2, "steps": 10, "precision": recipe}
    sizes = {"one": {}, "fsdp": {"shard": 2}, "tensor": {"tensor": 2}, "context": {"context": 2}}

    def cases(names: list[str]) -> list[dict]:
        return [case(n, sizes[n]) | {"settings": settings, "model": WIDE} for n in names]

    run_ranks(1, run / "shards", tmp_path, cases(["one"]))
    run_ranks(2, run / "shards", tmp_path, cases(["fsdp", "tensor", "context"]))
    wanted = losses(tmp_path / "one")
    for name, bound in {"fsdp": 1e-3, "tensor": 1e-2, "context": 1e-2}.items():
        assert losses(tmp_path / name) == pytest.approx(wanted, abs=bound)
    (one, two) = (
        json.loads((tmp_path / name / "metrics.jsonl").open().readline())
        for name in ("one", "fsdp")
    )
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-6)
    counted = [key for key in one if key.startswith("fp8_")]
    assert len(counted) == (0 if recipe == "bf16" else 5)
    assert [two[key] for key in counted] == [one[key] for key in counted]


# Everything that is cut in a way of its own: biases, rotary positions, norms of heads, gates, tied
# matrices, windows, a vocabulary that ranks do not divide.
DENSE = {
    "pattern": "*-*-",
    "family": "starcoder2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "attention_heads": 4,
    "key_value_heads": 2,
    "head_dim": 8,
    "norm": "layer",
    "activation": "gelu_tanh",
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "tie_embeddings": True,
    "rope_theta": 10_000.0,
    "sliding_window": 20,
    "max_positions": 256,
}
QWEN = {
    "pattern": "*-",
    "family": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 64,
    "attention_heads": 4,
    "key_value_heads": 2,
    "head_dim": 8,
    "activation": "silu",
    "gated": True,
    "qk_norm": True,
    "rope_theta": 10_000.0,
    "max_positions": 256,
}


@pytest.mark.parallel
def test_other_families_are_cut_as_well(run: Path, tmp_path: Path):
    few = SETTINGS | {"steps": 5}
    sizes = {"tensor": {"tensor": 4}, "pair": {"tensor": 2, "context": 2}}
    families = {"dense": DENSE, "qwen": QWEN}
    more = {"settings": few, "rows": 1, "gradients": True}

    def cases(which: dict) -> list[dict]:
        return [
            case(f"{family}-{name}", parallel, **more) | {"model": model}
            for name, parallel in which.items()
            for family, model in families.items()
        ]

    run_ranks(1, run / "shards", tmp_path, cases({"one": {}}))
    run_ranks(4, run / "shards", tmp_path, cases(sizes))
    for family in families:
        for name in sizes:
            hold(tmp_path / f"{family}-{name}", tmp_path / f"{family}-one")


@pytest.mark.parallel
def test_a_text_of_32k_tokens_on_four_ranks_equals_one(run: Path, tmp_path: Path):
    long = SETTINGS | {"steps": 1, "sequences": 1, "sequence_length": 32_768, "warmup": 0}
    shape = MODEL | {"pattern": "M*M-", "attention_heads": 2, "chunk_size": 128}
    more = {"settings": long, "model": shape, "one_text": True, "gradients": True}
    run_ranks(1, run / "shards", tmp_path, [case("one", {}) | more])
    run_ranks(4, run / "shards", tmp_path, [case("context", {"context": 4}) | more])
    hold(tmp_path / "context", tmp_path / "one")


@pytest.mark.parallel
def test_four_ranks_save_and_two_and_one_go_on(run: Path, tmp_path: Path, alone: Path):
    shards, ten = run / "shards", {"settings": SETTINGS | {"steps": 10}}
    four = [
        case("run", {"shard": 2, "tensor": 2}, stop=13),
        case("done", {"tensor": 4}) | ten,
    ]
    run_ranks(4, shards, tmp_path / "four", four)
    for world, sizes in ((2, {"context": 2}), (1, {})):
        out = tmp_path / str(world)
        shutil.copytree(tmp_path / "four", out)
        saves = [path.name for path in (out / "run" / "resume").iterdir()]
        assert saves == ["step-000000010"]
        run_ranks(world, shards, out, [case("run", sizes), case("done", sizes) | ten])
        assert losses(out / "run") == pytest.approx(losses(alone), abs=1e-5)
        was, now = (torch.load(top / "done" / "weights.pt") for top in (tmp_path / "four", out))
        assert all(torch.equal(was[name], now[name]) for name in was), "read as it was written"


KILLS = 10


def torchrun(world: int, restarts: int, *command: str) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launch, f"--nproc-per-node={world}", f"--max-restarts={restarts}", *command]


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


PLAN = """
from cairn.base import Ref
from cairn.model import ModelConfig
from cairn.tokens import LearnTokenizer, Tokenize
from cairn.train import Parallel, Pretrain, TrainSettings
from fixture import FewFiles

settings = TrainSettings(
    steps=6, sequences=4, sequence_length=48, warmup=1, save_every=2, precision="fp32",
    parallel=Parallel({sizes}),
)
plan = {{
    "corpus": FewFiles(),
    "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=512),
    "shards": Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.3),
    "base": Pretrain(model=ModelConfig(**{model!r}), shards=Ref("shards"), settings=settings),
}}
"""


@pytest.mark.parallel
def test_torchrun_makes_the_artifact_that_one_process_makes(tmp_path: Path):
    conftest = Path(__file__).parents[1] / "conftest.py"
    shutil.copy(conftest, tmp_path / "fixture.py")
    model = {**MODEL, "vocab_size": 0}
    given = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    made = []
    for name, sizes, world in (("one", "", 1), ("four", "shard=2, tensor=2", 4)):
        plan = tmp_path / f"{name}.py"
        plan.write_text(PLAN.format(sizes=sizes, model=model))
        cairn = ("-m", "cairn", "make", str(plan), "--runs", str(tmp_path))
        command = torchrun(world, 0, *cairn) if world > 1 else [sys.executable, *cairn]
        done = subprocess.run(command, env=given, timeout=250, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / name / "base"
        assert not (folder / "resume").exists()
        made.append((read_manifest(folder), load_file(folder / "model.safetensors")))
    (one, weights), (four, others) = made
    assert one.recipe_digest == four.recipe_digest, "how many processes is no part of a recipe"
    for key in ("loss", "bits_per_byte", "bits_per_byte_before"):
        assert four.facts[key] == pytest.approx(one.facts[key], abs=1e-4)
    assert {k: v for k, v in four.facts.items() if isinstance(v, int)} == {
        k: v for k, v in one.facts.items() if isinstance(v, int)
    }
    for name, weight in weights.items():
        assert torch.allclose(others[name], weight, atol=1e-4), name


def test_a_process_alone_says_how_others_are_started(small_model):
    with pytest.raises(UserError, match="torchrun --nproc-per-node"):
        join(Parallel(tensor=2), "cpu")
