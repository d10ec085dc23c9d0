"""`cairn show`: a page for people, the same facts as JSON, a roofline from a table of devices."""

import dataclasses
import json

import pytest

from cairn.base import UserError
from cairn.cli import main
from cairn.model import ModelConfig
from cairn.model.devices import DEVICES, device
from cairn.model.page import facts

PROMISED = [
    "name",
    "pattern",
    "layers",
    "parameters",
    "parameters_without_embeddings",
    "weight_bytes",
    "kv_bytes_per_token",
    "state_bytes_per_sequence",
    "flops_per_token",
    "total_bytes",
]


@pytest.mark.parametrize("name", ModelConfig.presets())
def test_every_preset_has_a_page(name, capsys):
    assert main(["show", name, "--context", "4096", "--batch", "2", "--gpus", "2"]) == 0
    page = capsys.readouterr().out
    for word in (name, "weights", "keys and values", "prefill", "decode", "2 x RTX 5090", "B200"):
        assert word in page
    assert f"{ModelConfig.preset(name).parameters:,}" in page


def test_json_has_what_is_promised_and_adds_up(capsys):
    arguments = ["show", "nemotron-nano-9b-v2", "--context", "131072", "--batch", "3", "--json"]
    assert main([*arguments, "--device", "rtx5090"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(PROMISED) <= set(found)
    assert sum(found["parameters_by_kind"].values()) == found["parameters"] == 8_888_227_328
    parts = ("weight_bytes", "kv_bytes", "state_bytes", "activation_bytes")
    assert sum(found[part] for part in parts) == found["memory_bytes"]
    assert found["total_bytes"] == found["memory_bytes"] - found["activation_bytes"]
    assert list(found["roofline"]) == ["RTX 5090"]


def test_a_checkpoint_has_a_page(tinies, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(tinies["qwen2"].to_json()))
    assert main(["show", str(tmp_path)]) == 0
    assert tmp_path.name in capsys.readouterr().out


def test_prefill_pays_half_of_the_attention_and_a_window_bounds_it():
    config = ModelConfig.preset("llama-3.1-8b")
    found = facts(config, context=8192, batch=1)
    ratio = found["attention_flops_per_token"] / (
        found["prefill_flops_per_token"] - found["matmul_flops_per_token"]
    )
    assert 1.99 < ratio < 2
    windowed = ModelConfig.preset("starcoder2-3b")
    near, far = (facts(windowed, context=n, batch=1) for n in (4096, 16_384))
    assert near["attention_flops_per_token"] == far["attention_flops_per_token"]
    assert near["kv_bytes"] == far["kv_bytes"] == 4096 * far["kv_bytes_per_token"]
    assert far["total_bytes"] == far["weight_bytes"] + far["kv_bytes"]
    free = dataclasses.replace(windowed, sliding_window=None)
    wide = facts(free, context=16_384, batch=1)
    assert wide["attention_flops_per_token"] == 4 * far["attention_flops_per_token"]
    assert wide["kv_bytes"] == 4 * far["kv_bytes"]


def test_the_roofline_is_bytes_or_flops_over_rates():
    config = ModelConfig.preset("nemotron-h-8b")
    found = facts(config, context=8192, batch=1, devices=[DEVICES["H100"]])
    line = found["roofline"]["H100"]
    weights = (config.parameters - config.vocab_size * config.hidden_size) * 2
    moved = weights + 8192 * 16_384 + 2 * config.state_bytes_per_sequence()
    assert found["decode_bytes_per_step"] == moved
    assert line["decode_tokens_per_second"] == pytest.approx(3.35e12 / moved)
    assert line["decode_bound_by"] == "memory"
    best = 989.4e12 / found["prefill_flops_per_token"]
    assert line["prefill_tokens_per_second"] == pytest.approx(best)
    assert (line["prefill_bound_by"], line["fits"]) == ("arithmetic", True)


def test_the_longest_context_of_the_9b_on_one_a10g_fits():
    """The Nano 2 report's aim: 128k tokens on 22 GiB."""
    found = facts(ModelConfig.preset("nemotron-nano-9b-v2"), 131_072, 1, 1, [DEVICES["A10G"]])
    assert found["roofline"]["A10G"]["fits"]


def test_a_measured_device_that_is_too_small_is_told_so(capsys):
    assert main(["show", "nemotron-h-56b", "--device", "cpu", "--context", "2000000"]) == 0
    assert "measured now, does not fit" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nemotron-h-8b", "base.steps=3"], "rest='base.steps=3': is of plans, not of models"),
        (["plans/pico.py", "--context", "99"], "context=99: is of models, not of plans"),
        (["plans/pico.py", "--paths"], "paths=True: is of models, not of plans"),
    ],
)
def test_what_says_nothing_is_refused(arguments, said, capsys):
    assert main(["show", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_devices_by_any_spelling_and_this_cpu_by_measuring():
    assert device("h100") is device("H100") is DEVICES["H100"]
    with pytest.raises(UserError, match=r"device='H10'.*did you mean 'H100'"):
        device("H10")
    cpu = device("cpu")
    assert cpu.measured
    assert 1e8 < cpu.bandwidth < 1e13
    assert 1e8 < cpu.rate("float32") < 1e15
