"""What a configuration costs, in closed form: parameters, bytes, FLOPs. No torch.

Legend: d hidden width, V vocabulary, W window of attention.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cairn.model.config import ModelConfig

STATE_BYTES = 4  # the recurrent state is kept in fp32, whatever the weights are


def norm_parameters(config: "ModelConfig") -> int:
    """Of one norm over the residual stream."""
    return config.hidden_size * (2 if config.norm == "layer" else 1)


def layer_parameters(config: "ModelConfig", letter: str) -> int:
    """Parameters of one layer of a kind, its block norm included."""
    d, norm = config.hidden_size, norm_parameters(config)
    if letter == "M":
        conv = (config.conv_kernel + 1) * config.conv_channels
        linear = d * config.mamba_projection + config.mamba_width * d
        return linear + conv + 3 * config.mamba_heads + config.mamba_width + norm
    if letter == "*":
        inside = config.query_width + 2 * config.key_value_width
        biases = config.qkv_bias * inside + config.output_bias * d
        norms = 2 * config.head_dim * config.qk_norm
        return 2 * d * (config.query_width + config.key_value_width) + biases + norms + norm
    f = config.intermediate_size
    into = 1 + config.gated
    return (into + 1) * d * f + config.mlp_bias * (into * f + d) + norm


def tensors(config: "ModelConfig") -> int:
    """Tensors of the model."""
    norm = 2 if config.norm == "layer" else 1
    attention = 4 + 3 * config.qkv_bias + config.output_bias + 2 * config.qk_norm + norm
    mlp = (2 + config.gated) * (1 + config.mlp_bias) + norm
    outer = norm + (1 if config.tie_embeddings else 2)
    mamba = config.count("M") * (8 + norm)
    return mamba + config.count("*") * attention + config.count("-") * mlp + outer


def state_bytes(config: "ModelConfig") -> int:
    """Bytes of one sequence's recurrent states, over all layers."""
    return config.count("M") * config.mamba_width * config.state_size * STATE_BYTES


def window_bytes(config: "ModelConfig", element_bytes: int) -> int:
    """Bytes of one sequence's convolution windows, over all layers."""
    return config.count("M") * config.conv_channels * (config.conv_kernel - 1) * element_bytes


def kv_bytes(config: "ModelConfig", context: int, element_bytes: int) -> int:
    """Bytes of keys and values of one sequence of `context` tokens: a window keeps its own."""
    kept = sum(min(context, window or context) for window in config.windows)
    return kept * 2 * config.key_value_width * element_bytes


def matmul_flops(config: "ModelConfig") -> int:
    """Forward FLOPs of one token in projections, convolutions and the output matrix."""
    d = config.hidden_size
    mamba = d * config.mamba_projection + config.mamba_width * d
    mamba += config.conv_kernel * config.conv_channels
    attention = 2 * d * (config.query_width + config.key_value_width)
    mlp = (2 + config.gated) * d * config.intermediate_size
    macs = config.count("M") * mamba + config.count("*") * attention + config.count("-") * mlp
    return 2 * (macs + config.vocab_size * d)


def attention_flops(config: "ModelConfig", context: int) -> int:
    """Forward FLOPs of one new token that attends to `context` tokens or its window of them."""
    seen = sum(min(context, window or context) for window in config.windows)
    return 4 * config.query_width * seen


def prefill_attention_flops(config: "ModelConfig", context: int) -> int:
    """The same for the mean token of a text of `context` tokens that is read at once."""
    seen = 0
    for window in config.windows:
        width = min(context, window or context)
        seen += width * (width + 1) // 2 + (context - width) * width
    return 4 * config.query_width * seen // context


def scan_flops(config: "ModelConfig") -> int:
    """Forward FLOPs of one token in the chunked scans."""
    wide = config.groups * config.state_size + config.mamba_width
    quadratic = 2 * config.chunk_size * wide
    return config.count("M") * (quadratic + 4 * config.state_size * config.mamba_width)


def step_flops(config: "ModelConfig") -> int:
    """Forward FLOPs of one token in the recurrences of a decode step."""
    return config.count("M") * 6 * config.state_size * config.mamba_width


def training_flops(config: "ModelConfig", length: int) -> int:
    """FLOPs of one token of training on sequences of `length`: forward, and twice it backward.

    Model FLOPs: what is computed again in the backward pass does not count, and attention is that
    of a sequence which is one text.
    """
    attention = prefill_attention_flops(config, length)
    return 3 * (matmul_flops(config) + attention + scan_flops(config))


def activation_bytes(config: "ModelConfig", tokens: int, element_bytes: int) -> int:
    """Bytes that one forward over `tokens` tokens holds at its widest layer.

    The residual stream, the normed input, what the mixer makes of it, and its output: an estimate
    for kernels that write no intermediate result twice. Logits are of one token a sequence.
    """
    inside = {
        "M": config.mamba_projection + config.conv_channels + config.mamba_width,
        "*": 2 * (config.query_width + config.key_value_width),
        "-": (2 + config.gated) * config.intermediate_size,
    }
    widest = max(inside[letter] for letter in set(config.pattern))
    return tokens * (3 * config.hidden_size + widest) * element_bytes


def decode_read_bytes(config: "ModelConfig", context: int, batch: int, element_bytes: int) -> int:
    """Bytes that one decode step of `batch` sequences moves: every weight but the rows of the
    embedding that are not looked up, keys and values in reach, states and windows in and out."""
    unread = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    weights = (config.parameters - unread) * element_bytes
    keys = kv_bytes(config, context, element_bytes)
    return weights + batch * (keys + 2 * config.state_bytes_per_sequence(element_bytes))


def facts(config: "ModelConfig", context: int, batch: int, weight_bytes: int) -> dict[str, Any]:
    """Size and cost of `batch` sequences of `context` tokens, `weight_bytes` an element."""
    matmul, scan = matmul_flops(config), scan_flops(config)
    attention = attention_flops(config, context)
    weights = config.parameters * weight_bytes
    per_sequence = config.state_bytes_per_sequence(weight_bytes)
    keys = kv_bytes(config, context, weight_bytes)
    return {
        "name": config.name or config.family,
        "family": config.family,
        "pattern": config.pattern,
        "layers": config.layers,
        "mamba_layers": config.count("M"),
        "attention_layers": config.count("*"),
        "mlp_layers": config.count("-"),
        "parameters": config.parameters,
        "parameters_without_embeddings": config.parameters_without_embeddings,
        "tensors": config.tensors,
        "weight_bytes": weights,
        "kv_bytes_per_token": config.kv_bytes_per_token(weight_bytes),
        "state_bytes_per_sequence": per_sequence,
        "flops_per_token": matmul + attention + scan,
        "matmul_flops_per_token": matmul,
        "attention_flops_per_token": attention,
        "scan_flops_per_token": scan,
        "context": context,
        "batch": batch,
        "total_bytes": weights + batch * (keys + per_sequence),
    }
