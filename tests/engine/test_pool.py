"""Slots fit the memory, grow when a longer sequence comes, and forget who was there before."""

import pytest
import torch

from cairn.base import UserError
from cairn.engine import Engine, SamplingParams
from cairn.engine.pool import FIRST_CAPACITY, Pool, fit, slot_bytes
from cairn.model import KeyValues, Recurrence, save

CPU, FP32 = torch.device("cpu"), torch.float32


def test_slot_bytes_are_what_the_cache_takes(model):
    cache = Pool(model.config, 3, 100, CPU, FP32).cache
    taken = 0
    for layer in cache.layers:
        if isinstance(layer, KeyValues):
            taken += layer.keys.nbytes + layer.values.nbytes
        elif isinstance(layer, Recurrence):
            taken += layer.window.nbytes + layer.state.nbytes
    assert 3 * slot_bytes(model.config, 100, FP32) == taken


def test_sizes_are_chosen_to_fit(model):
    config = model.config
    whole = slot_bytes(config, config.max_positions, FP32)
    assert fit(config, CPU, FP32, None, None, memory=whole * 1000) == (16, config.max_positions)
    assert fit(config, CPU, FP32, None, None, memory=whole * 5) == (5, config.max_positions)
    slots, capacity = fit(config, CPU, FP32, None, None, memory=whole // 3)
    assert (slots >= 1, capacity) == (True, config.max_positions // 4)
    assert fit(config, CPU, FP32, 4, None, memory=whole)[0] == 4
    assert fit(config, CPU, FP32, 40, 64, memory=whole * 40) == (40, 64)


@pytest.mark.parametrize(
    ("slots", "capacity", "memory"),
    [(4, 8192, 2**20), (None, 8192, 2**20), (None, None, 1000), (0, None, 2**30), (1, 0, 2**30)],
)
def test_sizes_that_do_not_fit_are_refused(model, slots, capacity, memory):
    with pytest.raises(UserError, match=r"slots|capacity"):
        fit(model.config, CPU, FP32, slots, capacity, memory=memory)


def test_the_cache_grows_and_keeps_what_it_holds(model):
    pool = Pool(model.config, 2, 5000, CPU, FP32)
    assert pool.cache.capacity == FIRST_CAPACITY
    memory = next(layer for layer in pool.cache.layers if isinstance(layer, KeyValues))
    memory.keys.normal_()
    before = memory.keys.clone()
    pool.reserve(FIRST_CAPACITY + 1)
    assert pool.cache.capacity == memory.keys.shape[2] == 2 * FIRST_CAPACITY
    assert torch.equal(memory.keys[:, :, :FIRST_CAPACITY], before)
    pool.reserve(5000)
    assert pool.cache.capacity == memory.values.shape[2] == 5000


def test_a_sequence_that_outgrows_the_first_cache_goes_on_right(model):
    prompt = [7 * i % 300 for i in range(FIRST_CAPACITY - 6)]
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    engine = Engine(model, slots=2, capacity=2000)
    grown, other = engine.generate([prompt, [1, 2]], params)
    tokens = torch.tensor([prompt + grown.tokens])
    with torch.inference_mode():
        best = model.logits(tokens)[0, len(prompt) - 1 : -1].argmax(-1).tolist()
    assert grown.tokens == best
    assert other == Engine(model, slots=1, capacity=64).generate([[1, 2]], params)[0]


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
