"""Schedule, groups, settings, precision, held-out bits, the recipe and its provenance."""

import dataclasses
import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch

from cairn.base import Ref, UserError, read_manifest
from cairn.base.make import make
from cairn.model import Spans, build
from cairn.tokens import (
    Blend,
    Component,
    LearnTokenizer,
    PretrainingStream,
    Tokenize,
    TokenShards,
)
from cairn.tokens.batch import Batch
from cairn.train import Extend, NextToken, Pretrain, TrainSettings
from cairn.train.extend import extended
from cairn.train.heldout import bits_per_byte
from cairn.train.objective import Tokens
from cairn.train.optimizer import decays, make_optimizer
from cairn.train.precision import pick_device, pick_precision
from cairn.train.provenance import files_of_step
from cairn.train.recorder import Recorder
from cairn.train.schedule import learning_rate

SETTINGS = TrainSettings(steps=4, sequences=2, sequence_length=48, lr=3e-3, warmup=1, save_every=2)


def test_the_schedule_warms_up_stays_and_decays():
    settings = TrainSettings(steps=100, lr=1.0, warmup=10, decay=0.2, min_lr_ratio=0.1)
    rates = [learning_rate(settings, step) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:80] == [1.0] * 71
    assert rates[89] == pytest.approx(0.55)
    assert rates[99] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[80:]))
    assert learning_rate(dataclasses.replace(settings, warmup=0, decay=0.0), 100) == 1.0


def test_only_matrices_decay(small_model):
    model = build(dataclasses.replace(small_model, vocab_size=64), seed=0)
    groups = make_optimizer(model, SETTINGS).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    spared = {name for name, p in model.named_parameters() if not decays(name, p)}
    leaves = {name.rsplit(".", 1)[-1] for name in spared}
    assert {"A_log", "D", "dt_bias", "bias"} <= leaves
    assert all(
        "norm" in n or n.endswith((".A_log", ".D", ".dt_bias")) or "conv1d" in n for n in spared
    )
    counted = sum(len(group["params"]) for group in groups)
    assert counted == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("lr", 0.0),
        ("decay", 1.5),
        ("betas", (0.9,)),
        ("accumulate", 0),
        ("warmup", -1),
    ],
)
def test_settings_refuse_what_cannot_be(field, value):
    with pytest.raises(UserError, match=field):
        dataclasses.replace(SETTINGS, **{field: value})


def test_precision_and_device_are_picked_or_refused():
    cpu = torch.device("cpu")
    assert pick_precision("bf16", cpu) == "bf16"
    assert pick_precision("auto", cpu) in {"fp32", "bf16"}
    with pytest.raises(UserError, match="device='gpu'"):
        pick_device("gpu")


def test_masked_tokens_have_no_gradient(tokenizer, small_model):
    model = build(dataclasses.replace(small_model, vocab_size=tokenizer.vocab_size), seed=0)
    ids = np.arange(10, dtype=np.int64)
    weights = np.zeros(10, np.float32)
    weights[[2, 5]] = (1.0, 0.5)
    batch = Batch(ids, np.roll(ids, -1), weights, np.array([0, 10], np.int32), [])
    loss = NextToken()(model, Tokens.of(batch, model.device))
    log_p = model(torch.from_numpy(ids), Spans.of([10])).log_softmax(-1)
    expected = -(log_p[2, 3] + 0.5 * log_p[5, 6])
    assert loss.count == 1.5
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_bits_per_byte_of_a_uniform_model_is_the_size_of_its_tokens(run, tokenizer, small_model):
    model = build(dataclasses.replace(small_model, vocab_size=tokenizer.vocab_size), seed=0)
    torch.nn.init.zeros_(model.lm_head.weight)
    held = TokenShards.open(run / "shards" / "heldout")
    size = sum(held.documents["bytes"].to_pylist())
    expected = len(held.tokens) * math.log2(tokenizer.vocab_size) / size
    assert bits_per_byte(model, held, tokenizer) == pytest.approx(expected, rel=1e-6)


def test_pretrain_makes_a_checkpoint_and_like_takes_its_shape(
    run, tmp_path, small_model, few_files
):
    shards = Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.3)
    words = json.loads((run / "words" / "manifest.json").read_text())["recipe"]
    from cairn.tokens import LearnTokenizer

    plan = {
        "corpus": few_files,
        "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=words["vocab_size"]),
        "shards": shards,
        "base": Pretrain(model=small_model, shards=Ref("shards"), settings=SETTINGS),
        "twin": Pretrain(like=Ref("base"), shards=Ref("shards"), settings=SETTINGS),
    }
    made = {one.name: one.manifest for one in make(plan, tmp_path)}
    facts = made["base"].facts
    assert facts["bits_per_byte"] < facts["bits_per_byte_before"]
    assert made["twin"].facts == facts, "the same shape, seed and data give the same model"
    assert "model.safetensors" in made["base"].files
    assert not (tmp_path / "base" / "resume").exists()
    again = make(
        {name: plan[name] for name in ("corpus", "words", "shards", "base")}, tmp_path / "2"
    )
    assert again[-1].manifest.digest == made["base"].digest

    _check_step(tmp_path)


