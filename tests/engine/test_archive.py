"""Prefixes on disk: what names their folder, who may read them, and files that lie."""

import json
import random
import stat
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cairn.base import UserError
from cairn.engine import Engine, SamplingParams, archive
from cairn.engine.archive import MOST_READ, _digest, digest_of
from cairn.engine.options import Caching
from cairn.engine.pool import Pool, Sizes
from cairn.engine.weights import narrow_weights
from cairn.model import Decoder, ModelConfig, build

GREEDY = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
PROMPT = [random.Random(0).randrange(40) for _ in range(330)]
STATES = (None, "float16", "int8")


@pytest.fixture(scope="module")
def hybrid() -> Decoder:
    return made(seed=3)


def made(seed: int) -> Decoder:
    """Of dimensions that FP8 products take."""
    return build(
        ModelConfig(
            pattern="M-*M",
            vocab_size=48,
            hidden_size=32,
            intermediate_size=64,
            attention_heads=4,
            key_value_heads=2,
            head_dim=8,
            mamba_heads=16,
            mamba_head_dim=16,
            state_size=16,
            groups=2,
            chunk_size=16,
            initializer_range=0.3,
            eos_token_ids=(0,),
        ),
        seed=seed,
    )


def life(model: Decoder, folder: Path, state: str | None = None) -> tuple[list[int], int]:
    """What an engine over a folder draws, and how many tokens it had from there."""
    caching = Caching(disk=folder)
    engine = Engine(model, slots=1, capacity=700, caching=caching, state_dtype=state)
    try:
        return engine.generate([PROMPT], GREEDY)[0].tokens, engine.load.reuse.from_disk
    finally:
        engine.close()


def form_of(model: Decoder):
    sizes = Sizes(1, 64, (8,), 1)
    return Pool(model.config, sizes, model.device, model.dtype).form


def file_in(folder: Path) -> Path:
    (path,) = folder.rglob("*.safetensors")
    return path


@pytest.mark.parametrize("second", STATES)
@pytest.mark.parametrize("first", STATES)
def test_states_of_another_dtype_are_not_found(hybrid, tmp_path, first, second):
    life(hybrid, tmp_path, first)
    cold = Engine(hybrid, slots=1, capacity=700, state_dtype=second).generate([PROMPT], GREEDY)
    assert life(hybrid, tmp_path, second) == (cold[0].tokens, 320 if first == second else 0)


def test_weights_in_8_bits_that_differ_in_a_scale_alone_have_folders_of_their_own():
    one, other = made(seed=3), made(seed=3)
    with torch.no_grad():
        dict(other.named_parameters())["backbone.layers.1.mixer.up_proj.weight"].mul_(2.0)
    for model in (one, other):
        narrow_weights(model)
    assert all(
        torch.equal(a.float(), b.float())
        for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )
    assert digest_of(one, form_of(one)) != digest_of(other, form_of(other))


@pytest.mark.parametrize("piece", [1000, 2**22])
def test_every_weight_names_the_folder(monkeypatch, piece):
    monkeypatch.setattr(archive, "PIECE", piece)
    model = made(seed=3)
    form = form_of(model)
    before = digest_of(model, form)
    assert digest_of(made(seed=3), form) == before
    for weight in model.parameters():
        for place in (0, weight.numel() // 2, -1):
            flat = weight.data.view(-1)
            kept = flat[place].clone()
            flat[place] += 1
            assert digest_of(model, form) != before
            flat[place] = kept
    assert digest_of(model, form) == before


def test_folders_and_files_are_their_owners_alone(hybrid, tmp_path):
    life(hybrid, tmp_path / "new" / "prefixes")
    path = file_in(tmp_path)
    found = [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent, path.parent.parent)]
    assert found == [0o600, 0o700, 0o700]
    path.chmod(0o644)
    path.parent.chmod(0o755)
    path.parent.parent.chmod(0o755)  # it may be somebody else's, and lets nobody further
    assert life(hybrid, tmp_path / "new" / "prefixes")[1] == 320
    found = [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent, path.parent.parent)]
    assert found == [0o600, 0o700, 0o755]


def lies(about: dict) -> list[object]:
    """Headers that cannot be, each in one thing."""
    values = ["x", None, True, -1, -16, 7, 1.5, 10**30, [], {}, [[0]], [-1], ["x"], [21], [0, 0]]
    values += [{"a": {"b": 1}}, "f" * 40]
    found: list[object] = [[], None, 3, "x", {}, {**about, "more": 1}]
    for name in about:
        found += [{**about, name: value} for value in values if value != about[name]]
        found.append({key: value for key, value in about.items() if key != name})
    return [one for one in found if not (isinstance(one, dict) and one.get("skipped") == [])]


