"""Blends: shares by phase, caps, order, and which files a step saw."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.base import Ref, UserError
from cairn.tokens import Blend, Component, Formats, PretrainingStream
from cairn.tokens.blend import plan_phases
from cairn.tokens.interleave import ONE, Interleave, floor_sum
from cairn.tokens.mixing import BlendStream
from cairn.train import TrainSettings
from cairn.train.batches import micro_batches

THREE = Blend(
    components=(
        Component(shards=Ref("web"), weights=(0.6, 0.5, 0.15)),
        Component(shards=Ref("code"), weights=(0.3, 0.4, 0.35)),
        Component(shards=Ref("math"), weights=(0.1, 0.1, 0.5), formats=Formats(infilling_rate=0.0)),
    ),
    switches=(0.6, 0.9),
)


def three(shards, tokenizer, samples=4_000, blend=THREE, seed=0, length=24) -> BlendStream:
    """Three corpora that are one, told by three seeds."""
    parts = [
        PretrainingStream(shards, tokenizer, length, 100 * seed + k, one.formats)
        for k, one in enumerate(blend.components)
    ]
    return BlendStream(blend, parts, samples, seed)


@settings(max_examples=200, deadline=None)
@given(
    n=st.integers(0, 300),
    m=st.integers(1, 50),
    a=st.integers(0, 200),
    b=st.integers(0, 200),
)
def test_the_sum_of_floors(n, m, a, b):
    assert floor_sum(n, m, a, b) == sum((a * i + b) // m for i in range(n))


@settings(max_examples=60, deadline=None)
@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda s: sum(s) > 0.01),
    offset=st.integers(0, ONE - 1),
    n=st.integers(0, 500),
)
def test_counts_are_those_of_the_corpora_one_by_one(shares, offset, n):
    order = Interleave(shares, offset)
    told = [order.corpus(i) for i in range(n)]
    for corpus in range(len(shares)):
        count = order.count(corpus, n)
        assert count == told.count(corpus)
        assert abs(count - shares[corpus] / sum(shares) * n) < 6


@pytest.mark.parametrize("samples", [40_000, 2_441_406_250])
def test_three_corpora_hit_their_weights_in_every_phase(shards, tokenizer, samples):
    """Within 0.5% of each weight; also over the 20T tokens of a full run, without walking it."""
    stream = three(shards, tokenizer)
    phases = plan_phases(THREE, samples)
    assert [phase.first for phase in phases] == [0, round(0.6 * samples), round(0.9 * samples)]
    for number, phase in enumerate(phases):
        order = Interleave(phase.shares, stream._offset(number))
        size = phase.stop - phase.first
        for component, one in enumerate(THREE.components):
            got = order.count(component, size) / size
            assert got == pytest.approx(one.weights[number], rel=0.005), (number, component)


def test_places_count_on_through_phases(shards, tokenizer):
    stream = three(shards, tokenizer)
    met = [0, 0, 0]
    for sample in range(stream.samples):
        component, number = stream.place(sample)
        assert number == met[component]
        met[component] += 1
    seen = stream.seen(stream.samples)
    assert [seen[name]["samples"] for name in ("web", "code", "math")] == met
    epoch, place = stream.parts[0].epochs.place(met[0])
    epochs = epoch + place / stream.parts[0].windows(epoch)
    assert seen["web"]["epochs"] == pytest.approx(epochs, abs=1e-4)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_the_order_is_that_of_one_rank(shards, tokenizer, ranks):
    plan = TrainSettings(steps=500, sequences=4, accumulate=2, sequence_length=24)
    whole, step = three(shards, tokenizer), 321
    alone = [whole.batch(part) for part in micro_batches(plan, step)]
    shares = [
        three(shards, tokenizer).batch(part)  # a process of its own each
        for rank in range(ranks)
        for part in micro_batches(plan, step, rank, ranks)
    ]
    for name in ("tokens", "weights"):
        one = np.concatenate([getattr(batch, name) for batch in alone])
        assert np.array_equal(one, np.concatenate([getattr(batch, name) for batch in shares]))
    one = [source for batch in alone for source in batch.sources]
    assert one == [source for batch in shares for source in batch.sources]


def test_a_component_is_told_in_its_own_format(shards, tokenizer):
    stream = three(shards, tokenizer, length=64)
    marks = {0: 0, 1: 0, 2: 0}
    for sample in range(400):
        component, _ = stream.place(sample)
        marks[component] += tokenizer.id("<fim_prefix>") in stream.window(sample).tokens
    assert marks[0] > 0
    assert marks[2] == 0, "math has no fill-in-the-middle"


def test_epochs_are_capped_and_the_rest_goes_to_the_others():
    capped = (THREE.components[0], replace(THREE.components[1], max_epochs=2.0))
    blend = Blend(components=(*capped, THREE.components[2]), switches=THREE.switches)
    phases = plan_phases(blend, 1_000, [1_000, 100, 1_000])
    code = [phase.shares[1] * (phase.stop - phase.first) for phase in phases]
    assert code == pytest.approx([180, 20, 0])  # of 600, 300 and 100 samples: 2 epochs of 100
    for phase in phases:
        assert sum(phase.shares) == pytest.approx(1)
    second = phases[1].shares
    assert second[0] / second[2] == pytest.approx(5)  # as 0.5 to 0.1
    assert plan_phases(blend, 1_000)[1].shares[1] == 0.4  # without sizes: as wanted
    short = replace(THREE.components[0], max_epochs=1.0, weights=(1.0,))
    with pytest.raises(UserError, match="more than its corpora give within max_epochs"):
        plan_phases(Blend(components=(short,)), 1_000, [10])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"components": ()}, "names no corpus"),
        ({"switches": (0.6,)}, "for 2 phases"),
        ({"switches": (0.9, 0.6)}, "do not cut the run"),
        ({"components": (*THREE.components, THREE.components[0])}, "name shards twice"),
        ({"components": (Component(shards=Ref("a"), weights=(1.0, 0.0, 1.0)),)}, "phase 2"),
    ],
)
def test_mistakes_are_named(change, named):
    with pytest.raises(UserError, match=named):
        replace(THREE, **change)


def test_whole_contexts_are_packed(shards, tokenizer):
    formats = Formats(packing="whole", infilling_rate=0.0, context_tokens=300)
    for length in (400, 1_000):
        stream = PretrainingStream(shards, tokenizer, length, 0, formats)
        layout, edges, _ = stream._plan(0)
        assert edges[0] == 0
        assert edges[-1] == layout.starts[-1]
        assert (np.diff(edges) > 0).all()
        assert np.diff(edges).max() <= length
        begins = layout.starts[:-1][layout.opens]
        ends = layout.starts[1:][layout.closes]
        for begin, end in zip(begins, ends, strict=True):
            inside = edges[(edges > begin) & (edges < end)]
            assert (
                len(inside) == (end - begin) // length if end - begin > length else not len(inside)
            )
        assert sorted(layout.documents.tolist()) == list(range(len(shards)))
        cut = PretrainingStream(shards, tokenizer, length, 0, replace(formats, packing="cut"))
        assert stream.windows(0) < 1.1 * cut.windows(0)
