"""A step that is laid out on the device, against the layout that is planned on the host."""

import pytest
import torch

from cairn.model import Cache, Spans
from cairn.model.layout import Layout
from cairn.model.steps import Step

from ..fixtures.shapes import WINDOW, untrained

CONFIG = untrained("*-*-", 40, **WINDOW)


def test_places_tables_ends_and_angles_are_those_of_a_planned_layout():
    pytest.importorskip("triton", reason="triton is not installed")
    cpu = torch.device("cpu")
    cache = Cache(CONFIG, 6, 700, pages=[300, 300])
    dice = torch.Generator().manual_seed(0)
    for table in cache.tables:
        table[:] = torch.randperm(300, generator=dice)[: table.size].view(table.shape).numpy() + 1
    slots, past = [4, 0, 5], [17, 0, 530]
    cache.lengths[slots] = torch.tensor(past)
    wanted = Layout.of(CONFIG, Spans.of([1, 1, 1], slots), cache, cpu)
    step = Step(5, cpu)
    step.given.copy_(torch.tensor([[*slots, -1, -1], [*past, 0, 0]]))
    pages = tuple(torch.from_numpy(table.astype("int32")) for table in cache.tables)
    layout = step.layout(CONFIG, cache, pages, 2)
    assert layout.pages is not None
    assert wanted.pages is not None
    for group in range(2):
        assert layout.pages.places(group).tolist() == [*wanted.pages.places(group).tolist(), -1, -1]
        table = wanted.pages.table(group)
        assert torch.equal(layout.pages.table(group)[:3, : table.shape[1]], table)
    for window, plan in wanted.attention.items():
        theirs = plan.tables(2, 64, cpu)
        ours = layout.attention[window].tables(2, 64, cpu)
        assert ours.ends.tolist() == [*theirs.ends.tolist(), 1, 1]
        assert ours.bounds.tolist() == [*theirs.bounds.tolist(), 4, 5]
        assert ours.few.tolist() == [*theirs.few.tolist(), [3, 0], [4, 0]]
        assert (len(ours.many), ours.pieces) == (len(theirs.many), theirs.pieces)
    assert layout.turns is not None
    assert wanted.turns is not None
    for a, b in zip(layout.turns, wanted.turns, strict=True):
        assert torch.equal(a[:3], b)
    assert layout.memory_slots.index.tolist() == [*slots, -1, -1]
