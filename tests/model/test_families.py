"""Every family beside transformers: logits and tokens, both ways, whole and step by step."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cairn.base import UserError
from cairn.model import Cache, ModelConfig, Spans, build, checkpoint, load, save

transformers = pytest.importorskip("transformers")

NEAR = {"rtol": 0, "atol": 1e-4}
LENGTH, NEW = 21, 64


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(61, (3, LENGTH), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def theirs(each_tiny, roughen):
    """A random model of transformers, with every parameter off its initial value."""
    torch.manual_seed(0)
    released = each_tiny.to_json() | {"eos_token_id": None}
    config = transformers.AutoConfig.for_model(**released)
    return roughen(transformers.AutoModelForCausalLM.from_config(config)).eval()


@torch.no_grad()
def greedy(model, ids: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Our greedy tokens [B, count] after a prompt, through a cache, and each step's logits."""
    batch, length = ids.shape
    cache = Cache(model.config, batch, length + count, dtype=model.dtype)
    logits = model(ids.flatten(), Spans.of([length] * batch), cache).unflatten(0, ids.shape)[:, -1]
    tokens, each = [logits.argmax(-1)], [logits]
    for _ in range(count - 1):
        each.append(model(tokens[-1], Spans.of([1] * batch), cache))
        tokens.append(each[-1].argmax(-1))
    return torch.stack(tokens, 1), torch.stack(each, 1)


@torch.no_grad()
def their_greedy(model, ids: torch.Tensor, count: int) -> torch.Tensor:
    """Their greedy tokens [B, count], by their cache."""
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return made[:, ids.shape[1] :]


@torch.no_grad()
def test_their_checkpoint_gives_their_logits_here(theirs, each_tiny, ids, tmp_path):
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    ours = load(tmp_path)
    assert dataclasses.replace(ours.config, eos_token_ids=each_tiny.eos_token_ids) == each_tiny
    wanted = theirs(ids).logits
    assert wanted.std() > 0.3  # logits that a mistake could change
    torch.testing.assert_close(ours.logits(ids), wanted, **NEAR)
    tokens, logits = greedy(ours, ids, NEW)
    assert torch.equal(tokens, their_greedy(theirs, ids, NEW))
    whole = theirs(torch.cat([ids, tokens], 1)).logits[:, LENGTH - 1 : -1]
    torch.testing.assert_close(logits, whole, **NEAR)
    torch.testing.assert_close(
        ours.logits(torch.cat([ids, tokens], 1))[:, LENGTH - 1 : -1], whole, **NEAR
    )


@torch.no_grad()
def test_our_checkpoint_gives_our_logits_there(each_tiny, roughen, ids, tmp_path):
    ours = roughen(build(each_tiny, seed=1)).eval()
    save(ours, tmp_path, eos_token_ids=(2, 7), max_shard_size=20_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    theirs, found = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(found.values())
    torch.testing.assert_close(theirs(ids).logits, ours.logits(ids), **NEAR)
    tokens, _ = greedy(ours, ids, NEW)
    assert torch.equal(tokens, their_greedy(theirs, ids, NEW))
    assert theirs.generation_config.eos_token_id == [2, 7]


@torch.no_grad()
def test_an_output_matrix_of_its_own_is_read_though_they_should_be_tied(
    theirs, ids, tmp_path, monkeypatch
):
    theirs.save_pretrained(tmp_path)
    at = tmp_path / "config.json"
    at.write_text(json.dumps(json.loads(at.read_text()) | {"tie_word_embeddings": True}))
    weights = load_file(tmp_path / checkpoint.WEIGHTS)
    first = next(t for name, t in weights.items() if "embed" in name)
    head = first.clone()
    head[-1, -1] += 1
    save_file(weights | {"lm_head.weight": head}, tmp_path / checkpoint.WEIGHTS, {"format": "pt"})
    monkeypatch.setattr(checkpoint, "COMPARED", 100)
    ours = load(tmp_path)
    assert not ours.config.tie_embeddings
    assert checkpoint.stored_config(tmp_path) == ours.config
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(ours.logits(ids), again(ids).logits, **NEAR)
    save(ours, tmp_path / "again")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(ours.logits(ids), again(ids).logits, **NEAR)


@torch.no_grad()
def test_bf16_says_the_same_token(theirs, ids, tmp_path):
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path, dtype=torch.bfloat16)
    narrow = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    got, wanted = ours.logits(ids), narrow(ids).logits.float()
    exact = theirs(ids).logits
    best = exact.topk(2).values
    sure = best[..., 0] - best[..., 1] > 4 * (wanted - exact).abs().amax(-1)
    assert sure.float().mean() > 0.3
    assert torch.equal(got.argmax(-1)[sure], wanted.argmax(-1)[sure])
    # No further from the truth than theirs.
    assert (got - exact).square().mean().sqrt() < 1.5 * (wanted - exact).square().mean().sqrt()


