"""Checkpoints: what transformers reads and writes, and what is refused."""

import dataclasses
import json
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cairn.base import UserError
from cairn.model import Cache, Spans, build, checkpoint, load, save
from cairn.model.stored import Maps, stored_in

NEAR = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(61, (3, 21), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def theirs(tiny, roughen):
    """A random nemotron_h of transformers, with a negligible smallest time step."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    made = transformers.NemotronHForCausalLM(transformers.NemotronHConfig(**tiny.to_json()))
    return roughen(made).eval()


@torch.no_grad()
def steps(model, ids: torch.Tensor) -> torch.Tensor:
    """Our logits [B, L, V], token by token."""
    batch, length = ids.shape
    cache = Cache(model.config, batch, length)
    each = [model(ids[:, t], Spans.of([1] * batch), cache) for t in range(length)]
    return torch.stack(each, 1)


@torch.no_grad()
def their_steps(model, ids: torch.Tensor) -> torch.Tensor:
    """Their logits [B, L, V], token by token with their cache."""
    past, each = None, []
    for t in range(ids.shape[1]):
        out = model(ids[:, t : t + 1], past_key_values=past, use_cache=True)
        past = out.past_key_values
        each.append(out.logits[:, 0])
    return torch.stack(each, 1)


@torch.no_grad()
def test_their_checkpoint_gives_their_logits_here(theirs, ids, tmp_path):
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    wanted = theirs(ids).logits
    assert wanted.std() > 0.3  # logits that a mistake could change
    torch.testing.assert_close(ours.logits(ids), wanted, **NEAR)
    torch.testing.assert_close(steps(ours, ids), wanted, **NEAR)


@torch.no_grad()
def test_our_checkpoint_gives_our_logits_there(model, ids, tmp_path):
    transformers = pytest.importorskip("transformers")
    save(model, tmp_path, eos_token_ids=(2, 7))
    theirs, found = transformers.NemotronHForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(found.values())
    wanted = model.logits(ids)
    torch.testing.assert_close(theirs(ids).logits, wanted, **NEAR)
    torch.testing.assert_close(their_steps(theirs, ids), wanted, **NEAR)
    assert theirs.generation_config.eos_token_id == [2, 7]


@torch.no_grad()
def test_tied_embeddings_travel_both_ways(tiny, roughen, ids, tmp_path):
    transformers = pytest.importorskip("transformers")
    tied = roughen(build(dataclasses.replace(tiny, tie_embeddings=True)))
    save(tied, tmp_path)
    theirs = transformers.NemotronHForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(theirs(ids).logits, tied.logits(ids), **NEAR)
    again = load(tmp_path)
    assert again.lm_head.weight is again.backbone.embeddings.weight
    torch.testing.assert_close(again.logits(ids), tied.logits(ids), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load_give_back_every_bit(tiny, roughen, tmp_path, dtype):
    model = roughen(build(tiny, seed=2, dtype=dtype))
    save(model, tmp_path / "one")
    again = load(tmp_path / "one")
    assert again.dtype == dtype
    for name, tensor in model.state_dict().items():
        assert again.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(again.state_dict()[name], tensor), name
    save(again, tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    assert load(tmp_path / "one", dtype=torch.float32).dtype == torch.float32


def test_the_prefix_of_transformers_and_the_singular_name_are_read(model, tmp_path):
    save(model, tmp_path)
    stored = load_file(tmp_path / checkpoint.WEIGHTS)
    renamed = {
        name.replace("backbone.", "model.").replace("embeddings", "embedding"): tensor
        for name, tensor in stored.items()
    }
    save_file(renamed, tmp_path / checkpoint.WEIGHTS)
    assert torch.equal(load(tmp_path).lm_head.weight, model.lm_head.weight)


@torch.no_grad()
def test_shards_and_their_index(model, ids, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    save(model, tmp_path)
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 10_000)
    save(model, tmp_path)
    assert not (tmp_path / checkpoint.WEIGHTS).exists()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    torch.testing.assert_close(load(tmp_path).logits(ids), model.logits(ids), rtol=0, atol=0)
    theirs = transformers.NemotronHForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(theirs(ids).logits, model.logits(ids), **NEAR)
    next(tmp_path.glob("model-00002-*")).unlink()
    with pytest.raises(UserError, match=r"model-00002.*not in the folder"):
        load(tmp_path)
    monkeypatch.undo()
    save(model, tmp_path)
    assert [path.name for path in tmp_path.glob("model*")] == [checkpoint.WEIGHTS]


def test_misfits_are_named_in_one_line(model, tmp_path):
    save(model, tmp_path)
    stored = load_file(tmp_path / checkpoint.WEIGHTS)
    del stored["backbone.layers.0.mixer.D"]
    stored["backbone.layers.99.norm.weight"] = torch.ones(24)
    stored["backbone.norm_f.weight"] = torch.ones(25)
    save_file(stored, tmp_path / checkpoint.WEIGHTS)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert "missing: backbone.layers.0.mixer.D" in message
    assert "not in the model: backbone.layers.99.norm.weight" in message
    assert "backbone.norm_f.weight [25] instead of [24]" in message
    assert "\n" not in message


def test_truncated_weights_are_refused(model, tmp_path):
    save(model, tmp_path)
    path = tmp_path / checkpoint.WEIGHTS
    whole = path.read_bytes()
    for keep in (0, 5, 200):
        path.write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"model\.safetensors is truncated or damaged"):
            load(tmp_path)
    for keep in (len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"truncated: .* in model\.safetensors"):
            load(tmp_path)


def test_pickles_are_never_opened(model, tmp_path):
    save(model, tmp_path)
    (tmp_path / checkpoint.WEIGHTS).rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin.*run any code"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"has no config\.json"):
        load(tmp_path / "nowhere")


def test_an_interrupted_save_leaves_the_old_file(model, tiny, tmp_path, monkeypatch):
    save(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save(build(tiny, seed=9), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_config_tells_transformers_not_to_clamp_the_time_step(model, tmp_path):
    save(model, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["time_step_min"] == 1e-12
    assert written["dtype"] == "float32"
    assert written["hybrid_override_pattern"] == model.config.pattern


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_cannot_point_out_of_its_folder(model, tmp_path, name):
    save(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="shards lie beside their index"):
        load(tmp_path)


@torch.no_grad()
def test_mapped_weights_are_those_that_are_read_and_their_file_never_changes(model, ids, tmp_path):
    save(model, tmp_path, max_shard_size=20_000)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    mapped, apart = load(tmp_path), load(tmp_path, mapped=False)
    for name, tensor in apart.state_dict().items():
        assert torch.equal(mapped.state_dict()[name], tensor), name
    for parameter in mapped.parameters():
        parameter.add_(1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    torch.testing.assert_close(load(tmp_path).logits(ids), model.logits(ids), rtol=0, atol=0)
    again = load(tmp_path)
    save(mapped, tmp_path)  # replaced, not overwritten: the other still has what it had
    torch.testing.assert_close(again.logits(ids), model.logits(ids), rtol=0, atol=0)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for pages of a map")
def test_a_map_is_read_ahead_whole_from_its_beginning(tmp_path):
    path, size = tmp_path / "w.safetensors", 40 * 2**20  # more than is asked for at a time
    save_file({"w": torch.zeros(size // 4)}, path)
    maps = Maps()
    kept = maps.view(stored_in(path)[0])
    assert kept is not None
    assert resident(path) < size // 2
    maps.read_ahead()
    for thread in [t for t in threading.enumerate() if t.name == "read-ahead"]:
        thread.join(60)
    assert resident(path) >= size


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(str(path)):
            return 1024 * int(next(row for row in lines if row.startswith("Rss:")).split()[1])
    raise AssertionError(f"{path} is not mapped")


def test_other_types_and_damaged_headers(model, tmp_path):
    save(model, tmp_path)
    stored = load_file(tmp_path / checkpoint.WEIGHTS)
    save_file({name: t.half() for name, t in stored.items()}, tmp_path / checkpoint.WEIGHTS)
    assert load(tmp_path).dtype == torch.float16
    assert load(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
    save_file({n: (t.char() if "q_proj" in n else t) for n, t in stored.items()}, tmp_path / "one")
    (tmp_path / "one").replace(tmp_path / checkpoint.WEIGHTS)
    with pytest.raises(UserError, match=r"of another type: .*q_proj\.weight I8"):
        load(tmp_path)
    header = b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}'
    whole = len(header).to_bytes(8, "little") + header + bytes(64)
    (tmp_path / checkpoint.WEIGHTS).write_bytes(whole)
    with pytest.raises(UserError, match="a has other bytes than its shape"):
        load(tmp_path)
    (tmp_path / checkpoint.WEIGHTS).write_bytes((10**12).to_bytes(8, "little") + bytes(64))
    with pytest.raises(UserError, match="its header is cut short"):
        load(tmp_path)


def _rewritten(path: Path, change) -> None:
    """A file of safetensors whose header, as JSON text, `change` has seen."""
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = change(json.loads(whole[8 : 8 + size]), whole[8 : 8 + size].decode().rstrip())
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + whole[8 + size :])


LAST = "backbone.norm_f.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, _: json.dumps(h | {LAST: h[LAST] | {"data_offsets": [-96, 0]}}), "whole number"),
        (lambda h, _: json.dumps(h | {LAST: h[LAST] | {"data_offsets": [0, 96]}}), "not begin"),
        (lambda h, _: json.dumps(h | {LAST: h[LAST] | {"data_offsets": [0.0, 96.0]}}), "whole"),
        (lambda h, _: json.dumps(h | {LAST: h[LAST] | {"shape": [24.5]}}), "whole numbers"),
        (lambda h, _: json.dumps(h | {LAST: h[LAST] | {"shape": ["24"]}}), "whole numbers"),
        (lambda h, text: f"{text[:-1]}, {json.dumps({LAST: h[LAST]})[1:]}", "is there twice"),
        (lambda h, _: "{}", "are no tensor's"),
        (lambda h, _: "[" * 100_000, "recursion"),
    ],
)
def test_headers_that_contradict_themselves_or_their_file(model, tmp_path, change, message):
    save(model, tmp_path)
    _rewritten(tmp_path / checkpoint.WEIGHTS, change)
    with pytest.raises(UserError, match=rf"model\.safetensors is truncated or damaged.*{message}"):
        load(tmp_path)


def test_bytes_behind_the_last_tensor_are_told(model, tmp_path):
    save(model, tmp_path)
    with (tmp_path / checkpoint.WEIGHTS).open("ab") as file:
        file.write(b"12345")
    with pytest.raises(UserError, match="5 bytes are no tensor's"):
        load(tmp_path)


@pytest.mark.parametrize(
    "index",
    ["[]", '{"weight_map": {"a": ["x"]}}', '{"weight_map": {"a": 1, "b": "c"}}', "[" * 99_999],
)
def test_an_index_that_is_none_is_told(model, tmp_path, index):
    save(model, tmp_path)
    (tmp_path / checkpoint.INDEX).write_text(index)
    with pytest.raises(UserError, match=r"index\.json.*fetch it anew"):
        load(tmp_path)


@torch.no_grad()
def test_a_whole_file_is_read_before_an_index_that_lies_beside_it(model, ids, tmp_path, roughen):
    """As transformers does: what is left of an older save in shards is not mixed in."""
    transformers = pytest.importorskip("transformers")
    save(roughen(build(model.config, seed=5)), tmp_path, max_shard_size=20_000)
    save(model, tmp_path / "other")
    (tmp_path / "other" / checkpoint.WEIGHTS).rename(tmp_path / checkpoint.WEIGHTS)
    theirs = transformers.NemotronHForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(load(tmp_path).logits(ids), model.logits(ids), rtol=0, atol=0)
    torch.testing.assert_close(theirs(ids).logits, model.logits(ids), **NEAR)


@torch.no_grad()
def test_the_one_of_tied_matrices_that_is_stored_serves_for_both(tinies, ids, tmp_path, roughen):
    transformers = pytest.importorskip("transformers")
    tied = roughen(build(dataclasses.replace(tinies["qwen3"], tie_embeddings=True)))
    save(tied, tmp_path)
    stored = load_file(tmp_path / checkpoint.WEIGHTS)
    stored["lm_head.weight"] = stored.pop("model.embed_tokens.weight")
    save_file(stored, tmp_path / checkpoint.WEIGHTS, metadata={"format": "pt"})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(load(tmp_path).logits(ids), tied.logits(ids), rtol=0, atol=0)
    torch.testing.assert_close(theirs(ids).logits, tied.logits(ids), **NEAR)
    for scalar in ({"lm_head.weight"}, {"lm_head.weight", "model.embed_tokens.weight"}):
        save_file(stored | {name: torch.tensor(1.0) for name in scalar}, tmp_path / "scalar")
        (tmp_path / "scalar").replace(tmp_path / checkpoint.WEIGHTS)
        with pytest.raises(UserError, match=r"of another shape: .* \[\] instead of \[61, 24\]"):
            load(tmp_path)
