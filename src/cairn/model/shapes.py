"""The shape of every parameter, by name, from the configuration alone. No torch."""

from collections.abc import Iterator

from cairn.model.config import ModelConfig

Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(config: ModelConfig) -> Iterator[tuple[str, Shapes]]:
    """("layer N" or "root", shapes by name) of what is gathered together: layers, then the rest."""
    for number, letter in enumerate(config.pattern):
        prefix = f"backbone.layers.{number}."
        inside = {"M": _mamba, "*": _attention, "-": _feed_forward}[letter](config)
        shapes = {f"{prefix}mixer.{name}": shape for name, shape in inside.items()}
        yield f"layer {number}", shapes | _norm(config, f"{prefix}norm")
    embedding = (config.vocab_size, config.hidden_size)
    root: Shapes = {"backbone.embeddings.weight": embedding} | _norm(config, "backbone.norm_f")
    if not config.tie_embeddings:
        root["lm_head.weight"] = embedding
    yield "root", root


def _norm(config: ModelConfig, name: str) -> Shapes:
    leaves = ("weight", "bias") if config.norm == "layer" else ("weight",)
    return {f"{name}.{leaf}": (config.hidden_size,) for leaf in leaves}


def _mamba(config: ModelConfig) -> Shapes:
    heads, width, channels = (config.mamba_heads,), config.mamba_width, config.conv_channels
    return {
        "in_proj.weight": (config.mamba_projection, config.hidden_size),
        "conv1d.weight": (channels, 1, config.conv_kernel),
        "conv1d.bias": (channels,),
        "A_log": heads,
        "D": heads,
        "dt_bias": heads,
        "norm.weight": (width,),
        "out_proj.weight": (config.hidden_size, width),
    }


def _attention(config: ModelConfig) -> Shapes:
    rows = {"q": config.query_width, "k": config.key_value_width, "v": config.key_value_width}
    shapes: Shapes = {f"{k}_proj.weight": (n, config.hidden_size) for k, n in rows.items()}
    shapes["o_proj.weight"] = (config.hidden_size, config.query_width)
    if config.qkv_bias:
        shapes |= {f"{k}_proj.bias": (n,) for k, n in rows.items()}
    if config.output_bias:
        shapes["o_proj.bias"] = (config.hidden_size,)
    if config.qk_norm:
        shapes |= {f"{k}_norm.weight": (config.head_dim,) for k in "qk"}
    return shapes


def _feed_forward(config: ModelConfig) -> Shapes:
    f, d = config.intermediate_size, config.hidden_size
    into = ("gate", "up") if config.gated else ("up",)
    shapes: Shapes = {f"{name}_proj.weight": (f, d) for name in into}
    shapes["down_proj.weight"] = (d, f)
    if config.mlp_bias:
        shapes |= {f"{name}_proj.bias": (f,) for name in into} | {"down_proj.bias": (d,)}
    return shapes
