"""A model on two processes draws the tokens that it draws on one, whatever else happens."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from cairn.base import UserError
from cairn.engine import Caching, Engine, SamplingParams, Speculation
from cairn.model import ModelConfig, build, save

VOCAB = 43  # which two do not divide
WIDTHS = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "attention_heads": 4,
    "key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
    "eos_token_ids": (0,),
    "bos_token_id": 0,
}
HYBRID = {
    "pattern": "M-*M*-",
    "mamba_heads": 4,
    "mamba_head_dim": 8,
    "state_size": 16,
    "groups": 2,
    "chunk_size": 8,
}
DENSE = {  # one key head for both ranks, biases, a window, and one matrix for both ends
    "pattern": "*-*-",
    "family": "qwen2",
    "norm_eps": 1e-6,
    "activation": "silu",
    "gated": True,
    "rope_theta": 10000.0,
    "qkv_bias": True,
    "sliding_window": 40,
    "full_attention": (1,),
    "pad_token_id": None,
    "key_value_heads": 1,
    "tie_embeddings": True,
}
KINDS = {"hybrid": HYBRID, "dense": DENSE}
MEMORY = 64 * 1024  # of each rank: pages for about two sequences
SWAP = {"hybrid": 48 * 1024, "dense": 96 * 1024}  # for one sequence on both
GREEDY = SamplingParams(max_tokens=14, temperature=0, ignore_eos=True)


def folder_of(kind: str, path: Path, seed: int = 3) -> Path:
    save(build(ModelConfig(vocab_size=VOCAB, **(WIDTHS | KINDS[kind])), seed=seed), path)
    return path


def prompts() -> list[list[int]]:
    """Some begin alike, one repeats itself, and all are longer than a step but one."""
    base = [(7 * i * i + 3 * i) % VOCAB for i in range(150)]
    return [base, base[:70] + base[90:120], [5, 6, 7] * 30, [9], base[:100], [11, 2] * 25]


def tokens(engine: Engine) -> list[list[int]]:
    return [one.tokens for one in engine.generate(prompts(), GREEDY)]


def crowded(engine: Engine) -> list[list[int]]:
    """The same, where the later requests take the slots of the earlier ones."""
    ids, found = [], {}
    for number, prompt in enumerate(prompts()):
        ids.append(engine.add(prompt, GREEDY, priority=number))
        for _ in range(7):
            for delta in engine.step():
                if delta.completion is not None:
                    found[delta.id] = delta.completion.tokens
    while engine.busy:
        for delta in engine.step():
            if delta.completion is not None:
                found[delta.id] = delta.completion.tokens
    return [found[number] for number in ids]


@pytest.mark.parallel
@pytest.mark.parametrize("kind", list(KINDS))
def test_two_ranks_draw_what_one_process_draws(kind, tmp_path):
    """Chunks, preemption of both kinds, prefix hits, evicted pages, guesses, other weights."""
    folder = folder_of(kind, tmp_path / "model")
    other = folder_of(kind, tmp_path / "other", seed=4)
    alone = Engine(folder, slots=3, capacity=256)
    plain = tokens(alone)
    warm = SamplingParams(max_tokens=14, temperature=0.8, seed=5, logprobs=2, prompt_logprobs=1)
    drawn = alone.generate(prompts(), warm)
    engine = Engine(
        folder,
        slots=2,
        capacity=176,
        token_budget=37,
        memory=MEMORY,
        caching=Caching(host_bytes=2**18, swap_bytes=SWAP[kind]),
        speculation=Speculation(most=3),
        ranks=2,
    )
    try:
        assert crowded(engine) == plain
        assert engine.load.reuse.swapped
        assert engine.load.reuse.recomputed
        for _ in range(2):
            assert tokens(engine) == plain
            engine.generate([[(n * place) % VOCAB for place in range(120)] for n in (2, 3)], GREEDY)
        together = engine.generate(prompts(), warm)
        assert [one.tokens for one in together] == [one.tokens for one in drawn]
        for mine, theirs in zip(together, drawn, strict=True):
            torch.testing.assert_close(mine.logprobs, theirs.logprobs, atol=1e-4, rtol=0)
            read = [one.prompt_logprobs or [] for one in (mine, theirs)]
            torch.testing.assert_close(read[0][1:], read[1][1:], atol=1e-4, rtol=0)
        load = engine.load
        assert load.reuse.hits
        assert load.tokens_accepted
        assert load.reuse.blocks_read
        count = engine.load_weights(other)
        assert count
        assert tokens(engine) == tokens(Engine(other, slots=3, capacity=256))
        with pytest.raises(UserError, match="checkpoint"):
            engine.load_weights(tmp_path / "nothing")
        assert tokens(engine) == tokens(Engine(other, slots=3, capacity=256))
    finally:
        engine.close()


two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
devices = pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.parallel),
        pytest.param("cuda", marks=[pytest.mark.gpu, two_gpus]),
    ],
)


@pytest.mark.gpu
@two_gpus
@pytest.mark.parametrize("kind", list(KINDS))
def test_two_gpus_draw_what_one_draws(kind, tmp_path):
    """Graphs, and steps that are launched ahead."""
    folder = folder_of(kind, tmp_path)
    same = {"device": "cuda", "dtype": torch.float32, "slots": 3, "capacity": 256}
    plain = tokens(Engine(folder, **same))
    engine = Engine(folder, **same, ranks=2)
    try:
        assert crowded(engine) == plain
        assert [tokens(engine) for _ in range(2)] == [plain] * 2
        assert engine.load.reuse.hits
    finally:
        engine.close()


@devices
def test_a_rank_that_dies_is_an_error_and_no_hang(device, tmp_path):
    folder = folder_of("dense", tmp_path)
    engine = Engine(folder, device=device, slots=2, capacity=256, ranks=2)
    heard: list[str] = []
    engine.when_lost(heard.append)
    try:
        stream = engine.stream([3, 4, 5], SamplingParams(max_tokens=200, ignore_eos=True))
        next(stream)
        assert engine._team is not None
        os.kill(engine._team._processes[0].pid or 0, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(RuntimeError, match="rank 1 ended: SIGKILL"):
            list(stream)
        assert time.monotonic() - began < 20
        assert heard == [engine.lost] == ["rank 1 ended: SIGKILL"]
        with pytest.raises(RuntimeError, match="rank 1 ended"):
            engine.generate([[1]], GREEDY)
    finally:
        engine.close()


def listening(processes: list[int]) -> set[str]:
    """Addresses, in hex, on which processes listen, each with its port."""
    open_files = [fd for pid in processes for fd in Path(f"/proc/{pid}/fd").iterdir()]
    own = {str(fd.readlink()) for fd in open_files if fd.is_symlink()}
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in (Path("/proc/net") / name).read_text().splitlines()[1:]
    ]
    return {line[1] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in own}


@devices
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's list of sockets")
def test_ranks_listen_on_this_machine_alone(device, tmp_path):
    before = listening([os.getpid()])
    engine = Engine(folder_of("dense", tmp_path), device=device, slots=2, capacity=64, ranks=2)
    try:
        assert engine._team is not None
        others = [process.pid or 0 for process in engine._team._processes]
        opened = listening([os.getpid(), *others]) - before
        assert listening([os.getpid()]) - before
        assert opened
        assert {address.split(":")[0] for address in opened} == {"0100007F"}
    finally:
        engine.close()


def test_what_ranks_cannot_do_is_refused_before_a_process_starts(tmp_path):
    folder = folder_of("hybrid", tmp_path / "model")
    with pytest.raises(UserError, match="ranks=3: does not divide"):
        Engine(folder, ranks=3)
    with pytest.raises(UserError, match="disk"):
        Engine(folder, ranks=2, caching=Caching(disk=tmp_path / "prefixes"))
    with pytest.raises(UserError, match="invariant"):
        Engine(folder, ranks=2, invariant=True)
    with pytest.raises(UserError, match="ranks are for folders"):
        Engine(build(ModelConfig(vocab_size=VOCAB, **(WIDTHS | HYBRID)), seed=0), ranks=2)
    with pytest.raises(UserError, match="ranks=0"):
        Engine(folder, ranks=0)
