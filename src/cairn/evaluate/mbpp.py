"""MBPP (arXiv 2108.07732): short programs from a sentence and the tests they must pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cairn.evaluate.humaneval import read_rows, score_cut
from cairn.evaluate.programs import before
from cairn.evaluate.task import Example, Result, Setting, refuse_empty

FILE = "mbpp/mbpp.jsonl.gz"
TEST_SPLIT = range(11, 511)  # task ids of the official test split
STOPS = ("\nassert ", '\n"""', "\nprint(", "\nif __name__", "\n```")
MAX_TOKENS = 384


@dataclass(frozen=True)
class Mbpp:
    """The 500 problems of the test split, zero-shot; pass@k by their three tests.

    The prompt is a module docstring that holds the sentence and the tests, as other harnesses
    for base models ask it. It is neither the three-shot prompt of the paper nor EvalPlus's
    cleaned selection: scores of those do not compare.
    """

    name: str = "mbpp"
    version: int = 1

    def examples(self, setting: Setting) -> list[Example]:
        """Problems of the test split in order of their ids."""
        rows = [row for row in read_rows(setting.benchmark(FILE)) if row["task_id"] in TEST_SPLIT]
        rows.sort(key=lambda row: row["task_id"])
        return [_example(row) for row in rows[: setting.limit]]

    def run(self, setting: Setting) -> Result:
        """See `Task.run`."""
        examples = self.examples(setting)
        refuse_empty(self, examples)
        answers = setting.speaker.answer(self.name, examples, setting.sampling, MAX_TOKENS, STOPS)
        return self.score(examples, answers, setting)

    def score(
        self, examples: Sequence[Example], answers: Sequence[Sequence[str]], setting: Setting
    ) -> Result:
        """pass@k of some answers (whole programs) for each example."""
        cut = [[before(text, STOPS) for text in several] for several in answers]
        return score_cut(self, examples, cut, cut, setting, MAX_TOKENS, STOPS)


def _example(row: dict[str, Any]) -> Example:
    tests = "\n".join(row["test_list"])
    return Example(
        id=str(row["task_id"]),
        prompt=f'"""\n{row["text"].strip()}\n{tests}\n"""\n',
        reference=row["code"].replace("\r\n", "\n"),
        # after the solution: some set-ups build on what it defines
        facts={"setup": row["test_setup_code"].replace("\r\n", "\n"), "tests": tests},
    )
