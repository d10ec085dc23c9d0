"""The vectorised draw equals its definition, row by row, whatever else is in the batch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cairn.base import UserError
from cairn.engine import CodePrompt, Engine, Grammar, SamplingParams, SourceText
from cairn.engine.adjustment import History, adjust, unpack
from cairn.engine.definition import adjusted, distribution
from cairn.engine.detokenizer import Detokenizer
from cairn.engine.sampler import _kept, _kept_by_order, draw
from cairn.engine.sampling import uniform
from cairn.engine.sequence import Sequence

SIZE = 40
KINDS = [
    {},
    {"temperature": 0},
    {"temperature": 0.3, "top_k": 5},
    {"top_p": 0.7, "min_p": 0.05},
    {"min_p": 0.4},
    {"top_k": 12, "top_p": 0.5, "min_p": 0.2, "temperature": 2.5},
    {"repetition_penalty": 1.7},
    {"presence_penalty": 1.1, "frequency_penalty": -0.4},
    {"repetition_penalty": 0.5, "frequency_penalty": 0.9, "temperature": 0},
    {"logit_bias": {3: 5.0, 4: -2.5}, "top_p": 0.9},
    {"logit_bias": {7: 100.0}, "temperature": 0, "presence_penalty": 2},
]


class Fixed:
    """A steering that allows some tokens, always."""

    forced = None

    def __init__(self, allowed: list[int]) -> None:
        bits = np.zeros(64, np.uint8)
        bits[allowed] = 1
        self.bits = np.packbits(bits, bitorder="little").tobytes()

    def mask(self) -> bytes:
        return self.bits

    def bias(self) -> None:
        return None


def sequences(seed: int) -> list[Sequence]:
    """One of each kind, and each again under a grammar."""
    generator = np.random.default_rng(seed)
    found = []
    for place, kind in enumerate([*KINDS, *KINDS]):
        steering = Fixed([1, 3, 7, 8, 21]) if place >= len(KINDS) else None
        one = Sequence(
            id=place,
            prompt=generator.integers(0, SIZE, 6).tolist(),
            params=SamplingParams(**kind),
            seed=seed + place,
            stop_tokens=frozenset(),
            limit=10**6,
            detokenizer=Detokenizer(lambda token: b""),
            output=generator.integers(0, 10, place).tolist(),
        )
        one.steering = steering  # type: ignore[assignment]
        found.append(one)
    return found


def expected(logits: torch.Tensor, sequence: Sequence) -> torch.Tensor:
    allowed = None
    if sequence.steering is not None:
        allowed = torch.zeros(SIZE, dtype=torch.bool)
        allowed[[1, 3, 7, 8, 21]] = True
    shaped = adjusted(logits, sequence.params, sequence.prompt, sequence.output, allowed)
    return distribution(shaped, sequence.params)


@pytest.mark.parametrize("seed", range(12))
def test_every_draw_inverts_the_defined_distribution(seed):
    rows = sequences(seed)
    logits = torch.randn(len(rows), SIZE, generator=torch.Generator().manual_seed(seed)) * 3
    for row, drawn in zip(rows, draw(logits, rows), strict=True):
        shares = expected(logits[row.id], row)
        assert shares[drawn.token] > 0
        below = shares[: drawn.token].sum().item()
        place = uniform(row.seed, len(row.output))
        assert below - 1e-6 <= place <= below + shares[drawn.token].item() + 1e-6 or (
            row.params.greedy
        )


def test_cuts_keep_what_the_definition_keeps():
    rows = [row for row in sequences(3) if not row.params.greedy]
    logits = torch.randn(len(rows), SIZE, generator=torch.Generator().manual_seed(0)) * 2
    shaped = adjust(logits, rows)
    shares = torch.stack(
        [
            ((one - one.max()).double() / row.params.temperature).softmax(-1)
            for one, row in zip(shaped, rows, strict=True)
        ]
    )
    kept = _kept(shares, [row.params for row in rows]) & (shares > 0)
    for place, row in enumerate(rows):
        assert (kept[place] == (expected(logits[place], row) > 0)).all(), row.params


def test_a_row_does_not_depend_on_the_batch():
    rows = sequences(5)
    logits = torch.randn(len(rows), SIZE, generator=torch.Generator().manual_seed(5))
    together = [one.token for one in draw(logits, rows)]
    for row in rows:
        row.history = None
    alone = [draw(logits[i : i + 1], [row])[0].token for i, row in enumerate(rows)]
    assert together == alone
    order = list(reversed(range(len(rows))))
    again = draw(logits[order], [rows[i] for i in order])
    assert [one.token for one in again] == [together[i] for i in order]


@pytest.mark.parametrize("only", [None, {"temperature": 0}, {"temperature": 0, "logprobs": 3}, {}])
def test_rounded_logits_draw_what_the_same_numbers_in_fp32_do(only):
    rows = sequences(2)
    if only is not None:
        rows = [replace(row, params=SamplingParams(**only), steering=None) for row in rows]
    logits = torch.randn(len(rows), SIZE, generator=torch.Generator().manual_seed(2)).bfloat16()
    logits[0, 3] = float("nan")
    narrow = draw(logits, rows)
    for row in rows:
        row.history = None
    wide = draw(logits.float(), rows)
    assert repr(narrow) == repr(wide)  # NaN is not equal to itself


def test_a_history_follows_the_output_and_is_made_again_after_a_step_back():
    history = History([5, 5], 10, torch.device("cpu"))
    assert history.follow([1, 2, 1])
    assert history.counts.tolist() == [0, 2, 1, 0, 0, 0, 0, 0, 0, 0]
    assert history.seen.nonzero()[:, 0].tolist() == [1, 2, 5]
    assert history.follow([1, 2, 1, 9])
    assert history.counts[9] == 1
    assert not history.follow([1])


def test_bits_are_unpacked_in_order_and_missing_ones_are_off():
    bits = np.random.default_rng(0).integers(0, 2, (3, 64)).astype(np.uint8)
    masks = [np.packbits(row, bitorder="little").tobytes() for row in bits]
    found = unpack(masks, 50, torch.device("cpu"))
    assert (found.numpy() == bits[:, :50].astype(bool)).all()
    assert not unpack(masks, 70, torch.device("cpu"))[:, 64:].any()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", math.inf),
        ("repetition_penalty", 5e-324),
        ("presence_penalty", 1e300),
        ("logit_bias", {1: -1e300}),
        ("presence_penalty", "x"),
        ("frequency_penalty", math.nan),
        ("logit_bias", 5),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {"a": 1.0}),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        SamplingParams(**{field: value})


def test_a_bias_outside_the_vocabulary_is_refused(model, words):
    engine = Engine(model, words, slots=1, capacity=64)
    with pytest.raises(UserError, match="logit_bias=5000"):
        engine.generate(["a"], SamplingParams(logit_bias={5000: 1.0}))
    bias = SamplingParams(logit_bias={9: 1000.0}, max_tokens=5, logprobs=1)
    (one,) = engine.generate(["a"], bias)
    assert one.tokens == [9] * 5
    assert one.logprobs is not None
    assert min(one.logprobs) < -0.5, "log-probabilities are the model's own"


def test_penalties_forbid_what_was_there(model, words):
    engine = Engine(model, words, slots=2, capacity=128)
    params = SamplingParams(temperature=0, max_tokens=40, presence_penalty=1e6, ignore_eos=True)
    (one,) = engine.generate(["a"], params)
    assert len(set(one.tokens)) == 40


def test_code_prompts_have_the_layout_of_training(words):
    def spelled(prompt: CodePrompt) -> str:
        return words.decode(prompt.encode(words))

    files = (SourceText("a.py", "A = 1\n"), SourceText("b.py", "B = 2\n"))
    whole = CodePrompt(prefix="x = ", suffix="\n", path="c.py", repository="me/repo", files=files)
    assert spelled(whole) == (
        "<repo_name>me/repo<file_sep>a.py\nA = 1\n<file_sep>b.py\nB = 2\n"
        "<file_sep><fim_prefix>c.py\nx = <fim_suffix>\n<fim_middle>"
    )
    onward = CodePrompt(prefix="x = ", path="c.py", repository="me/repo", files=files[:1])
    assert spelled(onward) == ("<repo_name>me/repo<file_sep>a.py\nA = 1\n<file_sep>c.py\nx = ")
    assert spelled(CodePrompt(prefix="a", suffix="b")) == "<fim_prefix>a<fim_suffix>b<fim_middle>"
    names = ("<file_sep>", "<|endoftext|>", "<repo_name>", "<fim_prefix>")
    assert {words.id(name) for name in names} <= whole.stops(words) == onward.stops(words)
    assert not CodePrompt(prefix="a").stops(words)
    spelling = CodePrompt(prefix="<fim_middle>", suffix="<file_sep>")
    ids = spelling.encode(words)
    assert ids.count(words.id("<fim_middle>")) == 1
    assert words.id("<file_sep>") not in ids
    with pytest.raises(UserError, match="path"):
        CodePrompt(prefix="a", repository="me/repo").encode(words)


def test_a_file_ends_at_the_next(model, words):
    engine = Engine(model, words, slots=1, capacity=128)
    prompt = CodePrompt(prefix="x", suffix="y", path="c.py", repository="me/repo")
    ends = SamplingParams(logit_bias={words.id("<file_sep>"): 1000.0}, max_tokens=9)
    (one,) = engine.generate([prompt], ends)
    assert (one.finish_reason, one.text) == ("stop", "")
    assert one.prompt_tokens == prompt.encode(words)


def test_a_grammar_and_ignore_eos_contradict():
    with pytest.raises(UserError, match="ignore_eos"):
        SamplingParams(grammar=Grammar.json(), ignore_eos=True)


@pytest.mark.parametrize("seed", range(6))
def test_cuts_without_an_order_are_those_of_the_order(seed):
    """Flat rows, equal tokens at the cut, rows that are no numbers, a top p at the very end."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(40, 300, generator=generator, dtype=torch.float64) * 3
    rows[10:20] = rows[10:20].round()
    rows[20:25] = 0
    rows[25] = math.nan
    rows[26:30, 5:] = -torch.inf
    rows[30] *= 40
    shares = rows.softmax(-1)
    tops = torch.rand(40, generator=generator).tolist()
    params = [
        SamplingParams(
            top_k=(0, 0, 1, 7, 250, 1000)[i % 6],
            top_p=(1.0, max(top, 1e-3), 1 - 1e-16, 1 - 1e-9, 0.5)[i % 5],
            min_p=(0.0, 0.0, top, 1.0)[i % 4],
        )
        for i, top in enumerate(tops)
    ]
    assert torch.equal(_kept(shares, params), _kept_by_order(shares, params))
    order = torch.randperm(40, generator=generator).tolist()
    mixed = [params[i] for i in order]
    assert torch.equal(_kept(shares, mixed), _kept_by_order(shares, mixed))
    one_each = [_kept(shares[i : i + 1], params[i : i + 1]) for i in range(40)]
    assert torch.equal(torch.cat(one_each), _kept(shares, params))
