"""The cost model, held against shapes, a fake process group, and what a layer keeps."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cairn.base import UserError
from cairn.model import ModelConfig, Spans, build
from cairn.model.decoder import skeleton
from cairn.model.devices import device
from cairn.model.shapes import parameter_shapes
from cairn.train import TrainSettings
from cairn.train.costs import (
    Step,
    best_layout,
    cast_elements,
    facts,
    kept_bytes,
    local_elements,
    memory,
    mfu,
    times,
    traffic,
)
from cairn.train.parallel import Parallel

H100 = device("H100")
NODE = Parallel(shard=8)
SETTINGS = TrainSettings(steps=10, sequences=2, accumulate=8, sequence_length=8192)


def step_of(name="nemotron-h-8b", layout=NODE, settings=SETTINGS, **more) -> Step:
    return Step(ModelConfig.preset(name), settings, layout, H100, **more)


@pytest.mark.parametrize("name", ModelConfig.presets())
def test_shapes_are_those_of_the_model(name):
    config = ModelConfig.preset(name)
    told = {k: v for _, shapes in parameter_shapes(config) for k, v in shapes.items()}
    assert told == {k: tuple(p.shape) for k, p in skeleton(config).named_parameters()}


CHILD = """
import sys, json
from dataclasses import replace
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from cairn.model import ModelConfig, Spans, build
from cairn.model.decoder import skeleton
from cairn.model.sharding import share_of

name, data, shard, tensor = sys.argv[1], *map(int, sys.argv[2:])
world = data * shard * tensor
dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
mesh = init_device_mesh("cpu", (data, shard, tensor), mesh_dim_names=("data", "shard", "tensor"))
mesh = mesh["data", "shard"]
config = ModelConfig.preset(name) if "-" in name else ModelConfig(**json.loads(name))

def share(model):
    for block in model.backbone.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)

