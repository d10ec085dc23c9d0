"""One rank's share of a model: which rows or columns of every parameter (tensor parallelism).

Attention is cut by heads, feed-forward by neurons, Mamba-2 by heads with their groups: of in_proj
and the convolution each of the segments z, x, B, C and dt by itself. What maps back to the residual
stream is cut by columns, so that the ranks' outputs add up to the whole. Embeddings, the output
matrix and norms over the residual stream stay whole.
"""

from dataclasses import dataclass, replace

from cairn.base import UserError
from cairn.model.config import ModelConfig

Parts = list[tuple[int, int]]


@dataclass(frozen=True)
class Cut:
    """The parts (start, stop) of one dimension that a rank has, in order; `dim` None is all.

    `first_only`: a bias that is added once to the sum over ranks, so that only rank 0 has it and
    the others have zeros.
    """

    dim: int | None = None
    parts: tuple[tuple[int, int], ...] = ()
    first_only: bool = False


def share_of(config: ModelConfig, ranks: int, copy_groups: bool = False) -> ModelConfig:
    """The configuration of each rank's share; UserError where `ranks` do not divide the model.

    Key and value heads are copied where there are fewer of them than ranks. So are groups where
    `copy_groups`; a slice of the gated norm then lies on several ranks, which sum it together.
    """
    wanted: dict[str, int] = {}
    if "*" in config.pattern:
        wanted["attention_heads"] = _divided(config, "attention_heads", ranks)
        heads = config.key_value_heads
        wanted["key_value_heads"] = (
            1 if ranks % heads == 0 else _divided(config, "key_value_heads", ranks)
        )
    if "-" in config.pattern:
        wanted["intermediate_size"] = _divided(config, "intermediate_size", ranks)
    if "M" in config.pattern:
        slices = config.gated_norm_groups
        if slices % ranks and not (copy_groups and ranks % slices == 0):
            problem = f"cannot be cut in {ranks}: the gated norm is over {slices}"
            raise UserError("ranks", ranks, problem, "give a divisor of that")
        wanted["mamba_heads"] = _divided(config, "mamba_heads", ranks)
        copied = copy_groups and ranks % config.groups == 0
        wanted["groups"] = 1 if copied else _divided(config, "groups", ranks)
        if config.norm_groups is not None:
            wanted["norm_groups"] = max(1, slices // ranks)
    return replace(config, **wanted)


def norm_sharers(config: ModelConfig, ranks: int) -> int:
    """Consecutive ranks with parts of one slice of the gated norm; 1 where slices are whole."""
    return max(1, ranks // config.gated_norm_groups)


def _divided(config: ModelConfig, field: str, ranks: int) -> int:
    value = getattr(config, field)
    if value % ranks:
        raise UserError("ranks", ranks, f"does not divide {field}={value}", "give a divisor of it")
    return value // ranks


def cuts(
    config: ModelConfig, rank: int, ranks: int, copy_groups: bool = False
) -> dict[str, dict[str, Cut]]:
    """By mixer letter: the cut of each parameter of a mixer, by its name inside the mixer."""
    if not 0 <= rank < ranks:
        raise UserError("rank", rank, f"is none of {ranks} ranks", f"give 0 to {ranks - 1}")
    share = share_of(config, ranks, copy_groups)
    heads = _even(config.query_width, rank, ranks)
    first = rank * config.key_value_heads // ranks * config.head_dim
    keys = [(first, first + share.key_value_width)]
    neurons = _even(config.intermediate_size, rank, ranks)
    inner = _even(config.mamba_width, rank, ranks)
    per_head = _even(config.mamba_heads, rank, ranks)
    shared = config.groups * config.state_size
    group = rank * config.groups // ranks * config.state_size
    of_groups = [(group, group + share.groups * config.state_size)]
    width = config.mamba_width
    convolved = inner + _moved(of_groups, width) + _moved(of_groups, width + shared)
    projected = inner + _moved(convolved, width)
    projected += _moved(per_head, 2 * width + 2 * shared)
    return {
        "*": {
            "q_proj.weight": _rows(heads),
            "q_proj.bias": _rows(heads),
            "k_proj.weight": _rows(keys),
            "k_proj.bias": _rows(keys),
            "v_proj.weight": _rows(keys),
            "v_proj.bias": _rows(keys),
            "o_proj.weight": Cut(1, tuple(heads)),
            "o_proj.bias": Cut(first_only=True),
        },
        "-": {
            "gate_proj.weight": _rows(neurons),
            "gate_proj.bias": _rows(neurons),
            "up_proj.weight": _rows(neurons),
            "up_proj.bias": _rows(neurons),
            "down_proj.weight": Cut(1, tuple(neurons)),
            "down_proj.bias": Cut(first_only=True),
        },
        "M": {
            "in_proj.weight": _rows(projected),
            "conv1d.weight": _rows(convolved),
            "conv1d.bias": _rows(convolved),
            "A_log": _rows(per_head),
            "D": _rows(per_head),
            "dt_bias": _rows(per_head),
            "norm.weight": _rows(inner),
            "out_proj.weight": Cut(1, tuple(inner)),
        },
    }


def cut_of(config: ModelConfig, table: dict[str, dict[str, Cut]], name: str) -> Cut:
    """The cut of a parameter by its whole name; a parameter outside mixers is whole."""
    head, _, leaf = name.partition(".mixer.")
    if not leaf:
        return Cut()
    letter = config.pattern[int(head.rpartition(".")[2])]
    return table[letter].get(leaf, Cut())


def _even(size: int, rank: int, ranks: int) -> Parts:
    return [(size * rank // ranks, size * (rank + 1) // ranks)]


def _moved(parts: Parts, by: int) -> Parts:
    return [(start + by, stop + by) for start, stop in parts]


def _rows(parts: Parts) -> Cut:
    return Cut(0, tuple(parts))