def _check_step(folder):
    found = files_of_step(folder / "base", 3)
    settings = read_manifest(folder / "base").recipe["settings"]
    from cairn.tokens import Tokenizer

    training = TokenShards.open(folder / "shards" / "train")
    stream = PretrainingStream(
        training, Tokenizer.load(folder / "shards"), settings["sequence_length"], 0
    )
    batch = stream.batch(range(4, 6))
    assert {file["ledger_row"] for file in found} == {row for row, _, _ in batch.rows}
    assert all(file["swhid"].startswith("swh:1:cnt:") for file in found)
    with pytest.raises(UserError, match="give one from 1 to 4"):
        files_of_step(folder / "base", 5)
    with pytest.raises(UserError, match="reads no shards step by step"):
        files_of_step(folder / "shards", 1)


def test_a_vocabulary_that_is_not_the_tokenizers_is_refused(run, tmp_path, small_model):
    wrong = dataclasses.replace(small_model, vocab_size=100)
    recipe = Pretrain(model=wrong, shards=Ref("shards"), settings=SETTINGS)
    from cairn.base import Work
    from cairn.base.artifact import find_manifest

    manifest = find_manifest(run / "shards")
    assert manifest
    with pytest.raises(UserError, match="vocab_size=100"):
        recipe.run(Work(tmp_path, {"shards": (run / "shards", manifest)}))
    with pytest.raises(UserError, match="give one of model= and like="):
        Pretrain(shards=Ref("shards"), settings=SETTINGS)


def test_a_blend_trains_tells_losses_by_source_and_is_traced(run, tmp_path, small_model, few_files):
    """Two shards in two phases, one of them capped; metrics, facts and `trace --step`."""
    shutil.copytree(run, tmp_path / "runs")
    other = Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.5)
    words = json.loads((run / "words" / "manifest.json").read_text())["recipe"]
    blend = Blend(
        components=(
            Component(shards=Ref("shards"), weights=(0.75, 0.25)),
            Component(shards=Ref("other"), weights=(0.25, 0.75)),
        ),
        switches=(0.5,),
    )
    settings = dataclasses.replace(SETTINGS, steps=8, precision="fp32")
    plan = {
        "corpus": few_files,
        "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=words["vocab_size"]),
        "shards": Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.3),
        "other": other,
        "base": Pretrain(model=small_model, blend=blend, settings=settings, heldout_files=2),
    }
    facts = make(plan, tmp_path / "runs")[-1].manifest.facts
    assert {"bits_per_byte/shards", "bits_per_byte/other"} <= set(facts)
    assert sum(one["samples"] for one in facts["data"]) == 16
    assert facts["data"][1]["phases"][1] == {"wanted": 0.75, "planned": 0.75}
    lines = (tmp_path / "runs" / "base" / "metrics.jsonl").read_text().splitlines()
    for row in map(json.loads, lines):
        files = files_of_step(tmp_path / "runs" / "base", row["step"])
        met = {file["shards"] for file in files}
        assert met == {key[5:] for key in row if key.startswith("loss/")}
        losses = [row[f"loss/{name}"] for name in met]
        assert min(losses) - 1e-6 <= row["loss"] <= max(losses) + 1e-6
        assert row["tokens_per_second"] > 0
        assert row["mfu"] > 0
        assert row["memory_bytes"] > 1e6
    with pytest.raises(UserError, match="give one of shards= and blend="):
        Pretrain(model=small_model, settings=SETTINGS)


def test_a_checkpoint_goes_on_at_a_longer_length(run, tmp_path, small_model, few_files):
    words = json.loads((run / "words" / "manifest.json").read_text())["recipe"]
    shutil.copytree(run, tmp_path / "runs")
    long = dataclasses.replace(
        SETTINGS, steps=3, sequence_length=192, warmup=0, decay=0.0, lr=1e-3, precision="fp32"
    )
    plan = {
        "corpus": few_files,
        "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=words["vocab_size"]),
        "shards": Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.3),
        "base": Pretrain(model=small_model, shards=Ref("shards"), settings=SETTINGS),
        "long": Extend(start=Ref("base"), shards=Ref("shards"), served=48, settings=long),
    }
    made = {one.name: one.manifest for one in make(plan, tmp_path / "runs")}
    facts = made["long"].facts
    base = made["base"].facts
    assert facts["bits_per_byte_before"] == pytest.approx(base["bits_per_byte"], abs=0.05)
    assert facts["bits_per_byte"] < facts["bits_per_byte_before"]
    config = json.loads((tmp_path / "runs" / "long" / "config.json").read_text())
    assert config["max_position_embeddings"] == 48
    rows = (tmp_path / "runs" / "long" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["lr"] for row in rows] == [1e-3] * 3
    assert files_of_step(tmp_path / "runs" / "long", 2)
    with pytest.raises(UserError, match="served=256"):
        dataclasses.replace(plan["long"], served=256)
    with pytest.raises(UserError, match="rope_theta"):
        extended(small_model, 48, 1e6)


def test_tensorboard_has_the_same_numbers_and_a_resumed_run_none_twice(tmp_path, small_model):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="extra tensorboard"
    )
    config = dataclasses.replace(small_model, vocab_size=64)
    for first, last in ((1, 5), (4, 6)):  # broken off after step 3, of which a save was left
        recorder = Recorder(tmp_path, config, 48, torch.device("cpu"), "fp32")
        recorder.begin(first - 1)
        for step in range(first, last + 1):
            recorder.write({"step": step, "loss": step / 10, "tokens": step}, 96, 0.5)
        recorder.close()
    board = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    steps = [event.step for event in board.Scalars("loss")]
    assert steps == [1, 2, 3, 4, 5, 6]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == steps
    assert board.Scalars("mfu")[0].value == pytest.approx(rows[0]["mfu"], rel=1e-3)
    assert rows[0]["tokens_per_second"] == 192
