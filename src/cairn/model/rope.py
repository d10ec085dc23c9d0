"""Rotary positions as a configuration says them: base, and how it is stretched. No torch."""

from dataclasses import dataclass, fields
from typing import Any, Literal, cast

from cairn.base.errors import UserError
from cairn.model.kinds import check_kind

Kind = Literal["linear", "dynamic", "yarn", "llama3"]
DEFAULT_THETA = 10_000.0  # where a config.json of a family with rotary positions says nothing

_SPELLED = {  # ours -> config.json's; the rest have one name
    "original_positions": "original_max_position_embeddings",
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
}
_USED: dict[str, tuple[str, ...]] = {
    "linear": (),
    "dynamic": (),
    "yarn": (
        "original_positions",
        "beta_fast",
        "beta_slow",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
    "llama3": ("original_positions", "low_frequency_factor", "high_frequency_factor"),
}


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are changed for texts longer than the model first learned from."""

    kind: Kind
    """`linear`, `dynamic` (up to `max_positions` only), `yarn` (arXiv 2309.00071) or `llama3`."""
    factor: float
    """How many times longer texts become."""
    original_positions: int | None = None
    """Context length before stretching, in tokens; `yarn` and `llama3`."""
    low_frequency_factor: float = 1.0
    """`llama3`: waves longer than original_positions / this are stretched whole."""
    high_frequency_factor: float = 4.0
    """`llama3`: waves shorter than original_positions / this are left as they are."""
    beta_fast: float = 32.0
    """`yarn`: channels that turn more often than this over the original length stay."""
    beta_slow: float = 1.0
    """`yarn`: channels that turn less often than this are stretched whole."""
    attention_factor: float | None = None
    """`yarn`: scales cosines and sines; None is what `factor` (or `mscale`) gives."""
    mscale: float | None = None
    """`yarn`: with `mscale_all_dim`, gives the attention factor."""
    mscale_all_dim: float | None = None
    """See `mscale`."""
    truncate: bool = True
    """`yarn`: whether the bounds of the ramp are rounded to whole channels."""

    def __post_init__(self) -> None:
        if self.kind not in _USED:
            raise _unknown(self.kind)
        for one in fields(self):
            check_kind(f"rope_scaling.{one.name}", getattr(self, one.name), one.type)
        if not self.factor >= 1:
            raise UserError("rope_scaling.factor", self.factor, "shortens", "give 1 or more")
        if "original_positions" in _USED[self.kind] and (self.original_positions or 0) < 1:
            mend = "give the context length before stretching"
            field = "rope_scaling.original_positions"
            raise UserError(field, self.original_positions, "is needed", mend)
        for name in ("low_frequency_factor", "beta_fast", "beta_slow"):
            value = getattr(self, name)
            if not value > 0:
                raise UserError(f"rope_scaling.{name}", value, "is not positive", "1.0 is usual")
        if not self.high_frequency_factor > self.low_frequency_factor:
            mend = f"give more than low_frequency_factor={self.low_frequency_factor}"
            value = self.high_frequency_factor
            raise UserError("rope_scaling.high_frequency_factor", value, "is too low", mend)


_KINDS = {one.name: one.type for one in fields(RopeScaling)}


def read_rope(released: dict[str, Any], positions: int) -> tuple[float, RopeScaling | None]:
    """Base and scaling in a config.json, as `rope_parameters` or `rope_theta` + `rope_scaling`.

    UserError for a kind that is not known, or that turns a part of each head only.
    """
    name = "rope_scaling" if released.get("rope_scaling") else "rope_parameters"
    said = released.get(name) or {}
    if not isinstance(said, dict) or any(isinstance(value, dict) for value in said.values()):
        problem = "has positions for each kind of layer" if isinstance(said, dict) else "is a value"
        raise UserError(name, said, problem, "give one group of values for all layers")
    thetas = said.get("rope_theta"), released.get("rope_theta"), DEFAULT_THETA
    theta = next(one for one in thetas if one is not None)
    check_kind("rope_theta", theta, float)
    part = said.get("partial_rotary_factor", released.get("partial_rotary_factor"))
    if part not in (None, 1, 1.0):
        mend = "only models that turn whole heads are supported"
        raise UserError("partial_rotary_factor", part, "turns a part of each head", mend)
    kind = said.get("rope_type", said.get("type"))
    if kind is None and said.get("factor") is not None:
        mend = f"known: default, {', '.join(_USED)}"
        raise UserError(f"{name}.rope_type", None, "is missing beside a factor", mend)
    if kind in (None, "default"):
        return float(theta), None
    if not isinstance(kind, str) or kind not in _USED:
        raise _unknown(kind)
    found = {
        ours: said[_SPELLED.get(ours, ours)]
        for ours in _USED[kind]
        if said.get(_SPELLED.get(ours, ours)) is not None
    }
    factor = said.get("factor")
    if "original_positions" in _USED[kind]:  # outside of the group it goes before, and unsaid
        found.setdefault("original_positions", positions)
        outside = released.get("original_max_position_embeddings")
        found["original_positions"] = outside or found["original_positions"]
    for ours, value in found.items():
        check_kind(f"{name}.{_SPELLED.get(ours, ours)}", value, _KINDS[ours])
    if factor is None and kind == "yarn" and found["original_positions"]:
        factor = positions / found["original_positions"]
    if factor is None:
        raise UserError(f"{name}.factor", None, "is missing", "add it")
    check_kind(f"{name}.factor", factor, float)
    return float(theta), RopeScaling(kind=cast(Kind, kind), factor=float(factor), **found)


def write_rope(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """Both spellings: servers older than transformers 5 read the first two, newer the third."""
    said: dict[str, Any] = {"rope_type": "default"}
    if scaling is not None:
        said = {"rope_type": scaling.kind, "factor": scaling.factor}
        for ours in _USED[scaling.kind]:
            value = getattr(scaling, ours)
            if value is not None:
                said[_SPELLED.get(ours, ours)] = value
    return {
        "rope_theta": theta,
        "rope_scaling": None if scaling is None else said,
        "rope_parameters": said | {"rope_theta": theta},
    }


def _unknown(kind: object) -> UserError:
    why = "is not supported"
    if kind == "longrope":
        why = "changes its frequencies with the length of a text, so that keys in memory go stale"
    return UserError("rope_type", kind, why, f"known: default, {', '.join(_USED)}")
