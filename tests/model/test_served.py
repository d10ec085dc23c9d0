"""Which code serves each layer: told by `Decoder.paths` and `cairn show CHECKPOINT --paths`."""

import json
from dataclasses import replace

import pytest
import torch

from cairn.cli import main
from cairn.engine.weights import join_weights
from cairn.model import build, save
from cairn.model.served import AROUND
from cairn.ops import paths


def test_every_layer_tells_its_operations(tiny):
    rows = build(tiny).paths()
    by_layer = {i: {row.op for row in rows if row.layer == i} for i in range(len(tiny.pattern))}
    wanted = {"M": "mamba_inner", "*": "attention", "-": "squared_relu"}
    for i, letter in enumerate(tiny.pattern):
        assert {"rms_norm", wanted[letter]} <= by_layer[i]
    assert {row.op for row in rows if row.layer is None} >= {"add_rms_norm"}
    assert all(row.mixer == AROUND for row in rows if row.layer is None)
    assert {call for row in rows for call in row.calls} == {"training", "prefill", "decode"}


def test_paths_that_are_asked_for_say_so(tiny):
    with paths.only("torch"):
        rows = build(tiny).paths()
    assert {(row.path, row.why) for row in rows} == {("torch", "asked for")}


def test_the_command_prints_a_row_an_operation(tiny, tmp_path, capsys):
    save(build(tiny, dtype=torch.bfloat16), tmp_path)
    assert main(["show", str(tmp_path), "--paths"]) == 0
    page = capsys.readouterr().out
    assert "why no faster one" in page
    assert page.count("Mamba-2") >= tiny.pattern.count("M")
    assert main(["show", str(tmp_path), "--paths", "--json"]) == 0
    assert {"layer", "op", "path", "why"} <= set(json.loads(capsys.readouterr().out)[0])


def test_a_preset_has_no_weights_to_run(capsys):
    assert main(["show", "nemotron-h-8b", "--paths"]) != 0
    assert "folder of a checkpoint" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_no_layer_is_slow_on_a_gpu(tiny):
    for dtype in (torch.float32, torch.bfloat16):
        model = build(tiny, device="cuda", dtype=dtype)
        join_weights(model)
        rows = model.paths()
        slow = [row for row in rows if row.path == "torch" and row.why]
        assert slow == []
        decoded = {row.op for row in rows if "decode" in row.calls and row.layer == 0}
        assert decoded == {"rms_norm", "linear", "state_update"}


def test_a_checkpoint_is_loaded_as_the_engine_loads_it(tiny, tmp_path, capsys):
    """In fp32 unless told, on a CPU whose checkpoint is in fp32; or narrow where asked for."""
    save(build(tiny), tmp_path)
    assert main(["show", str(tmp_path), "--paths"]) == 0
    assert "weights in float32, states in float32, on cpu" in capsys.readouterr().err
    asked = ["--dtype", "bfloat16", "--state", "int8"]
    assert main(["show", str(tmp_path), "--paths", *asked]) == 0
    assert "weights in bfloat16, states in int8" in capsys.readouterr().err
    assert main(["show", str(tmp_path), "--float8"]) == 2
    assert "float8=True: is of --paths" in capsys.readouterr().err
    assert main(["show", str(tmp_path), "--paths", "--batch", "3"]) == 2
    assert "batch=3: is of a page, not of --paths" in capsys.readouterr().err


def test_weights_in_8_bits_are_served_by_other_code(tiny, tmp_path, capsys):
    wide = replace(tiny, mamba_heads=16, mamba_head_dim=16, groups=2)
    save(build(wide), tmp_path)
    assert main(["show", str(tmp_path), "--paths", "--float8", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert "narrow_product" in {row["op"] for row in rows}
    assert {call for row in rows for call in row["calls"]} == {"prefill", "decode"}
