"""Batches and rates: functions of the settings and the step, the same for any number of ranks."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from cairn.base import UserError
from cairn.train import TrainSettings
from cairn.train.batches import micro_batches, samples_before, samples_of, stages, total_steps
from cairn.train.schedule import learning_rate

RAMPED = TrainSettings(
    tokens=8_000, sequences=4, accumulate=4, sequence_length=10, ramp=(4, 4, 960), warmup=0
)


def test_a_batch_ramp_grows_in_stages_of_equal_tokens():
    # three stages of 32 samples each: 8 steps of 4, 4 of 8, 3 of 12 (the last one runs over)
    assert [tuple(stage) for stage in stages(RAMPED)] == [
        (0, 0, 4), (8, 32, 8), (12, 64, 12), (15, 100, 16),
    ]  # fmt: skip
    assert total_steps(RAMPED) == 15 + 44  # 700 samples are left, of 16 a step
    assert samples_before(RAMPED, total_steps(RAMPED)) >= 800
    assert samples_before(RAMPED, total_steps(RAMPED) - 1) < 800
    assert len(samples_of(RAMPED, 1)) == 4
    assert len(samples_of(RAMPED, 16)) == 16
    for wrong in ((4, 5, 100), (16, 4, 100), (4, 4), (0, 4, 100)):
        with pytest.raises(UserError, match="ramp"):
            replace(RAMPED, ramp=wrong)


@examples(max_examples=60, deadline=None)
@given(
    sequences=st.sampled_from([8, 16, 24]),
    accumulate=st.integers(1, 4),
    step=st.integers(1, 50),
    ramped=st.booleans(),
)
def test_one_to_eight_ranks_take_the_same_samples(sequences, accumulate, step, ramped):
    ramp = (8, 8, 1000) if ramped and sequences * accumulate > 8 else ()
    given = TrainSettings(steps=60, sequences=sequences, accumulate=accumulate, ramp=ramp)
    whole = list(samples_of(given, step))
    assert whole[0] == (samples_of(given, step - 1).stop if step > 1 else 0)
    for ranks in (1, 2, 4, 8):
        shares = [micro_batches(given, step, rank, ranks) for rank in range(ranks)]
        assert [sample for share in shares for part in share for sample in part] == whole
        assert len({tuple(map(len, share)) for share in shares}) == 1, "ranks work in step"
        assert max(len(part) for share in shares for part in share) <= sequences


def test_ranks_that_do_not_share_evenly_are_refused():
    with pytest.raises(UserError, match="ranks=3"):
        micro_batches(TrainSettings(steps=1, sequences=8), 1, 0, 3)


def test_steps_or_tokens():
    by_tokens = TrainSettings(tokens=20_000_000_000_000, sequences=736, sequence_length=8192)
    assert total_steps(by_tokens) == -(-20_000_000_000_000 // (736 * 8192)) == 3_317_129
    assert total_steps(replace(by_tokens, steps=5)) == 3_317_129, "tokens say, where they are given"
    for wrong in ({"steps": 0}, {"steps": -1}, {"steps": 3, "tokens": -5}):
        with pytest.raises(UserError, match="give one of them"):
            TrainSettings(**wrong)


def test_cosine_warms_up_and_falls_to_the_floor():
    law = TrainSettings(
        steps=100, lr=1.0, sequences=2, sequence_length=5, schedule="cosine",
        warmup_tokens=100, min_lr_ratio=0.1,
    )  # fmt: skip
    rates = [learning_rate(law, step) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[54] == pytest.approx(0.55)  # half of the way down
    assert rates[-1] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))


def test_tokens_say_the_same_as_steps_and_shares():
    steps = TrainSettings(steps=100, sequences=2, sequence_length=5, warmup=10, decay=0.2)
    tokens = replace(steps, warmup=0, decay=0.0, warmup_tokens=100, decay_tokens=200)
    for step in range(1, 101):
        assert learning_rate(steps, step) == pytest.approx(learning_rate(tokens, step))


def test_a_ramp_warms_up_by_tokens_and_not_by_steps():
    law = replace(RAMPED, lr=1.0, warmup_tokens=1_000)
    assert learning_rate(law, 8) == pytest.approx(0.32)
    assert learning_rate(law, 15) == pytest.approx(1.0)
