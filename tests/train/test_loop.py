"""The one loop: divided once, resumed bit for bit, stopped when it diverges."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cairn.base import UserError
from cairn.model import Decoder, build
from cairn.tokens import PretrainingStream, Tokenizer, TokenShards
from cairn.tokens.batch import Batch
from cairn.train import Loss, NextToken, TrainSettings, train
from cairn.train.objective import Tokens

SETTINGS = TrainSettings(
    steps=8, sequences=2, sequence_length=48, lr=3e-3, warmup=2, save_every=3, precision="fp32"
)


@pytest.fixture
def fresh(small_model, tokenizer):
    """Makes the same new model at each call."""
    return lambda: build(replace(small_model, vocab_size=tokenizer.vocab_size), seed=1)


def stream_of(training: TokenShards, tokenizer: Tokenizer) -> PretrainingStream:
    return PretrainingStream(training, tokenizer, SETTINGS.sequence_length, seed=5)


def parameters(model: Decoder) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class StopError(Exception):
    pass


class StopAfter(NextToken):
    """Breaks off in the middle of a step, as a kill would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, model: Decoder, batch: Tokens) -> Loss:
        self.left -= 1
        if self.left < 0:
            raise StopError
        return super().__call__(model, batch)


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("cut", [1, 3, 4, 7])
def test_resumed_training_is_bit_for_bit_the_same(tmp_path, training, tokenizer, fresh, cut):
    whole, broken = fresh(), fresh()
    stream = stream_of(training, tokenizer)
    facts = train(whole, NextToken(), stream, SETTINGS, tmp_path / "a")
    with pytest.raises(StopError):
        train(broken, StopAfter(cut), stream, SETTINGS, tmp_path / "b")
    again = fresh()
    found = train(again, NextToken(), stream_of(training, tokenizer), SETTINGS, tmp_path / "b")
    assert found == facts
    assert same(parameters(again), parameters(whole))
    assert losses(tmp_path / "b") == losses(tmp_path / "a")


CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from cairn.model import ModelConfig, build, save
from cairn.tokens import PretrainingStream, Tokenizer, TokenShards
from cairn.train import NextToken, Parallel, TrainSettings, train

