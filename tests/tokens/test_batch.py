"""Packing conversations and whole texts into windows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.tokens import Window, assemble, pack


def test_weights_move_to_the_position_that_predicts():
    one = pack([([5, 6, 7], [0, 1, 1], 9), ([8, 4], [1, 0.5], None)], 7, padding=3)
    batch = assemble([one, pack([([1] * 9, [1] * 9, 2)], 7, padding=3)])
    assert batch.tokens.tolist() == [5, 6, 7, 8, 4, 3, 3] + [1] * 7
    assert batch.targets.tolist() == [6, 7, 0, 4, 0, 3, 0] + [1] * 6 + [0]
    assert batch.weights.tolist() == [1, 1, 0, 0.5, 0, 0, 0] + [1] * 6 + [0]
    assert batch.bounds.tolist() == [0, 3, 5, 7, 14]
    assert batch.rows == [(9, 0, 3), (2, 7, 14)]


@given(
    sizes=st.lists(st.integers(0, 9), max_size=6),
    length=st.integers(2, 20),
    data=st.data(),
)
def test_every_learned_id_is_a_target_once(sizes, length, data):
    texts = [
        (
            [place + 1] * size,
            data.draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)),
            place,
        )
        for place, size in enumerate(sizes)
    ]
    batch = assemble([pack(texts, length, padding=0)])
    told = np.concatenate([[], *(ids for ids, _, _ in texts)])[:length]
    assert batch.tokens[: len(told)].tolist() == told.tolist()
    assert batch.bounds[0] == 0
    assert batch.bounds[-1] == length
    learned, left = 0, length
    for ids, weights, _ in texts:  # a text's first id has nothing before it
        learned += sum(weights[1:left])
        left = max(left - len(ids), 0)
    assert batch.weights.sum() == learned


def test_windows_without_weights_learn_all_but_the_first():
    batch = assemble([Window(np.arange(4), [0, 3, 4], [], used=3)])
    assert batch.weights.tolist() == [1, 1, 0, 0]


def test_a_weight_for_every_id():
    with pytest.raises(ValueError, match="2 ids with 1 weights"):
        pack([([1, 2], [1], None)], 4, padding=0)
