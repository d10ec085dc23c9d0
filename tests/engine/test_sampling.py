"""SamplingParams refuse what cannot be meant; draws follow the distribution and the seed alone."""

import math

import pytest
import torch

from cairn.base import UserError
from cairn.engine.detokenizer import Detokenizer
from cairn.engine.sampler import draw, score
from cairn.engine.sampling import SamplingParams, uniform
from cairn.engine.sequence import Sequence


def row(params: SamplingParams, seed: int = 0, drawn: int = 0) -> Sequence:
    return Sequence(
        id=0,
        prompt=[0],
        params=params,
        seed=seed,
        stop_tokens=frozenset(),
        limit=10**6,
        detokenizer=Detokenizer(lambda token: b""),
        output=[0] * drawn,
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "1"),
        ("top_k", -1),
        ("top_k", 2.0),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", None),
        ("seed", "x"),
        ("seed", 2**64),
        ("stop", ("",)),
        ("stop", (1,)),
        ("stop", 5),
        ("stop_tokens", ("a",)),
        ("stop_tokens", 3),
        ("logprobs", -1),
        ("logprobs", 101),
        ("prompt_logprobs", True),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        SamplingParams(**{field: value})


def test_stops_may_be_given_as_a_string_or_a_list():
    assert SamplingParams(stop="\n").stop == ("\n",)
    assert SamplingParams(stop=["a", "b"], stop_tokens=[1]).stop_tokens == (1,)  # type: ignore[arg-type]


def test_uniform_is_flat_and_depends_on_seed_and_place():
    values = [uniform(7, place) for place in range(4000)]
    assert all(0 <= value < 1 for value in values)
    assert abs(sum(values) / len(values) - 0.5) < 0.02
    assert len({uniform(seed, 0) for seed in range(1000)}) == 1000
    assert uniform(-1, 3) == uniform(2**64 - 1, 3)


def test_zero_temperature_takes_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 1.0], [9.0, 3.0, 1.0]])
    greedy = row(SamplingParams(temperature=0))
    assert [found.token for found in draw(logits, [greedy, greedy])] == [1, 0]


def frequencies(params: SamplingParams, logits: torch.Tensor, draws: int = 6000) -> torch.Tensor:
    rows = [row(params, seed=seed) for seed in range(draws)]
    tokens = [found.token for found in draw(logits.expand(draws, -1), rows)]
    return torch.bincount(torch.tensor(tokens), minlength=logits.shape[-1]) / draws


def test_draws_follow_the_distribution():
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]])
    found = frequencies(SamplingParams(temperature=0.7), logits)
    expected = (logits[0] / 0.7).softmax(-1)
    assert (found - expected).abs().max() < 0.02


def test_top_k_and_top_p_cut_and_renormalise():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    found = frequencies(SamplingParams(top_k=2), logits)
    assert (found - torch.tensor([0.625, 0.375, 0, 0])).abs().max() < 0.02
    # 0.5 does not reach 0.6, so the second token is in as well, the third is not
    found = frequencies(SamplingParams(top_p=0.6), logits)
    assert found[2:].sum() == 0
    assert found[1] > 0.3
    # within the top three, the first two have 0.8 / 0.95 = 0.842 of the mass
    found = frequencies(SamplingParams(top_k=3, top_p=0.84), logits)
    assert found[2:].sum() == 0
    found = frequencies(SamplingParams(top_k=3, top_p=0.85), logits)
    assert found[2] > 0.1


def test_a_tiny_temperature_and_a_tiny_top_p_are_greedy():
    logits = torch.randn(50, 200, generator=torch.Generator().manual_seed(0))
    best = logits.argmax(-1).tolist()
    for params in (SamplingParams(temperature=1e-30), SamplingParams(top_p=1e-9)):
        assert [found.token for found in draw(logits, [row(params)] * 50)] == best


def test_masked_tokens_are_never_drawn():
    logits = torch.full((500, 9), -math.inf)
    logits[:, [3, 8]] = 0.0
    rows = [row(SamplingParams(), seed=seed) for seed in range(500)]
    assert {found.token for found in draw(logits, rows)} == {3, 8}


def test_a_draw_does_not_depend_on_the_other_rows():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(24, 300, generator=generator)
    kinds = [
        SamplingParams(),
        SamplingParams(top_k=5),
        SamplingParams(top_p=0.5, temperature=0.3),
        SamplingParams(temperature=0, logprobs=3),
    ]
    rows = [row(kinds[i % 4], seed=i, drawn=i) for i in range(24)]
    together = [found.token for found in draw(logits, rows)]
    alone = [draw(logits[i : i + 1], [rows[i]])[0].token for i in range(24)]
    assert together == alone


def test_logprobs_are_the_models_own():
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(2))
    params = SamplingParams(temperature=0.2, top_k=1, logprobs=4)
    expected = logits.log_softmax(-1)
    for index, found in enumerate(draw(logits, [row(params)] * 3)):
        assert found.logprob == pytest.approx(expected[index, found.token].item(), abs=1e-6)
        assert [token for token, _ in found.top] == expected[index].topk(4).indices.tolist()
        assert found.top[0][0] == found.token


def test_score_gives_the_logprob_of_each_target():
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(3))
    found = score(logits, [5, 0, 39], top=0)
    expected = logits.log_softmax(-1)[range(3), [5, 0, 39]].tolist()
    assert [item.logprob for item in found] == pytest.approx(expected, abs=1e-6)
    assert found[0].top == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_row_that_is_not_numbers_is_reported_and_harms_no_other(bad, temperature):
    logits = torch.zeros(3, 8)
    logits[:, 2] = 50.0
    logits[1, 4] = bad
    rows = [row(SamplingParams(temperature=temperature))] * 3
    found = draw(logits, rows)
    assert math.isnan(found[1].logprob)
    assert [found[0].token, found[2].token] == [2, 2]
    assert not math.isnan(found[0].logprob)