def test_every_bit_comes_back(each_tiny, roughen, tmp_path):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        ours = roughen(build(each_tiny, seed=2, dtype=dtype))
        save(ours, tmp_path)
        again = load(tmp_path)
        assert again.config == each_tiny
        for name, tensor in ours.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize("name", ModelConfig.presets())
def test_transformers_counts_the_same_parameters(name):
    config = ModelConfig.preset(name)
    with torch.device("meta"):
        made = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**config.to_json())
        )
    assert made.num_parameters() == config.parameters


def test_configurations_as_they_were_released():
    """Spellings of the hub: old names, and what their authors left out."""
    starcoder2 = {
        "model_type": "starcoder2",
        "num_hidden_layers": 30,
        "hidden_size": 3072,
        "intermediate_size": 12_288,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "vocab_size": 49_152,
        "max_position_embeddings": 16_384,
        "sliding_window": 4096,
        "rope_theta": 999999.4420358813,
        "norm_epsilon": 1e-5,
        "norm_type": "layer_norm",
        "hidden_act": "gelu_pytorch_tanh",
        "mlp_type": "default",
        "attention_dropout": 0.1,
        "residual_dropout": 0.1,
        "embedding_dropout": 0.1,
        "initializer_range": 0.018042,
        "use_bias": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    config = ModelConfig.from_json(starcoder2)
    wanted = dataclasses.replace(ModelConfig.preset("starcoder2-3b"), eos_token_ids=(0,))
    assert config == wanted
    llama = {
        "model_type": "llama",
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "hidden_act": "silu",
        "bos_token_id": 128_000,
        "eos_token_id": 128_001,
    }
    assert ModelConfig.from_json(llama) == ModelConfig.preset("llama-3.1-8b")
    qwen = {
        "model_type": "qwen2",
        "num_hidden_layers": 28,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "max_position_embeddings": 131_072,
        "max_window_layers": 28,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "sliding_window": 131_072,
        "use_sliding_window": False,
        "hidden_act": "silu",
        "bos_token_id": 151_643,
        "eos_token_id": 151_643,
    }
    assert ModelConfig.from_json(qwen) == ModelConfig.preset("qwen2.5-7b")


def test_windows_by_the_number_of_layers_without_one(tinies):
    released = tinies["qwen2"].to_json()
    del released["layer_types"]
    config = ModelConfig.from_json(released | {"max_window_layers": 2})
    assert config.windows == (None, None, 4)
    config = ModelConfig.from_json(released | {"use_sliding_window": False})
    assert config.windows == (None, None, None)
    with pytest.raises(UserError, match=r"layer_types.*of 3 layers"):
        ModelConfig.from_json(released | {"layer_types": ["full_attention"]})


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llama", {"model_type": "gemma"}, "model_type='gemma'.*known: .*starcoder2"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu'.*only 'silu'"),
        ("starcoder2", {"hidden_act": "relu"}, "hidden_act='relu'.*gelu_pytorch_tanh"),
        ("llama", {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "longrope.*known"),
        ("llama", {"rope_scaling": {"rope_type": "ntk", "factor": 2.0}}, "rope_type='ntk'.*yarn"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling.factor=None.*missing"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ("llama", {"num_attention_heads": None}, "num_attention_heads=None.*missing"),
        ("llama", {"num_hidden_layers": None}, "num_hidden_layers=None.*missing"),
        ("llama", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config='fp8'"),
        ("mamba2", {"use_bias": True}, "use_bias=True"),
        ("nemotron_h", {"time_step_limit": [0.001, 0.1]}, "time_step_limit"),
        ("mamba2", {"time_step_limit": [0.1, 0.001]}, "time_step_limit"),
        ("qwen2", {"use_sliding_window": False}, "sliding_window=None.*missing"),
    ],
)
def test_what_would_load_and_be_wrong_is_refused(tinies, family, change, message):
    with pytest.raises(UserError, match=message):
        ModelConfig.from_json(tinies[family].to_json() | change)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("nemotron_h", {"rope_theta": 1e4}, "rope_theta=10000.0.*not what nemotron_h has"),
        ("llama", {"rope_theta": None}, "rope_theta=None.*llama has positions"),
        ("llama", {"sliding_window": 4}, "sliding_window=4.*not what llama has"),
        ("llama", {"pattern": "*-*"}, r"pattern='\*-\*'.*not one of llama"),
        ("llama", {"qkv_bias": True}, "attention_bias for both"),
        ("llama", {"norm": "layer"}, "norm='layer'.*set 'rms'"),
        ("starcoder2", {"mlp_bias": False}, "use_bias for both"),
        ("qwen2", {"full_attention": (3,)}, r"full_attention=\[3\].*there are 3"),
        ("qwen3", {"sliding_window": 0}, "sliding_window=0"),
        ("llama", {"head_dim": 7}, "head_dim=7.*odd"),
        ("mamba2", {"hidden_size": 23}, "hidden_size=23.*mamba2 has a whole multiple"),
    ],
)
def test_what_no_file_of_the_family_could_say_is_refused(tinies, family, change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(tinies[family], **change)


@torch.no_grad()
@pytest.mark.parametrize("limit", [(0.05, 0.3), (0.2, float("inf"))])
def test_clamped_time_steps_are_those_of_transformers(tinies, roughen, ids, tmp_path, limit):
    config = dataclasses.replace(tinies["mamba2"], time_step_limit=limit)
    ours = roughen(build(config, seed=1)).eval()
    save(ours, tmp_path)
    there = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert tuple(there.config.time_step_limit) == limit
    wanted = there(ids).logits
    torch.testing.assert_close(ours.logits(ids), wanted, **NEAR)
    free = roughen(build(tinies["mamba2"], seed=1)).eval()
    assert (free.logits(ids) - wanted).abs().max() > 1e-2  # the bounds are felt
    # Their cache does not clamp single steps; here a step is what it is in the whole.
    tokens, logits = greedy(ours, ids, 8)
    whole = there(torch.cat([ids, tokens], 1)).logits[:, LENGTH - 1 : -1]
    torch.testing.assert_close(logits, whole, **NEAR)
    assert load(tmp_path).config.time_step_limit == limit


@torch.no_grad()
def test_dynamic_positions_are_those_of_transformers_up_to_their_length(tinies, roughen, tmp_path):
    from cairn.model.rope import RopeScaling

    scaling = RopeScaling(kind="dynamic", factor=2.0)
    config = dataclasses.replace(tinies["llama"], rope_scaling=scaling, max_positions=24)
    ours = roughen(build(config, seed=1))
    save(ours, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(24)[None]
    torch.testing.assert_close(theirs(ids).logits, ours.logits(ids), **NEAR)
    with pytest.raises(UserError, match="stay within max_positions=24"):
        ours.logits(torch.arange(25)[None])


def test_starcoder2_stops(tinies, tmp_path):
    """As released: generation_config.json ends at 50256, which the vocabulary has not."""
    model = build(tinies["starcoder2"])
    save(model, tmp_path)
    released = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(released | {"eos_token_id": 50_256, "bos_token_id": 50_256})
    )
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 50256}')
    tokenizer = {
        "added_tokens": [{"id": 0, "content": "<|endoftext|>"}, {"id": 6, "content": "<file_sep>"}]
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    again = load(tmp_path)
    assert again.config.eos_token_ids == (0, 6)
    assert again.config.bos_token_id is None
    assert again.config.start_token_id == 0
    save(again, tmp_path / "ours")
    written = json.loads((tmp_path / "ours" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [0, 6]


def test_the_engine_says_what_the_model_says(each_tiny, roughen, ids):
    """Through the engine's own memory, prompts of several lengths at a time."""
    from cairn.engine import Engine, SamplingParams

    model = roughen(build(each_tiny, seed=1)).eval()
    prompts = [ids[0].tolist(), ids[1, :5].tolist(), ids[2, :1].tolist()]
    params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
    done = Engine(model, slots=3, capacity=64).generate(prompts, params)
    for prompt, one in zip(prompts, done, strict=True):
        tokens, _ = greedy(model, torch.tensor([prompt]), 24)
        assert list(one.tokens) == tokens[0].tolist()
