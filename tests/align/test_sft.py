"""The stream of conversations: what is learned, what sees what, and that it can be resumed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.align.sft import Conversation, ConversationStream, first_fit
from cairn.base import UserError
from cairn.tokens import conversation
from cairn.tokens.learning import learn

PAD = 0


def talk(number: int, length: int) -> Conversation:
    """`length` tokens that tell which conversation they are from; the second half is learned."""
    ids = [1000 * (number + 1) + place for place in range(length)]
    weights = [float(place >= length // 2) for place in range(length)]
    return Conversation(ids, weights, ledger_row=50 + number)


def stream(lengths, size=32, seed=0) -> ConversationStream:
    talks = [talk(number, length) for number, length in enumerate(lengths)]
    return ConversationStream(talks, size, seed, PAD)


def epoch_of(made: ConversationStream, epoch: int):
    """The windows of one epoch as batches of one."""
    for sample in range(made.epochs.first(epoch), made.epochs.first(epoch + 1)):
        yield made.batch([sample])


def test_every_conversation_once_an_epoch_and_whole():
    made = stream([5, 9, 14, 20, 3, 31, 32, 2, 7, 7])
    for epoch in range(3):
        seen = []
        for batch in epoch_of(made, epoch):
            assert len(batch.tokens) == 32
            for row, start, stop in batch.rows:
                number = row - 50
                ids = made.conversations[number].ids
                assert batch.tokens[start:stop].tolist() == list(ids)
                assert start in batch.bounds
                assert stop in batch.bounds
                seen.append(number)
        assert sorted(seen) == list(range(10))


def test_loss_falls_on_what_the_assistant_says_and_never_across_a_border():
    made = stream([5, 9, 14, 20, 3, 31, 32, 2, 7, 7])
    for batch in epoch_of(made, 0):
        wanted = np.zeros(32, np.float32)
        for row, start, stop in batch.rows:
            weights = made.conversations[row - 50].weights
            wanted[start : stop - 1] = weights[1:]
        assert np.array_equal(batch.weights, wanted)
        learned = batch.weights > 0
        assert np.array_equal(batch.targets[learned], np.roll(batch.tokens, -1)[learned])
        assert not batch.weights[batch.bounds[1:] - 1].any()


def test_a_window_is_a_function_of_seed_and_number():
    one, two = stream([9, 14, 20, 3, 7] * 6), stream([9, 14, 20, 3, 7] * 6)
    batches = [one.batch(range(2 * step, 2 * step + 2)) for step in range(20)]
    assert one.epochs.place(40)[0] >= 1
    again = two.batch([24, 25])
    assert np.array_equal(again.tokens, batches[12].tokens)
    assert again.rows == batches[12].rows
    other = stream([9, 14, 20, 3, 7] * 6, seed=1).batch([0, 1])
    assert not np.array_equal(other.tokens, batches[0].tokens)
    assert one._plan(0) != one._plan(1)


def test_what_is_too_long_or_teaches_nothing_is_left_out():
    talks = [talk(0, 33), talk(1, 8), Conversation([1, 2, 3], [0, 0, 0])]
    made = ConversationStream(talks, 32, 0, PAD)
    assert made.left_out == 2
    assert [one.ledger_row for one in made.conversations] == [51]


def test_mistakes_of_the_user():
    with pytest.raises(UserError, match="holds none of the 2 conversations"):
        stream([40, 50])
    with pytest.raises(UserError, match="seed"):
        stream([4], seed=-1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=120))
def test_first_fit_packs_each_item_once_within_the_size(lengths):
    windows = first_fit(range(len(lengths)), lengths, 50)
    assert sorted(item for window in windows for item in window) == list(range(len(lengths)))
    totals = [sum(lengths[item] for item in window) for window in windows]
    assert max(totals) <= 50
    assert sum(total <= 25 for total in totals) <= 1 or len(lengths) > 32


def test_through_the_chat_layout():
    words = learn(["def f(x):\n    return x\n"] * 3, 300)
    messages = [{"role": "user", "content": "Ask"}, {"role": "assistant", "content": "def f(x)"}]
    ids, weights = conversation(messages, words)
    made = ConversationStream([Conversation(ids, weights, 3)], len(ids) + 4, 0, PAD)
    batch = made.batch([0])
    learned = batch.targets[batch.weights > 0].tolist()
    assert words.decode(learned).startswith("def f(x)")
    assert words.id("<SPECIAL_12>") in learned
