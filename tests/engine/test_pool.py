"""The pools fit the memory, and what is in them can be moved and comes back."""

from dataclasses import replace

import pytest
import torch

from cairn.base import UserError
from cairn.engine import Engine, SamplingParams
from cairn.engine.pages import PAGE
from cairn.engine.pool import MOST_KEPT, Pool, Sizes, fit
from cairn.model import save

CPU, FP32 = torch.device("cpu"), torch.float32


def bytes_of(config, sizes: Sizes) -> int:
    pages = sum(count * PAGE * config.kv_bytes_per_token(4) for count in sizes.pages)
    states = (sizes.slots + sizes.states) * config.state_bytes_per_sequence(4)
    return pages + states


def test_sizes_are_chosen_to_fit(model):
    config = model.config
    sizes = fit(config, CPU, FP32, None, None, memory=2**34)
    assert (sizes.slots, sizes.capacity, sizes.states) == (16, config.max_positions, MOST_KEPT)
    for memory in (2**34, 2**24, 2**23, 2**22, 2**20):
        sizes = fit(config, CPU, FP32, None, None, memory=memory)
        assert bytes_of(config, sizes) <= memory
        assert sizes.pages[0] * PAGE >= sizes.capacity
    small = fit(config, CPU, FP32, None, None, memory=2**20)
    assert small.capacity < config.max_positions


def test_more_slots_than_fit_run_as_many_at_a_time_as_do(model, caplog):
    sizes = fit(model.config, CPU, FP32, 100_000, 64, memory=2**24)
    assert 100 < sizes.slots < 100_000
    assert bytes_of(model.config, sizes) <= 2**24
    assert "run at a time" in caplog.text


def test_states_take_over_half_where_every_sequence_still_has_all_its_pages(model):
    config = replace(model.config, state_size=512)
    state, page = config.state_bytes_per_sequence(4), PAGE * config.kv_bytes_per_token(4)
    sizes = fit(config, CPU, FP32, 64, PAGE, memory=64 * (state + 5 * page), keeps=False)
    assert sizes.slots == 64
    assert sizes.pages[0] >= 64
    long = fit(config, CPU, FP32, 64, 200 * PAGE, memory=64 * (state + 5 * page), keeps=False)
    assert long.slots * state <= 32 * (state + 5 * page)


@pytest.mark.parametrize(
    ("slots", "capacity", "memory"),
    [(None, 8192, 2**20), (None, None, 1000), (0, None, 2**30), (1, 0, 2**30)],
)
def test_sizes_that_cannot_be_are_refused(model, slots, capacity, memory):
    with pytest.raises(UserError, match=r"slots|capacity"):
        fit(model.config, CPU, FP32, slots, capacity, memory=memory)


def test_memory_moves_and_comes_back(model):
    pool = Pool(model.config, Sizes(3, 100, (20,), 4), CPU, FP32)
    keys, state = pool.cache.keys[0], pool.cache.state
    keys.normal_()
    state.normal_()
    before, states = keys.clone().unflatten(1, (-1, PAGE)), state.clone()
    block, kept = pool.fetch([[3, 7]]), pool.save(1)
    pool.copy(0, [4], [9])
    assert torch.equal(keys.unflatten(1, (-1, PAGE))[:, 9], before[:, 4])
    pool.store(block, [[11, 12]])
    assert torch.equal(keys.unflatten(1, (-1, PAGE))[:, [11, 12]], before[:, [3, 7]])
    pool.clear(1)
    assert not state[:, 1].any()
    pool.restore(2, kept)
    assert torch.equal(state[:, 2], states[:, 1])
    held = pool.hold([0, 2])
    state.zero_()
    pool.put_back(held, [1], [0])
    assert torch.equal(state[:, 0], states[:, 1])
    assert not state[:, 2].any()
    pool.scrub(0, [11])
    assert not keys.unflatten(1, (-1, PAGE))[:, 11].any()


def test_a_folder_is_loaded_with_its_tokenizer_and_end_tokens(model, words, tmp_path):
    save(model, tmp_path, eos_token_ids=(0, 17))
    words.save(tmp_path)
    engine = Engine(tmp_path, slots=1, capacity=64)
    assert engine.model.dtype == torch.float32
    params = SamplingParams(max_tokens=9, temperature=0)
    live = Engine(model, words, slots=1, capacity=64)
    free = live.generate(["a"], params)[0].tokens
    found = engine.generate(["a"], params)[0]
    cut = free[: free.index(17) + 1] if 17 in free else free
    assert found.tokens == cut
    request = engine.add("a", params)
    assert {0, 17} <= engine._sequences[request].stop_tokens


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        Engine(tmp_path / "nowhere")
