"""When guessing ahead pays: one request, prompt lookup on and off, on texts that repeat or do not.

The model is a random one of a shape, so what it draws means nothing: the tokens that it draws are
replaced by those of a given text, when they are drawn. What guesses cost and how many are right is
that of the text, and the steps are the model's own. One JSON line per text:
- `edit`: a module written out again with two names changed; `code`: a module goes on;
  `prose`: a page of these docs goes on. `random`: tokens at random.
Runs take turns, and the fastest of each counts: what is slower is somebody else's work.
Run it as `python bench/guesses.py [--shape small|hybrid] [--most 4] [--tokens 192]`.
"""

import argparse
import inspect
import json
import textwrap
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from serving import SHAPES, greedy, random_tokens

from cairn.engine import Engine, SamplingParams, Speculation, stepper, verification
from cairn.engine.options import Caching
from cairn.engine.sampler import Draws, begin_draw
from cairn.engine.sequence import Sequence, TokenLogprob
from cairn.model import build
from cairn.tokens.learning import learn

DOCS = Path(__file__).parent.parent / "docs"


class Given:
    """Draws whose tokens are those of a text."""

    def __init__(self, draws: Draws, sequences: list[Sequence], text: list[int]) -> None:
        self.tokens, self._draws, self._text = draws.tokens, draws, text
        self._places = [len(one.output) for one in sequences]

    def read(self) -> list[TokenLogprob]:
        """As many as there are sequences."""
        found = zip(self._draws.read(), self._places, strict=True)
        return [replace(drawn, token=self._text[place]) for drawn, place in found]


def give(text: list[int]) -> None:
    """Have every sequence draw this text."""

    def begun(logits: torch.Tensor, sequences: list[Sequence]) -> Given:
        return Given(begin_draw(logits, sequences), sequences, text)

    stepper.begin_draw = begun  # type: ignore[assignment]
    verification.draw = lambda logits, sequences: begun(logits, sequences).read()


def texts(count: int, vocab_size: int) -> dict[str, tuple[list[int], list[int]]]:
    """By name, a prompt and the `count` tokens that follow."""
    code, more = inspect.getsource(textwrap), inspect.getsource(types)
    prose = (DOCS / "serving.md").read_text()
    words = learn([code, more, prose], 1500)

    def ids(text: str) -> list[int]:
        return words.encode(text)

    changed = ids(code.replace("width", "columns").replace("chunks", "parts"))
    found = {"edit": (ids(code)[:1200], changed[:count])}
    for name, text in (("code", more), ("prose", prose)):
        whole = ids(text)[: 1200 + count]
        found[name] = (whole[:1200], whole[1200:])
    rest = random_tokens(1200 + count, min(1500, vocab_size), 0)
    return found | {"random": (rest[:1200], rest[1200:])}


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="hybrid")
    parser.add_argument("--most", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    model = build(SHAPES[arguments.shape], 0, device=arguments.device)
    for name, (prompt, answer) in texts(arguments.tokens, model.config.vocab_size).items():
        give(answer)
        params: SamplingParams = greedy(len(answer))
        line: dict[str, Any] = {"bench": "guesses", "text": name, "drawn": len(answer)}
        best = {False: float("inf"), True: float("inf")}
        load = None
        for _ in range(arguments.rounds):
            for guesses in best:
                given = Speculation(most=arguments.most) if guesses else None
                caching = Caching(prefixes=False)
                engine = Engine(model, slots=1, capacity=2048, speculation=given, caching=caching)
                stream = engine.stream(prompt, params)
                got = list(next(stream).tokens)
                began = time.perf_counter()
                got += [token for delta in stream for token in delta.tokens]
                best[guesses] = min(best[guesses], time.perf_counter() - began)
                assert got == answer
                load = engine.load
        assert load is not None
        line |= {
            "tokens_per_second": round((len(answer) - 1) / best[False], 1),
            "tokens_per_second_with_guesses": round((len(answer) - 1) / best[True], 1),
            "faster": round(best[False] / best[True], 2),
            "guessed": load.tokens_guessed,
            "right": load.tokens_accepted,
            "steps": load.steps,
            "shape": arguments.shape,
            "threads": torch.get_num_threads(),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
