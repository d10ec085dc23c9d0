"""One process = two = four: sharded, tensor, context parallel, and each pair of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cairn.base import UserError, read_manifest
from cairn.train import Parallel
from cairn.train.parallel.ranks import join

from .fixtures.rank_runs import MODEL, SETTINGS, case, losses, run_ranks, torchrun


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


PLAN = """
from cairn.base import Ref
from cairn.model import ModelConfig
from cairn.tokens import LearnTokenizer, Tokenize
from cairn.train import Parallel, Pretrain, TrainSettings
from few_files import FewFiles

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
    shutil.copy(Path(__file__).parents[1] / "fixtures" / "few_files.py", tmp_path)
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