def test_a_file_that_lies_about_itself_stops_nothing_and_is_not_used(hybrid, tmp_path, caplog):
    cold, _ = life(hybrid, tmp_path)
    path = file_in(tmp_path)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
    texts = [json.dumps(one) for one in lies(about)]
    for text in (*texts, "[" * 100_000, "{", "", json.dumps(about).replace("320", "1" * 5000)):
        save_file(tensors, path, {"digest": _digest(tensors, text), "about": text})
        files = archive.Archive(tmp_path, hybrid, form_of(hybrid), 2**30)
        assert not files.find(PROMPT, 320), text[:200]
        assert not path.exists()
        files.close()
    assert life(hybrid, tmp_path) == (cold, 0)
    assert "is removed" in caplog.text


def test_tensors_of_another_shape_are_not_used(hybrid, tmp_path, caplog):
    """As another process may have written under the same name meanwhile."""
    cold, _ = life(hybrid, tmp_path)
    path = file_in(tmp_path)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        about = file.metadata()["about"]
    for name, own in tensors.items():
        for other in (own.flatten(), own.double(), None):
            changed = {**tensors, name: other} if other is not None else dict(tensors)
            if other is None:
                del changed[name]
            save_file(changed, path, {"digest": _digest(changed, about), "about": about})
            assert life(hybrid, tmp_path) == (cold, 0), name
    assert "its tensors are not those of its place" in caplog.text


def test_a_folder_that_cannot_be_made_is_told_at_the_start_and_stops_nothing_later(
    tmp_path, caplog
):
    (tmp_path / "file").write_text("x")
    model = made(seed=5)
    with pytest.raises(UserError, match="disk"):
        Engine(model, slots=1, capacity=700, caching=Caching(disk=tmp_path / "file"))
    folder = tmp_path / "prefixes"
    engine = Engine(model, slots=1, capacity=700, caching=Caching(disk=folder))
    engine.generate([PROMPT], GREEDY)
    engine.forget()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()
    folder.write_text("x")
    with torch.no_grad():
        model.lm_head.weight.mul_(1.1)
    expected = Engine(model, slots=1, capacity=700).generate([PROMPT], GREEDY)
    assert engine.generate([PROMPT], GREEDY) == expected
    assert "prefixes stay in memory" in caplog.text
    engine.close()


def waiting(engine: Engine) -> tuple[threading.Event, list[str]]:
    """Have reads of files wait until told; the list gets the names of what was asked for."""
    files = engine._archive
    assert files is not None
    real, go, asked = files.read, threading.Event(), []

    def read(entry):
        asked.append(entry.name)
        assert go.wait(30)
        return real(entry)

    files.read = read
    return go, asked


def test_others_go_on_while_a_prefix_is_read_from_disk(hybrid, tmp_path):
    cold, _ = life(hybrid, tmp_path)
    engine = Engine(hybrid, slots=3, capacity=700, caching=Caching(disk=tmp_path))
    go, asked = waiting(engine)
    other = engine.generate([[1, 2, 3]], GREEDY)[0].tokens
    late = [engine.add(PROMPT, GREEDY) for _ in range(3)]
    gone = engine.add(PROMPT, GREEDY, priority=3)
    beside = engine.stream([1, 2, 3], GREEDY)
    assert [token for delta in beside for token in delta.tokens] == other
    assert engine.step() == []  # nothing else is left to do
    assert all(one in engine for one in late)
    engine.abort(gone)
    go.set()
    found = {}
    while engine.busy:
        found |= {one.id: one.completion for one in engine.step() if one.completion}
    assert [found[one].tokens for one in late] == [cold] * 3
    assert len(asked) == 1, "prompts that begin alike share what is read"
    assert engine.load.reuse.from_disk == 320
    engine.close()


def test_what_was_read_under_other_weights_is_not_used(tmp_path):
    model = made(seed=4)
    life(model, tmp_path)
    engine = Engine(model, slots=2, capacity=700, caching=Caching(disk=tmp_path))
    go, _ = waiting(engine)
    late = engine.add(PROMPT, GREEDY)
    engine.step()
    go.set()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    engine.add([7], GREEDY)
    expected = Engine(model, slots=1, capacity=700).generate([PROMPT], GREEDY)[0].tokens
    found = {}
    while engine.busy:
        found |= {one.id: one.completion for one in engine.step() if one.completion}
    assert found[late].tokens == expected
    assert engine.load.reuse.from_disk == 0
    engine.close()


def test_few_requests_hold_what_was_read_for_them(hybrid, tmp_path):
    prompts = [[n, *PROMPT[:200]] for n in range(9)]
    first = Engine(hybrid, slots=1, capacity=700, caching=Caching(disk=tmp_path))
    expected = [first.generate([one], GREEDY)[0].tokens for one in prompts]
    first.close()
    engine = Engine(hybrid, slots=9, capacity=700, caching=Caching(disk=tmp_path))
    go, _ = waiting(engine)
    late = [engine.add(one, GREEDY) for one in prompts]
    engine.step()
    assert engine._archive is not None
    assert len(engine._archive._reads) == MOST_READ
    go.set()
    found = {}
    while engine.busy:
        found |= {one.id: one.completion for one in engine.step() if one.completion}
    assert [found[one].tokens for one in late] == expected
    assert engine.load.reuse.from_disk == 9 * 192
    engine.close()
