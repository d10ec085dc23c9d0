"""ModelConfig: counts of the released models, spellings of config.json, refusals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cairn.base import UserError
from cairn.base.config import digest_of, what_settles
from cairn.model import ModelConfig

# parameters, tensors, layers by kind, KV bytes a token, matmul and scan GFLOP a token
RELEASED = {
    "nemotron-h-4b": (4_489_223_040, 311, (24, 4, 24), 16_384, 8.17, 0.138),
    "nemotron-h-8b": (8_100_852_736, 311, (24, 4, 24), 16_384, 15.13, 0.157),
    "nemotron-h-47b": (46_791_554_816, 577, (45, 5, 48), 20_480, 91.43, 0.967),
    "nemotron-h-56b": (56_324_350_464, 701, (54, 10, 54), 40_960, 110.50, 1.161),
    "nemotron-nano-12b-v2": (12_310_001_152, 369, (28, 6, 28), 24_576, 23.28, 0.228),
    "nemotron-nano-9b-v2": (8_888_227_328, 341, (27, 4, 25), 16_384, 16.60, 0.219),
}
# parameters, KV bytes a token
DENSE = {
    "starcoder2-3b": (3_030_371_328, 30_720),
    "starcoder2-7b": (7_173_923_840, 65_536),
    "starcoder2-15b": (15_957_889_024, 81_920),
    "llama-3.1-8b": (8_030_261_248, 131_072),
    "llama-3.1-70b": (70_553_706_496, 327_680),
    "qwen2.5-7b": (7_615_616_512, 57_344),
    "qwen2.5-72b": (72_706_203_648, 327_680),
    "qwen3-8b": (8_190_735_360, 147_456),
    "qwen3-14b": (14_768_307_200, 163_840),
}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "attention_heads": 4,
    "key_value_heads": 2,
    "head_dim": 8,
    "mamba_heads": 8,
    "mamba_head_dim": 8,
    "state_size": 16,
    "groups": 2,
    "vocab_size": 97,
}


@pytest.mark.parametrize("name", RELEASED)
def test_counts_of_released_models(name):
    parameters, tensors, kinds, kv, matmul, scan = RELEASED[name]
    config = ModelConfig.preset(name)
    assert (config.parameters, config.tensors) == (parameters, tensors)
    assert tuple(config.count(letter) for letter in "M*-") == kinds
    assert config.kv_bytes_per_token() == kv
    assert round(config.matmul_flops_per_token() / 1e9, 2) == matmul
    assert round(config.scan_flops_per_token() / 1e9, 3) == scan
    assert ModelConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("name", DENSE)
def test_counts_of_dense_models(name):
    config = ModelConfig.preset(name)
    assert (config.parameters, config.kv_bytes_per_token()) == DENSE[name]
    assert config.state_bytes_per_sequence() == config.scan_flops_per_token() == 0
    assert config.matmul_flops_per_token() < 2 * config.parameters
    assert ModelConfig.from_json(config.to_json()) == config


def test_fields_that_came_later_are_no_part_of_what_recipes_said():
    plain = ModelConfig(pattern="M-M*-", **SMALL)
    before = "593dd4b90b6a4d2a1c0d2c5f3a21fff92950f3433f482537386b96a4e0bdb926"
    assert digest_of(what_settles(plain)) == before  # as it was when there was one family
    assert "rope_theta" not in what_settles(plain)
    dense = ModelConfig.preset("llama-3.1-8b")
    assert what_settles(dense)["rope_scaling"]["factor"] == 8.0


def test_the_documents_say_what_the_presets_are():
    path = Path(__file__).resolve().parents[2] / "docs" / "models.md"
    rows = [line.split("|")[1:8] for line in path.read_text().splitlines() if "| `" in line]
    said = {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows if len(row) == 7}
    for name in ModelConfig.presets():
        config = ModelConfig.preset(name)
        found = config.facts()
        assert said[name] == [
            "/".join(str(config.count(letter)) for letter in "M*-"),
            f"{config.parameters:,}",
            f"{found['weight_bytes'] / 2**30:.2f}",
            f"{found['kv_bytes_per_token']:,}",
            f"{found['state_bytes_per_sequence'] / 2**20:.1f}",
            f"{found['matmul_flops_per_token'] / 1e9:.2f}",
        ]


def test_presets_lists_what_preset_knows():
    assert set(RELEASED | DENSE) == set(ModelConfig.presets())
    assert all(ModelConfig.preset(name).name == name for name in ModelConfig.presets())
    with pytest.raises(UserError, match="did you mean 'nemotron-h-8b'"):
        ModelConfig.preset("nemotron-h-8")


def test_every_attention_follows_mamba_and_precedes_feed_forward():
    for name in RELEASED:
        pattern = ModelConfig.preset(name).pattern
        places = [i for i, letter in enumerate(pattern) if letter == "*"]
        assert all(pattern[i - 1] == "M" and pattern[i + 1] == "-" for i in places)
        assert (pattern[0], pattern[-1]) == ("M", "-")


def test_attention_layers_of_the_47b_and_the_9b():
    for name, wanted in (
        ("nemotron-h-47b", [17, 38, 49, 60, 86]),
        ("nemotron-nano-9b-v2", [14, 21, 30, 39]),
        ("nemotron-h-56b", [7, 18, 29, 40, 51, 62, 73, 84, 95, 106]),
    ):
        pattern = ModelConfig.preset(name).pattern
        assert [i for i, letter in enumerate(pattern) if letter == "*"] == wanted


def test_facts_of_the_9b_at_128k_on_one_small_gpu():
    facts = ModelConfig.preset("nemotron-nano-9b-v2").facts(context=131_072, batch=1)
    assert json.loads(json.dumps(facts)) == facts
    gib = 2**30
    assert round(facts["weight_bytes"] / gib, 2) == 16.56
    assert round(facts["kv_bytes_per_token"] * 131_072 / gib, 2) == 2.0
    assert round(facts["state_bytes_per_sequence"] / 2**20, 1) == 136.9  # 135 fp32 + 1.9 bf16
    assert round(facts["total_bytes"] / gib, 2) == 18.69
    assert round(facts["parameters_without_embeddings"] / 1e9, 3) == 7.714
    assert round(facts["attention_flops_per_token"] / 1e9, 2) == 10.74
    more = ModelConfig.preset("nemotron-nano-9b-v2").facts(context=131_072, batch=3)
    assert more["total_bytes"] - facts["total_bytes"] == 2 * (
        131_072 * facts["kv_bytes_per_token"] + facts["state_bytes_per_sequence"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "MX-"}, "pattern='MX-'.*'X'"),
        ({"pattern": ""}, "pattern=''.*no layer"),
        ({"hidden_size": 0}, "hidden_size=0"),
        ({"hidden_size": True}, "hidden_size=True"),
        ({"intermediate_size": 0}, "intermediate_size=0"),
        ({"attention_heads": 3}, "attention_heads=3.*key_value_heads=2"),
        ({"mamba_heads": 7}, "mamba_heads=7.*groups=2"),
        ({"conv_kernel": 1}, "conv_kernel=1"),
        ({"norm_eps": 0.0}, "norm_eps=0.0"),
        ({"vocab_size": -1}, "vocab_size=-1"),
        ({"family": "gpt2"}, "model_type='gpt2'.*nemotron_h"),
    ],
)
def test_widths_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        ModelConfig(**({"pattern": "M*-"} | SMALL | change))


def test_reads_the_spelling_of_released_checkpoints():
    released = {
        "model_type": "nemotron_h",
        "hybrid_override_pattern": "M-M*-",
        "num_hidden_layers": 5,
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attention_head_dim": 8,
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 16,
        "n_groups": 2,
        "conv_kernel": 4,
        "chunk_size": 128,
        "expand": 2,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "time_step_limit": [0.0, float("inf")],
        "eos_token_id": [2, 12],
    }
    config = ModelConfig.from_json(released)
    assert config == ModelConfig(pattern="M-M*-", eos_token_ids=(2, 12), **SMALL)
    assert ModelConfig.from_json(config.to_json()) == config


def test_reads_the_spelling_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = ModelConfig(pattern="M-M*-", **SMALL)
    transformers.NemotronHConfig(**config.to_json()).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert "hybrid_override_pattern" not in written  # it writes a list of layer types
    read = ModelConfig.from_folder(tmp_path)
    assert read == config
    assert read.name == tmp_path.name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type='gpt2'.*known: .*nemotron_h"),
        ({"mlp_hidden_act": "silu"}, "mlp_hidden_act='silu'.*relu2"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"hybrid_override_pattern": "ME"}, "pattern='ME'"),
        ({"hybrid_override_pattern": None}, "hybrid_override_pattern=None"),
        ({"layers_block_type": ["moe"]}, "layers_block_type.*moe"),
        ({"time_step_limit": [0.001, 0.1]}, "time_step_limit"),
        ({"ssm_state_size": None}, "ssm_state_size=None.*missing"),
    ],
)
def test_what_would_load_and_be_wrong_is_refused(change, message, tmp_path):
    released = ModelConfig(pattern="M-", **SMALL).to_json() | change
    with pytest.raises(UserError, match=message):
        ModelConfig.from_json(released)
    (tmp_path / "config.json").write_text(json.dumps(released))
    with pytest.raises(UserError, match=r"config\.json: "):
        ModelConfig.from_folder(tmp_path)


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json"):
        ModelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        ModelConfig.from_folder(tmp_path)


def test_configuration_needs_no_torch():
    program = (
        "import sys; from cairn.model import ModelConfig; import cairn.ops;"
        "ModelConfig.preset('nemotron-h-8b').facts(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
