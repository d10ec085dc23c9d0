"""What may go wrong in a run of weeks: each told, survived where it can be, and counted."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cairn.base import Metrics, UserError
from cairn.base.errors import Stopped
from cairn.model import Decoder, build
from cairn.tokens import PretrainingStream
from cairn.train import Loss, NextToken, TrainSettings, train
from cairn.train.faults import Progress
from cairn.train.objective import Tokens

SETTINGS = TrainSettings(
    steps=12, sequences=2, sequence_length=48, lr=3e-3, warmup=2, save_every=3, precision="fp32"
)


@pytest.fixture
def fresh(small_model, tokenizer):
    """Makes the same new model at each call."""
    return lambda: build(replace(small_model, vocab_size=tokenizer.vocab_size), seed=1)


@pytest.fixture
def stream(training, tokenizer):
    return PretrainingStream(training, tokenizer, SETTINGS.sequence_length, seed=5)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def parameters(model: Decoder) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


class Spoilt(NextToken):
    """Multiplies the loss of some steps."""

    def __init__(self, steps: set[int], factor: float = float("inf")) -> None:
        self.steps, self.factor, self.calls = steps, factor, 0

    def __call__(self, model: Decoder, batch: Tokens) -> Loss:
        self.calls += 1
        loss = super().__call__(model, batch)
        factor = self.factor if self.calls in self.steps else 1.0
        return Loss(loss.total * factor, loss.count)


def test_a_step_that_is_not_finite_is_passed_over_and_counted(tmp_path, fresh, stream):
    model = fresh()
    facts = train(model, Spoilt({5, 6}), stream, SETTINGS, tmp_path)
    assert (facts["skipped"], facts["rewinds"], facts["steps"]) == (2, 0, 12)
    assert [row["step"] for row in rows(tmp_path) if "fault" in row] == [5, 6]
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_weights_stay_where_they_are_at_such_a_step(tmp_path, fresh, stream):
    one, two = fresh(), fresh()
    train(one, NextToken(), stream, replace(SETTINGS, steps=4, decay=0.0), tmp_path / "a")
    train(two, Spoilt({5}), stream, replace(SETTINGS, steps=5, decay=0.0), tmp_path / "b")
    left, right = parameters(one), parameters(two)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_spike_is_a_fault_where_it_is_asked_for(tmp_path, fresh, stream):
    settings = replace(SETTINGS, spike=2.0)
    train(fresh(), Spoilt({10}, 3.0), stream, settings, tmp_path / "a")
    (fault,) = [row for row in rows(tmp_path / "a") if "fault" in row]
    assert fault["step"] == 10
    assert "on average" in fault["fault"]
    facts = train(fresh(), Spoilt({10}, 3.0), stream, SETTINGS, tmp_path / "b")
    assert facts["skipped"] == 0


def test_too_many_faults_rewind_the_weights_once_and_then_end_the_run(tmp_path, fresh, stream):
    settings = replace(SETTINGS, skips=1, decay=0.0)
    saved, model = fresh(), fresh()
    train(saved, NextToken(), stream, replace(settings, steps=3), tmp_path / "a")
    faults = {5, 6}
    facts = train(model, Spoilt(faults), stream, replace(settings, steps=6), tmp_path / "b")
    assert (facts["skipped"], facts["rewinds"]) == (2, 1)
    assert rows(tmp_path / "b")[5]["rewound_to"] == 3
    left, right = parameters(saved), parameters(model)
    assert all(torch.equal(left[name], right[name]) for name in left)
    with pytest.raises(UserError, match=r"step 8: .* diverged; the last save is kept"):
        train(fresh(), Spoilt(faults | {7, 8}), stream, settings, tmp_path / "c")


def test_a_resumed_run_meets_its_faults_as_before(tmp_path, fresh, stream):
    settings = replace(SETTINGS, spike=2.0)
    whole, again = fresh(), fresh()
    facts = train(whole, Spoilt({10}, 3.0), stream, settings, tmp_path / "a")

    class Killed(Spoilt):
        def __call__(self, model: Decoder, batch: Tokens) -> Loss:
            if self.calls == 10:
                raise KeyboardInterrupt
            return super().__call__(model, batch)

    with pytest.raises(KeyboardInterrupt):
        train(fresh(), Killed({10}, 3.0), stream, settings, tmp_path / "b")
    assert train(again, Spoilt({1}, 3.0), stream, settings, tmp_path / "b") == facts
    assert [row["loss"] for row in rows(tmp_path / "b")] == [
        row["loss"] for row in rows(tmp_path / "a")
    ]


def test_progress_of_older_saves_is_read():
    at = Progress(**{"step": 3, "tokens": 9, "counted": 9.0, "last_loss": 1.0})
    assert at.skipped == 0


def test_sigterm_saves_and_leaves(tmp_path, fresh, stream):
    class Asked(NextToken):
        calls = 0

        def __call__(self, model: Decoder, batch: Tokens) -> Loss:
            self.calls += 1
            if self.calls == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(model, batch)

    whole, model = fresh(), fresh()
    facts = train(whole, NextToken(), stream, SETTINGS, tmp_path / "a")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="saved at step 5"):
        train(fresh(), Asked(), stream, SETTINGS, tmp_path / "b")
    assert signal.getsignal(signal.SIGTERM) is before
    saves = sorted(path.name for path in (tmp_path / "b" / "resume").iterdir())
    assert saves == ["step-000000003", "step-000000005"]
    assert train(model, NextToken(), stream, SETTINGS, tmp_path / "b") == facts


HUNG = """
import sys, time
from cairn.train.faults import Watchdog