model = skeleton(replace(share_of(config, tensor), vocab_size=config.vocab_size // tensor))
share(model)
found = {"elements": sum(p.to_local().numel() for p in model.parameters())}
if world <= 16:  # small enough to be run: what passes between ranks is counted, and not sent
    moved = {"gather": 0, "scatter": 0, "all": 0}
    kinds = {"_allgather_base_": ("gather", 0), "_reduce_scatter_base_": ("scatter", 1)}
    kinds["allreduce_"] = ("all", 0)

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            kind = kinds.get(function._schema.name.partition("::")[2])
            if kind:
                given = args[kind[1]]
                for tensor in given if isinstance(given, list | tuple) else [given]:
                    moved[kind[0]] += tensor.numel() * tensor.element_size()
            return function(*args, **(kwargs or {}))

    model = build(config, 0)
    share(model)
    ids = torch.arange(64) % config.vocab_size
    with Count():
        model(ids, Spans.of([64])).logsumexp(1).sum().backward()
    found |= moved
print(json.dumps(found))
"""


def on_fake_ranks(name: str, data: int, shard: int, tensor: int) -> dict[str, int]:
    """What rank 0 of so many holds and passes; no other process exists."""
    import json

    source = str(Path(__file__).resolve().parents[2] / "src")
    command = [sys.executable, "-c", CHILD, name, str(data), str(shard), str(tensor)]
    environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_memory_of_the_56b_at_6144_ranks_is_what_fsdp_keeps():
    layout = Parallel(data=12, shard=64, tensor=8)
    assert 12 * 64 * 8 == 6144
    wide = replace(SETTINGS, accumulate=1536)
    step = step_of("nemotron-h-56b", layout, wide)
    kept = sum(own for _, own in local_elements(step).values())
    assert on_fake_ranks("nemotron-h-56b", 12, 64, 8)["elements"] == kept
    assert memory(step)["parameters"] == 4 * kept
    assert memory(step)["optimizer"] == 8 * kept
    # 16 bytes a parameter, over all ranks that share a copy; the rest is rounding up of rows
    assert 4 * 4 * kept * 64 * 8 == pytest.approx(16 * step.config.parameters, rel=0.01)


SMALL = {
    "pattern": "M-*-M-",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "attention_heads": 4,
    "key_value_heads": 2,
    "head_dim": 16,
    "mamba_heads": 8,
    "mamba_head_dim": 16,
    "state_size": 16,
    "groups": 2,
    "chunk_size": 32,
}


@pytest.mark.parametrize(("data", "shard"), [(1, 8), (2, 4)])
def test_bytes_over_links_are_what_fsdp_passes(data, shard):
    import json

    told = on_fake_ranks(json.dumps(SMALL).replace("-", "\\u002d"), data, shard, 1)
    settings = TrainSettings(steps=1, sequences=1, accumulate=8, sequence_length=64)
    step = Step(ModelConfig(**SMALL), settings, Parallel(data=data, shard=shard), H100)
    assert step.micro_batches == 1
    found = {k: v for link in traffic(step).values() for k, v in link.items()}
    far = (shard - 1) / shard
    # Rows are padded to equal parts before they are passed.
    assert found["gather parameters"] == pytest.approx(told["gather"] * far, rel=0.03)
    assert found["scatter gradients"] == pytest.approx(told["scatter"] * far, rel=0.03)
    if data > 1:
        passed = told["all"] * 2 * (data - 1) / data
        assert found["sum copies"] == pytest.approx(passed, rel=0.03)


@pytest.mark.parametrize("letter", ["*", "-"])
def test_what_a_layer_keeps_is_what_autograd_saves(letter):
    """In plain torch under autocast; a Mamba-2 layer keeps so little in its fused kernels alone."""
    shape = SMALL | {"hidden_size": 256, "intermediate_size": 1024, "head_dim": 64}
    tokens = 1280  # a size that no matrix has

    def saved(pattern: str) -> tuple[int, int]:
        model = build(ModelConfig(**(shape | {"pattern": pattern})), 0)
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in own:
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16),
        ):
            hidden = model.hidden(torch.arange(tokens) % 512, Spans.of([tokens]))
        assert hidden.requires_grad
        sizes = [(tokens in t.shape, t.untyped_storage().nbytes()) for t in kept.values()]
        return sum(n for of, n in sizes if of), sum(n for of, n in sizes if not of)

    more, fewer = saved(f"-{letter}{letter}-"), saved(f"-{letter}-")
    step = Step(ModelConfig(**shape), SETTINGS, NODE, H100)
    assert kept_bytes(step, letter) == pytest.approx((more[0] - fewer[0]) / tokens, rel=0.2)
    # and the layer's matrices, cast to bf16
    alone = replace(step, config=ModelConfig(**(shape | {"pattern": letter})))
    assert 2 * cast_elements(alone) == pytest.approx(more[1] - fewer[1], rel=0.02)
    assert cast_elements(replace(alone, recompute=letter)) == 0


def test_more_ranks_hold_less_and_pass_more():
    alone, many = step_of(layout=Parallel(shard=2)), step_of(layout=Parallel(shard=8))
    assert memory(many)["optimizer"] == pytest.approx(memory(alone)["optimizer"] / 4, rel=0.01)
    assert not traffic(alone)["network"]
    hybrid = traffic(step_of(layout=Parallel(data=2, shard=4, tensor=2)))
    assert set(hybrid["node"]) == {"gather parameters", "scatter gradients", "pass tokens"}
    assert set(hybrid["network"]) == {"sum copies"}
    again = step_of(layout=Parallel(shard=8), recompute="M*-")
    assert memory(again)["activations"] < memory(many)["activations"] / 5
    assert times(again)["matrix products"] == pytest.approx(
        times(many)["matrix products"] * 4 / 3, rel=0.03
    )


def test_fp8_is_faster_and_time_makes_mfu():
    narrow = step_of(settings=replace(SETTINGS, precision="current"))
    wide = step_of(settings=replace(SETTINGS, precision="bf16"))
    assert times(narrow)["matrix products"] < times(wide)["matrix products"]
    told = facts(wide)
    assert told["mfu"] == mfu(wide, told["seconds"]["whole"])
    parts = sum(v for k, v in told["seconds"].items() if k != "whole")
    assert told["seconds"]["whole"] == pytest.approx(parts)


def test_the_best_layout_fits_and_impossible_ones_are_refused():
    step = best_layout(ModelConfig.preset("nemotron-h-8b"), SETTINGS, 16, H100)
    assert step.gpus == 16
    assert facts(step)["fits"]
    said = replace(SETTINGS, parallel=Parallel(data=2, tensor=4), recompute="M")
    step = best_layout(ModelConfig.preset("nemotron-h-8b"), said, 16, H100)
    assert (step.layout.shard, step.readers, step.recompute) == (2, 4, "M")
    with pytest.raises(UserError, match="does not make 12"):
        best_layout(ModelConfig.preset("nemotron-h-8b"), said, 12, H100)
    with pytest.raises(UserError, match="gpus=7"):
        best_layout(ModelConfig.preset("nemotron-h-8b"), SETTINGS, 7, H100)
    with pytest.raises(UserError, match="readers=3"):
        step_of(layout=Parallel(shard=3))


@pytest.mark.parametrize(
    ("layers", "precision", "measured"),
    [
        (10, "bf16", 0.1205),
        (26, "bf16", 0.3315),
        (26, "current", 0.2407),
        (26, "block", 0.2489),
        (52, "bf16", 0.6398),
        (52, "current", 0.4606),
        (52, "block", 0.4871),
    ],
)
def test_forward_and_backward_on_an_h200_take_what_was_measured(layers, precision, measured):
    """Seconds of the first layers of the 8B at 8,192 tokens: bench/layers.py, docs/training.md."""
    whole = ModelConfig.preset("nemotron-h-8b")
    config = replace(whole, pattern=whole.pattern[:layers], vocab_size=256)
    settings = TrainSettings(steps=1, sequences=1, sequence_length=8192, precision=precision)
    found = times(Step(config, settings, Parallel(shard=1), device("H200")))
    assert found["whole"] - found["optimizer"] == pytest.approx(measured, rel=0.05)
