"""HumanEval (arXiv 2107.03374) and its infilling variants (arXiv 2207.14255)."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn.base import UserError
from cairn.evaluate.programs import before, indented, score_programs
from cairn.evaluate.scorers import edit_similarity, exact_match
from cairn.evaluate.task import (
    Example,
    Result,
    Setting,
    Task,
    mean_score,
    prompt_digest,
    refuse_empty,
)

FILE = "humaneval/HumanEval.jsonl.gz"
STOPS = (
    "\nclass ",
    "\ndef ",
    "\n#",
    "\n@",
    "\nif ",
    "\nprint(",
    "\nassert ",
    "\nimport ",
    "\nfrom ",
)
MAX_TOKENS = 384
GAPS = {  # task -> file
    "humaneval_infilling": "SingleLineInfilling",
    "humaneval_infilling_multi_line": "MultiLineInfilling",
    "humaneval_infilling_random_span": "RandomSpanInfilling",
    "humaneval_infilling_random_span_light": "RandomSpanInfillingLight",
}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl or .jsonl.gz file; UserError where it is none."""
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON lines ({error}): fetch it anew") from None


@dataclass(frozen=True)
class HumanEval:
    """Bodies of 164 functions from signature and docstring, zero-shot; pass@k by their tests.

    The prompt is the file's own. The answer ends where the function does: at one of `STOPS`, or
    at the first line that is not indented.
    """

    name: str = "humaneval"
    version: int = 1

    def examples(self, setting: Setting) -> list[Example]:
        """Problems in the file's order."""
        rows = read_rows(setting.benchmark(FILE))[: setting.limit]
        return [
            Example(
                id=row["task_id"],
                prompt=row["prompt"],
                reference=row["canonical_solution"],
                facts={"tests": f"{row['test']}\ncheck({row['entry_point']})"},
            )
            for row in rows
        ]

    def run(self, setting: Setting) -> Result:
        """See `Task.run`."""
        examples = self.examples(setting)
        refuse_empty(self, examples)
        answers = setting.speaker.answer(self.name, examples, setting.sampling, MAX_TOKENS, STOPS)
        return self.score(examples, answers, setting)

    def score(
        self, examples: Sequence[Example], answers: Sequence[Sequence[str]], setting: Setting
    ) -> Result:
        """pass@k of some answers for each example."""
        return score_bodies(self, examples, answers, setting, MAX_TOKENS)


@dataclass(frozen=True)
class HumanEvalInfilling:
    """A gap in a HumanEval solution: pass@k by the tests, exact match and edit similarity.

    Of a single-line gap the answer is the first line that the model writes; of the others all.
    """

    name: str = "humaneval_infilling"
    version: int = 1

    @property
    def single_line(self) -> bool:
        """Whether the gaps are whole single lines."""
        return GAPS[self.name] == "SingleLineInfilling"

    @property
    def max_tokens(self) -> int:
        """Longest answer: the gaps are shorter."""
        return 64 if self.single_line else 256

    def examples(self, setting: Setting) -> list[Example]:
        """Gaps in the file's order."""
        path = setting.benchmark(f"humaneval_infilling/HumanEval-{GAPS[self.name]}.jsonl.gz")
        return [
            Example(
                id=row["task_id"],
                prompt=row["prompt"],
                suffix=row["suffix"],
                reference=row["canonical_solution"],
                facts={"tests": f"{row['test']}\ncheck({row['entry_point']})"},
            )
            for row in read_rows(path)[: setting.limit]
        ]

    def run(self, setting: Setting) -> Result:
        """See `Task.run`."""
        examples = self.examples(setting)
        refuse_empty(self, examples)
        stop = ("\n",) if self.single_line else ()
        drawn = setting.speaker.answer(self.name, examples, setting.sampling, self.max_tokens, stop)
        return self.score(examples, drawn, setting)

    def score(
        self, examples: Sequence[Example], answers: Sequence[Sequence[str]], setting: Setting
    ) -> Result:
        """pass@k, and exact match and edit similarity of the first answer to each."""
        if self.single_line:  # a gap of one line ends with the line end
            answers = [[before(text, ["\n"]) + "\n" for text in several] for several in answers]
        solutions = [
            [example.prompt + text + (example.suffix or "") for text in several]
            for example, several in zip(examples, answers, strict=True)
        ]
        scores, records = score_programs(self, examples, solutions, setting)
        firsts = [
            (several[0], example.reference)
            for example, several in zip(examples, answers, strict=True)
        ]
        scores.append(mean_score(self, "exact_match", [exact_match(*pair) for pair in firsts]))
        scores.append(
            mean_score(self, "edit_similarity", [edit_similarity(*pair) for pair in firsts])
        )
        stop = ("\n",) if self.single_line else ()
        return Result(
            scores=scores,
            records=with_answers(records, answers),
            references={example.id: example.reference for example in examples},
            conditions=conditions_of(self, examples, setting, self.max_tokens, stop),
        )


def score_bodies(
    task: Task,
    examples: Sequence[Example],
    answers: Sequence[Sequence[str]],
    setting: Setting,
    max_tokens: int,
) -> Result:
    """pass@k of functions' bodies, each cut where the function ends, behind their prompts."""
    cut = [[indented(before(text, STOPS)) for text in several] for several in answers]
    solutions = [
        [example.prompt + text for text in several]
        for example, several in zip(examples, cut, strict=True)
    ]
    return score_cut(task, examples, cut, solutions, setting, max_tokens, STOPS)


def score_cut(
    task: Task,
    examples: Sequence[Example],
    cut: Sequence[Sequence[str]],
    solutions: Sequence[Sequence[str]],
    setting: Setting,
    max_tokens: int,
    stops: Sequence[str],
) -> Result:
    """pass@k of whole programs, made of answers that were `cut` at their ends."""
    scores, records = score_programs(task, examples, solutions, setting)
    return Result(
        scores=scores,
        records=with_answers(records, cut),
        references={example.id: example.reference for example in examples},
        conditions=conditions_of(task, examples, setting, max_tokens, stops),
    )


def with_answers(
    records: list[dict[str, Any]], answers: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Records with the text that each one ran."""
    flat = [text for several in answers for text in several]
    return [{**record, "answer": text} for record, text in zip(records, flat, strict=True)]


def conditions_of(
    task: Any, examples: Sequence[Example], setting: Setting, max_tokens: int, stop: Sequence[str]
) -> dict[str, Any]:
    """What must agree for two scores of a generated-program task to be compared."""
    return {
        "version": task.version,
        "examples": len(examples),
        "prompt_digest": prompt_digest(examples),
        "sampling": dict(setting.sampling.__dict__),
        "max_tokens": max_tokens,
        "stop": list(stop),
        "sandbox": setting.sandbox.backend,
    }
