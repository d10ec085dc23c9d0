"""Small functions of our own making: bodies from signature and docstring, scored by tests."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn.evaluate.humaneval import STOPS, score_bodies
from cairn.evaluate.task import Example, Result, Setting, refuse_empty

FILE = Path(__file__).with_name("functions.toml")
MAX_TOKENS = 256


@dataclass(frozen=True)
class Functions:
    """The problems of functions.toml, zero-shot; pass@k by their tests.

    Asked and cut as HumanEval is, and easier: a ruler for models too small for HumanEval.
    """

    name: str = "functions"
    version: int = 1

    def examples(self, limit: int | None = None) -> list[Example]:
        """Problems in the file's order; `facts["wrong"]` is a body that must fail."""
        rows = tomllib.loads(FILE.read_text(encoding="utf-8"))["problem"]
        return [
            Example(
                id=row["id"],
                prompt=row["prompt"],
                reference=row["reference"],
                facts={"tests": row["tests"], "wrong": row["wrong"]},
            )
            for row in rows[:limit]
        ]

    def run(self, setting: Setting) -> Result:
        """See `Task.run`."""
        examples = self.examples(setting.limit)
        refuse_empty(self, examples)
        answers = setting.speaker.answer(self.name, examples, setting.sampling, MAX_TOKENS, STOPS)
        return self.score(examples, answers, setting)

    def score(
        self, examples: Sequence[Example], answers: Sequence[Sequence[str]], setting: Setting
    ) -> Result:
        """pass@k of some answers for each example."""
        return score_bodies(self, examples, answers, setting, MAX_TOKENS)
