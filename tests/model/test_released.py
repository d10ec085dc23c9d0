"""What config.json may say, in whose spelling, and what is refused with its name."""

import json

import pytest
import torch

from cairn.base import UserError
from cairn.model import ModelConfig, build
from cairn.model.families import FAMILIES, their_name


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llama", {"hidden_size": "24"}, "hidden_size='24': is not a whole number"),
        ("llama", {"hidden_size": 24.0}, "hidden_size=24.0: is not a whole number"),
        ("llama", {"num_attention_heads": [4]}, "num_attention_heads=.*whole number"),
        ("llama", {"vocab_size": True}, "vocab_size=True: is not a whole number"),
        ("llama", {"intermediate_size": 10**30}, "intermediate_size=1000.*whole number"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers=True"),
        ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps='1e-5': is not a finite number"),
        ("llama", {"rms_norm_eps": float("inf")}, "rms_norm_eps=inf: is not a finite number"),
        ("llama", {"tie_word_embeddings": "false"}, "tie_word_embeddings='false'.*true or false"),
        ("llama", {"attention_bias": 1}, "attention_bias=1: is not true or false"),
        ("llama", {"bos_token_id": "1"}, "bos_token_id='1': is not a whole number"),
        ("llama", {"eos_token_id": ["2"]}, "eos_token_id='2': is not a whole number"),
        ("qwen2", {"layer_types": 3}, "layer_types=3: is no list"),
        ("qwen2", {"use_sliding_window": "yes"}, "use_sliding_window='yes'"),
        ("qwen2", {"sliding_window": 4.5}, "sliding_window=4.5: is not a whole number"),
        ("qwen2", {"layer_types": None, "max_window_layers": "2"}, "max_window_layers='2'"),
        ("nemotron_h", {"layers_block_type": "MM"}, "layers_block_type='MM': is no list"),
        ("nemotron_h", {"mamba_dt_limit": [0.1, 0.2]}, "time_step_limit"),
        ("mamba2", {"time_step_limit": 3}, "time_step_limit=3: is no pair"),
        ("llama", {"rope_scaling": {"factor": 2.0}}, "rope_scaling.rope_type=None"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": "2"}}, "factor='2'.*number"),
        ("llama", {"rope_scaling": {"full_attention": {}}}, "each kind of layer"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": 0}}, "beta_fast=0"),
        ("llama", {"rope_scaling": None, "rope_parameters": {"rope_theta": "x"}}, "rope_theta='x'"),
    ],
)
def test_values_of_another_kind_are_refused_by_their_names(tinies, family, change, message):
    with pytest.raises(UserError, match=message):
        ModelConfig.from_json(tinies[family].to_json() | change)


@torch.no_grad()
@pytest.mark.parametrize(
    "more",
    [
        {"rope_parameters": {"rope_type": "yarn", "factor": None, "rope_theta": 1e3}},
        {"original_max_position_embeddings": 8},
    ],
)
def test_lengths_before_stretching_are_read_where_transformers_reads_them(tinies, more):
    transformers, ids = pytest.importorskip("transformers"), torch.arange(21)[None]
    released = tinies["llama-yarn"].to_json() | {"rope_scaling": None} | more
    if "rope_parameters" in more:
        more["rope_parameters"]["original_max_position_embeddings"] = 16
    config = transformers.AutoConfig.for_model(**released)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    ours = build(ModelConfig.from_json(released))
    names = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        parameter.copy_(names[their_name(FAMILIES["llama"], name)])
    torch.testing.assert_close(ours.logits(ids), theirs(ids).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("change", [{"eos_token_id": "x"}, {"vocab_size": "x"}])
def test_a_folder_of_starcoder2_is_refused_as_others_are(tinies, tmp_path, change):
    released = tinies["starcoder2"].to_json() | change
    (tmp_path / "config.json").write_text(json.dumps(released))
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": ["x", {"content": "<file_sep>"}]}')
    with pytest.raises(UserError, match="'x': is not a whole number"):
        ModelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tinies["starcoder2"].to_json()))
    assert ModelConfig.from_folder(tmp_path).eos_token_ids == (2,)


@pytest.mark.parametrize("said", ["[", "[]", '{"eos_token_id": "x"}', '{"eos_token_id": [2, "x"]}'])
def test_a_generation_config_that_is_none_is_told(tmp_path, said):
    from cairn.engine.prompts import end_tokens

    (tmp_path / "generation_config.json").write_text(said)
    with pytest.raises(UserError, match=r"generation_config\.json.*write"):
        end_tokens(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 9]}')
    assert end_tokens(tmp_path) == {5, 9}
