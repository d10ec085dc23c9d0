"""The decoder beside a plain one in numpy and fp64: any widths, packing, cuts and slots."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cairn.model import Cache, ModelConfig, Spans, build

Array = NDArray[np.float64]


class Plain:
    """One sequence at a time, one token after another."""

    def __init__(self, config: ModelConfig, model: torch.nn.Module) -> None:
        self.config = config
        self.weights = {name: t.double().numpy() for name, t in model.state_dict().items()}

    def logits(self, ids: list[int]) -> Array:
        """[T, V] of ids [T]."""
        if not ids:
            return np.zeros((0, self.config.vocab_size))
        windows = iter(self.config.windows)
        x = self.weights["backbone.embeddings.weight"][ids]
        for number, letter in enumerate(self.config.pattern):
            at = f"backbone.layers.{number}."
            y, mixer = self.normed(x, f"{at}norm"), f"{at}mixer."
            if letter == "*":
                x = x + self.attention(y, mixer, next(windows))
            else:
                x = x + (self.mamba(y, mixer) if letter == "M" else self.feed_forward(y, mixer))
        return self.linear(self.normed(x, "backbone.norm_f"), "lm_head")

    def linear(self, x: Array, name: str) -> Array:
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0.0)

    def normed(self, x: Array, name: str) -> Array:
        bias = self.weights.get(f"{name}.bias", 0.0)
        if self.config.norm == "layer" and f"{name}.bias" in self.weights:
            x = x - x.mean(-1, keepdims=True)
        mean = (x * x).mean(-1, keepdims=True)
        return x / np.sqrt(mean + self.config.norm_eps) * self.weights[f"{name}.weight"] + bias

    def feed_forward(self, x: Array, at: str) -> Array:
        up = self.linear(x, f"{at}up_proj")
        if self.config.gated:
            inside = silu(self.linear(x, f"{at}gate_proj")) * up
        elif self.config.activation == "relu2":
            inside = np.maximum(up, 0) ** 2
        else:
            inside = up * sigmoid(2 * np.sqrt(2 / np.pi) * (up + 0.044715 * up**3))
        return self.linear(inside, f"{at}down_proj")

    def attention(self, x: Array, at: str, window: int | None) -> Array:
        c, T = self.config, len(x)
        q, k, v = (
            self.linear(x, f"{at}{one}_proj").reshape(T, -1, c.head_dim) for one in ("q", "k", "v")
        )
        if c.qk_norm:
            q, k = self.normed(q, f"{at}q_norm"), self.normed(k, f"{at}k_norm")
        if c.rope_theta is not None:
            assert c.rope_scaling is None
            turns = np.arange(T)[:, None] * c.rope_theta ** -(
                np.arange(0, c.head_dim, 2) / c.head_dim
            )
            q, k = (turned(one, np.exp(1j * turns)[:, None]) for one in (q, k))
        out = np.zeros(q.shape)
        for t in range(T):
            seen = slice(0 if window is None else max(0, t + 1 - window), t + 1)
            for h in range(c.attention_heads):
                shared = h * c.key_value_heads // c.attention_heads
                scores = k[seen, shared] @ q[t, h] / np.sqrt(c.head_dim)
                weights = np.exp(scores - scores.max())
                out[t, h] = weights @ v[seen, shared] / weights.sum()
        return self.linear(out.reshape(T, -1), f"{at}o_proj")

    def mamba(self, x: Array, at: str) -> Array:
        c, T, I = self.config, len(x), self.config.mamba_width  # noqa: E741 - the paper's name
        z, xbc, dt = np.split(self.linear(x, f"{at}in_proj"), [I, I + c.conv_channels], -1)
        taps, bias = self.weights[f"{at}conv1d.weight"][:, 0].T, self.weights[f"{at}conv1d.bias"]
        late = np.concatenate([np.zeros((len(taps) - 1, xbc.shape[1])), xbc])
        mixed = silu(sum(tap * late[i : i + T] for i, tap in enumerate(taps)) + bias)
        dt = np.logaddexp(0, dt + self.weights[f"{at}dt_bias"])
        if c.time_step_limit:
            dt = dt.clip(*c.time_step_limit)
        keep = np.exp(-dt * np.exp(self.weights[f"{at}A_log"]))
        heads = mixed[:, :I].reshape(T, c.mamba_heads, c.mamba_head_dim)
        each = (T, 2, c.groups, c.state_size)
        B, C = mixed[:, I:].reshape(each).repeat(c.mamba_heads // c.groups, 2).swapaxes(0, 1)
        state, y = np.zeros((*heads.shape[1:], c.state_size)), np.zeros(heads.shape)
        for t in range(T):
            given = (dt[t][:, None] * heads[t])[..., None] * B[t][:, None]
            state = keep[t][:, None, None] * state + given
            y[t] = (state * C[t][:, None]).sum(-1)
        y = (y + self.weights[f"{at}D"][:, None] * heads).reshape(T, I) * silu(z)
        parts = y.reshape(T, c.gated_norm_groups, -1)
        parts = parts / np.sqrt((parts**2).mean(-1, keepdims=True) + c.norm_eps)
        return self.linear(parts.reshape(T, I) * self.weights[f"{at}norm.weight"], f"{at}out_proj")


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def turned(x: Array, by: NDArray[np.complex128]) -> Array:
    first, second = np.split(x, 2, -1)
    both = (first + 1j * second) * by
    return np.concatenate([both.real, both.imag], -1)


def flat(ids: list[list[int]]) -> torch.Tensor:
    return torch.tensor([token for one in ids for token in one], dtype=torch.int64)


SHAPES = st.fixed_dictionaries(
    {
        "hidden_size": st.sampled_from([5, 24, 40, 48]),
        "intermediate_size": st.sampled_from([1, 7, 64, 96]),
        "key_value_heads": st.sampled_from([1, 2]),
        "head_dim": st.sampled_from([2, 6, 34]),
        "mamba_head_dim": st.sampled_from([1, 8, 17]),
        "groups": st.sampled_from([1, 2, 4]),
        "state_size": st.sampled_from([1, 16, 33]),
        "conv_kernel": st.sampled_from([2, 4, 8]),
        "sliding_window": st.sampled_from([None, 1, 3, 30]),
    }
)


def shaped(config: ModelConfig, shape: dict[str, int | None]) -> ModelConfig:
    """The configuration with those of the widths that it has."""
    mixers = {"mamba_head_dim": "M", "groups": "M", "state_size": "M", "conv_kernel": "M"}
    mixers |= {"intermediate_size": "-", "key_value_heads": "*", "head_dim": "*"}
    fits = {name: value for name, value in shape.items() if mixers.get(name, "?") in config.pattern}
    fits |= {"hidden_size": shape["hidden_size"]} if config.family != "mamba2" else {}
    if config.family == "mamba2":
        fits["hidden_size"] = config.mamba_heads * shape["mamba_head_dim"]  # pyright: ignore
    if config.family in ("starcoder2", "qwen2", "qwen3"):
        fits |= {"sliding_window": shape["sliding_window"], "full_attention": ()}
    return dataclasses.replace(config, **fits)


FAMILIES = ["nemotron_h", "mamba2", "starcoder2", "qwen2", "qwen3"]


@settings(max_examples=15, deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    shape=SHAPES,
    lengths=st.lists(st.sampled_from([0, 1, 2, 17, 33, 65]), min_size=1, max_size=3).filter(any),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    data=st.data(),
)
@torch.no_grad()
def test_any_widths_packing_and_cuts_give_what_the_definition_gives(
    tinies, roughen, family, shape, lengths, dtype, data
):
    config = shaped(tinies[family], shape)
    model = roughen(build(config, seed=1, dtype=dtype)).eval()
    draw = np.random.default_rng(sum(lengths))
    ids = [draw.integers(config.vocab_size, size=n).tolist() for n in lengths]
    plain = Plain(config, model)
    wanted = torch.tensor(np.concatenate([plain.logits(one) for one in ids]))
    scale = max(1.0, float(wanted.abs().max())) if len(wanted) else 1.0
    near = {"rtol": 0, "atol": scale * (1e-5 if dtype == torch.float64 else 3e-4)}
    torch.testing.assert_close(model(flat(ids), Spans.of(lengths)).double(), wanted, **near)
    slots = data.draw(st.permutations(range(4)))[: len(lengths)]
    cache, found = Cache(config, 4, 128, dtype=dtype), [[] for _ in ids]
    while any(left := [len(one) - sum(map(len, got)) for one, got in zip(ids, found, strict=True)]):
        most = data.draw(st.sampled_from([1, 4, 5, 16, 31, 64, 200]))
        taken = [min(n, most) for n in left]
        begun = [len(one) - n for one, n in zip(ids, left, strict=True)]
        parts = [one[b : b + n] for one, b, n in zip(ids, begun, taken, strict=True)]
        logits = model(flat(parts), Spans.of(taken, slots), cache)
        for got, part in zip(found, logits.split(taken), strict=True):
            got.append(part)
    if len(wanted):
        whole = torch.cat([part for got in found for part in got])
        torch.testing.assert_close(whole.double(), wanted, **near)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_definition(tinies, roughen, family):
    """Along a random direction in each parameter, of packed spans, in fp64."""
    model = roughen(build(tinies[family], seed=1, dtype=torch.float64))
    lengths, draw = [3, 0, 9], np.random.default_rng(0)
    ids = [draw.integers(61, size=n).tolist() for n in lengths]
    given = torch.tensor(draw.normal(size=(12, 61)))
    (model(flat(ids), Spans.of(lengths)) * given).sum().backward()

    def loss() -> float:
        plain = Plain(tinies[family], model)
        return float((np.concatenate([plain.logits(one) for one in ids]) * given.numpy()).sum())

    for name, parameter in model.named_parameters():
        way, sides = torch.tensor(draw.normal(size=parameter.shape)), []
        for step in (1e-6, -2e-6, 1e-6):
            with torch.no_grad():
                parameter.add_(way, alpha=step)
            sides.append(loss())
        assert parameter.grad is not None
        wanted = float((parameter.grad * way).sum())
        assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(wanted, rel=1e-4, abs=1e-4), name