torch.set_num_threads(1)
shards, out = map(Path, sys.argv[1:])
tokenizer = Tokenizer.load(shards)
settings = replace({settings!r}, steps=40, save_every=2)
stream = PretrainingStream(TokenShards.open(shards / "train"), tokenizer, 48, seed=5)
model = build(replace({model!r}, vocab_size=tokenizer.vocab_size), seed=1)
train(model, NextToken(), stream, settings, out)
save(model, out)
"""


def test_sigkill_at_random_moments_changes_nothing(tmp_path: Path, run: Path, small_model):
    code = CHILD.format(settings=SETTINGS, model=small_model)

    def life(out: Path, seconds: float | None) -> None:
        out.mkdir(exist_ok=True)
        child = subprocess.Popen([sys.executable, "-c", code, str(run / "shards"), str(out)])
        if seconds is None:
            assert child.wait() == 0
            return
        deadline = time.monotonic() + 60
        while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(seconds)
        child.kill()
        child.wait()

    life(tmp_path / "whole", None)
    for seconds in (0.05, 0.11, 0.02):
        life(tmp_path / "cut", seconds)
    life(tmp_path / "cut", None)
    finals = [tmp_path / name / "model.safetensors" for name in ("whole", "cut")]
    assert finals[0].read_bytes() == finals[1].read_bytes()
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_damaged_save_falls_back_to_the_one_before(tmp_path, training, tokenizer, fresh):
    whole, stream = fresh(), stream_of(training, tokenizer)
    train(whole, NextToken(), stream, SETTINGS, tmp_path / "a")
    with pytest.raises(StopError):
        train(fresh(), StopAfter(7), stream, SETTINGS, tmp_path / "b")
    saves = sorted((tmp_path / "b" / "resume").glob("step-*"))
    assert [save.name for save in saves] == ["step-000000003", "step-000000006"]
    victim = next(saves[-1].glob("*.distcp"))
    victim.write_bytes(victim.read_bytes()[:-50])
    again = fresh()
    train(again, NextToken(), stream, SETTINGS, tmp_path / "b")
    assert same(parameters(again), parameters(whole))
    assert losses(tmp_path / "b") == losses(tmp_path / "a")


def test_accumulated_micro_batches_equal_one_big_batch(tmp_path, training, tokenizer, fresh):
    one, many = fresh(), fresh()
    big = replace(SETTINGS, sequences=4, steps=3)
    small = replace(SETTINGS, sequences=1, accumulate=4, steps=3)
    train(one, NextToken(), stream_of(training, tokenizer), big, tmp_path / "a")
    train(many, NextToken(), stream_of(training, tokenizer), small, tmp_path / "b")
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), rel=1e-5)
    for name, value in parameters(one).items():
        assert torch.allclose(value, parameters(many)[name], atol=2e-5), name


class Half:
    """A stream whose second micro-batch counts a single token."""

    def __init__(self, stream: PretrainingStream) -> None:
        self.stream = stream

    def batch(self, samples):
        batch = self.stream.batch(samples)
        if samples[0] % 2:
            weights = batch.weights * 0
            weights[3] = 1.0
            batch = Batch(batch.tokens, batch.targets, weights, batch.bounds, batch.rows)
        return batch


def test_the_loss_is_divided_once_by_all_that_counts(tmp_path, training, tokenizer, fresh):
    model = fresh()
    stream = Half(stream_of(training, tokenizer))
    total, count = 0.0, 0.0
    for sample in range(2):
        given = Tokens.of(stream.batch([sample]), model.device)
        total += NextToken()(model, given).total.item()
        count += given.count
    settings = replace(SETTINGS, sequences=1, accumulate=2, steps=1)
    train(model, NextToken(), stream, settings, tmp_path)
    assert losses(tmp_path) == pytest.approx([total / count], rel=1e-6)


class Nothing:
    """A stream in which nothing counts."""

    def __init__(self, stream: PretrainingStream) -> None:
        self.stream = stream

    def batch(self, samples):
        batch = self.stream.batch(samples)
        return Batch(batch.tokens, batch.targets, batch.weights * 0, batch.bounds, batch.rows)


def test_a_step_in_which_nothing_counts_is_no_nan(tmp_path, training, tokenizer, fresh):
    settings = replace(SETTINGS, steps=1, weight_decay=0.0)
    model = fresh()
    before = parameters(model)
    facts = train(model, NextToken(), Nothing(stream_of(training, tokenizer)), settings, tmp_path)
    assert facts["loss"] == 0.0
    assert same(parameters(model), before)


def test_divergence_is_told_and_keeps_the_last_save(tmp_path, training, tokenizer, fresh):
    class Explode(NextToken):
        calls = 0

        def __call__(self, model: Decoder, batch: Tokens) -> Loss:
            self.calls += 1
            loss = super().__call__(model, batch)
            return Loss(loss.total * float("inf") if self.calls > 4 else loss.total, loss.count)

    strict = replace(SETTINGS, skips=0, rewinds=0)
    with pytest.raises(UserError, match=r"step 5: loss .*diverged; the last save is kept"):
        train(fresh(), Explode(), stream_of(training, tokenizer), strict, tmp_path)
    assert [p.name for p in (tmp_path / "resume").iterdir()] == ["step-000000003"]


def test_training_learns(tmp_path, training, tokenizer, fresh):
    settings = replace(SETTINGS, steps=40, sequences=4, lr=1e-2)
    train(fresh(), NextToken(), stream_of(training, tokenizer), settings, tmp_path)
    found = losses(tmp_path)
    assert sum(found[-5:]) / 5 < found[0] - 1.0