with Watchdog(1.0) as watchdog:
    for _ in range(4):
        watchdog.step()
        time.sleep(0.4)
    print("four steps", flush=True)
    watchdog.step()
    time.sleep(60)
"""


def test_a_hung_process_tells_where_and_ends():
    done = subprocess.run([sys.executable, "-c", HUNG], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stdout == "four steps\n"
    assert "Timeout" in done.stderr
    assert "line 11" in done.stderr


def full_at(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """The disk is full when these steps are saved."""
    from cairn.train import resume

    write = resume.write_pieces

    def write_pieces(tensors, **given):
        folder = str(given["storage_writer"].path)
        if any(f"{step:09d}" in folder for step in steps):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(tensors, **given)

    monkeypatch.setattr(resume, "write_pieces", write_pieces)


def test_a_full_disk_costs_a_save_and_no_more(tmp_path, fresh, stream, monkeypatch, capfd):
    whole, model = fresh(), fresh()
    train(whole, NextToken(), stream, SETTINGS, tmp_path / "a")
    full_at(monkeypatch, {6})
    train(model, NextToken(), stream, SETTINGS, tmp_path / "b")
    assert "step-000000006 could not be written: [Errno 28] No space left" in capfd.readouterr().err
    left, right = parameters(whole), parameters(model)
    assert all(torch.equal(left[name], right[name]) for name in left)
    full_at(monkeypatch, {12})
    with pytest.raises(OSError, match=r"step-000000012 could not be written: .*No space left"):
        train(fresh(), NextToken(), stream, SETTINGS, tmp_path / "c")
    assert sorted(path.name for path in (tmp_path / "c" / "resume").iterdir()) == [
        "step-000000003",
        "step-000000009",
    ]


def test_only_a_last_save_that_fails_ends_the_run(tmp_path, fresh, stream, monkeypatch):
    full_at(monkeypatch, {9})
    train(fresh(), NextToken(), stream, SETTINGS, tmp_path)
    saves = sorted(path.name for path in (tmp_path / "resume").iterdir())
    assert saves == ["step-000000006", "step-000000012"]


def test_rows_that_a_full_disk_refused_come_later(tmp_path):
    metrics = Metrics(Path("/dev/full"))
    metrics.write(step=1)
    metrics.write(step=2)
    metrics.path = tmp_path / "metrics.jsonl"
    metrics.write(step=3)
    assert [row["step"] for row in metrics.read()] == [1, 2, 3]


@pytest.mark.parametrize("victim", ["state.json", ".metadata", "digests-0.json", "__0_0.distcp"])
def test_a_save_that_a_crash_cut_short_is_passed_over(tmp_path, fresh, stream, victim, capfd):
    class Killed(NextToken):
        calls = 0

        def __call__(self, model: Decoder, batch: Tokens) -> Loss:
            self.calls += 1
            if self.calls == 8:
                raise KeyboardInterrupt
            return super().__call__(model, batch)

    whole, again = fresh(), fresh()
    train(whole, NextToken(), stream, SETTINGS, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), Killed(), stream, SETTINGS, tmp_path / "b")
    resume = tmp_path / "b" / "resume"
    (resume / ".step-000000009.part").mkdir()
    cut = resume / "step-000000006" / victim
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    train(again, NextToken(), stream, SETTINGS, tmp_path / "b")
    assert "step-000000006 is damaged" in capfd.readouterr().err
    left, right = parameters(whole), parameters(again)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert not list(resume.glob(".*.part"))


def test_activations_computed_again_change_nothing(tmp_path, fresh, stream):
    plain, again = fresh(), fresh()
    settings = replace(SETTINGS, steps=3)
    train(plain, NextToken(), stream, settings, tmp_path / "a")
    train(again, NextToken(), stream, replace(settings, recompute="M*-"), tmp_path / "b")
    left, right = parameters(plain), parameters(again)
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parallel
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_parts_compute_the_same(tmp_path, fresh, stream):
    settings = replace(SETTINGS, steps=3)
    train(fresh(), NextToken(), stream, settings, tmp_path / "a")
    train(fresh(), NextToken(), stream, replace(settings, compile=True), tmp_path / "b")
    plain, compiled = ([row["loss"] for row in rows(tmp_path / name)] for name in "ab")
    assert compiled == pytest.approx(plain, abs=1e-5)


def test_twenty_steps_are_ten_and_ten(tmp_path, fresh, stream):
    settings = replace(SETTINGS, steps=20, save_every=10)
    whole, again = fresh(), fresh()
    train(whole, NextToken(), stream, settings, tmp_path / "a")

    class Killed(NextToken):
        calls = 0

        def __call__(self, model: Decoder, batch: Tokens) -> Loss:
            self.calls += 1
            if self.calls == 11:
                raise KeyboardInterrupt
            return super().__call__(model, batch)

    with pytest.raises(KeyboardInterrupt):
        train(fresh(), Killed(), stream, settings, tmp_path / "b")
    train(again, NextToken(), stream, settings, tmp_path / "b")
    left, right = parameters(whole), parameters(again)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert [row["loss"] for row in rows(tmp_path / "b")] == [
        row["loss"] for row in rows(tmp_path / "a")
    ]
