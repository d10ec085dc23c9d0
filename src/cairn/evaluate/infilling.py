"""Fill-in-the-middle on held-out files: whole lines, and spans between any two characters."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from cairn.evaluate.heldout import File
from cairn.evaluate.programs import before
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

DEFAULT_LIMIT = 200
SINGLE_LINE, RANDOM_SPAN = "single_line", "random_span"
MAX_TOKENS = {SINGLE_LINE: 48, RANDOM_SPAN: 96}
PREFIX_CHARS, SUFFIX_CHARS = 1200, 600
SPAN_CHARS = (8, 120)  # shortest and longest random span
LEAST_CHARS = 200  # files shorter than this have too little around a gap


@dataclass(frozen=True)
class Infilling:
    """Gaps in held-out files, one of each kind for each file.

    `single_line`: a line with at least three letters or digits, its indentation included; the
    answer is what the model writes up to a line end. `random_span`: 8 to 120 characters from a
    place drawn uniformly; the answer is all that it writes. Exact match and edit similarity, both
    after white space at the ends is removed. Up to 1200 characters stand before the gap and 600
    behind it, fewer where the model's context is shorter.
    """

    name: str = "infilling"
    version: int = 1

    def examples(self, setting: Setting) -> list[Example]:
        """Gaps of the first held-out files that have any."""
        most = setting.limit or DEFAULT_LIMIT
        found = (gaps([file]) for file in setting.heldout.files)
        return [gap for of_file in islice(filter(None, found), most) for gap in of_file]

    def run(self, setting: Setting) -> Result:
        """See `Task.run`."""
        speaker = setting.speaker
        room = speaker.room(max(MAX_TOKENS.values()))
        examples = [fitted(e, speaker.tokenizer.encode, room) for e in self.examples(setting)]
        refuse_empty(self, examples)
        answers: list[str] = []
        for kind in (SINGLE_LINE, RANDOM_SPAN):
            mine = [example for example in examples if example.group == kind]
            stop = ("\n",) if kind == SINGLE_LINE else ()
            drawn = speaker.answer(self.name, mine, setting.sampling, MAX_TOKENS[kind], stop)
            answers += [several[0] for several in drawn]
        examples.sort(key=lambda example: (SINGLE_LINE, RANDOM_SPAN).index(example.group))
        return score_gaps(
            self,
            examples,
            answers,
            {"sampling": setting.sampling.__dict__, "max_tokens": MAX_TOKENS},
        )


def score_gaps(
    task: Task, examples: Sequence[Example], answers: Sequence[str], conditions: dict
) -> Result:
    """Exact match and edit similarity of one answer for each gap, by kind of gap."""
    records = []
    for example, text in zip(examples, answers, strict=True):
        answer = before(text, ["\n"]) if example.group == SINGLE_LINE else text
        records.append(
            {
                "id": example.id,
                "kind": example.group,
                "reference": example.reference,
                "answer": answer,
                "exact_match": exact_match(answer, example.reference),
                "edit_similarity": round(edit_similarity(answer, example.reference), 6),
            }
        )
    scores = [
        mean_score(
            task,
            f"{metric}/{kind}",
            [record[metric] for record in records if record["kind"] == kind],
        )
        for kind in dict.fromkeys(example.group for example in examples)
        for metric in ("exact_match", "edit_similarity")
    ]
    whole = {
        "version": task.version,
        "examples": len(examples),
        "prompt_digest": prompt_digest(examples),
        **conditions,
    }
    return Result(scores=scores, records=records, conditions=whole)


def gaps(files: Sequence[File]) -> list[Example]:
    """Up to one gap of each kind for each file: a function of the file's content alone."""
    found = []
    for file in files:
        text = file.text
        if len(text) < LEAST_CHARS:
            continue
        digest = hashlib.sha256(file.content).hexdigest()
        chance = random.Random(digest)
        for kind, cut in ((SINGLE_LINE, _line(text, chance)), (RANDOM_SPAN, _span(text, chance))):
            if cut is not None:
                start, stop = cut
                found.append(
                    Example(
                        id=f"{kind}/{digest[:16]}",
                        prompt=text[max(0, start - PREFIX_CHARS) : start],
                        suffix=text[stop : stop + SUFFIX_CHARS],
                        reference=text[start:stop],
                        group=kind,
                    )
                )
    return found


def _line(text: str, chance: random.Random) -> tuple[int, int] | None:
    """Where a drawn line begins and ends (its line end is left outside), if one is fit."""
    places, start = [], 0
    for line in text.split("\n"):
        if sum(char.isalnum() for char in line) >= 3 and len(line) <= SPAN_CHARS[1]:
            places.append((start, start + len(line)))
        start += len(line) + 1
    return chance.choice(places) if places else None


def _span(text: str, chance: random.Random) -> tuple[int, int] | None:
    length = chance.randint(*SPAN_CHARS)
    start = chance.randrange(0, len(text) - SPAN_CHARS[1])
    return (start, start + length) if text[start : start + length].strip() else None


def fitted(example: Example, encode: Callable[[str], list[int]], room: int) -> Example:
    """The example with as much around its gap as fits into `room` tokens, two thirds before it."""
    prefix, suffix = example.prompt, example.suffix or ""
    while len(encode(prefix)) > room * 2 // 3:
        prefix = prefix[len(prefix) // 8 + 1 :]
    while len(encode(suffix)) > room // 3:
        suffix = suffix[: len(suffix) - len(suffix) // 8 - 1]
    return Example(**{**example.__dict__, "prompt": prefix, "suffix": suffix})
