"""Needles in held-out text: one line is to be found again, from anywhere in a long context.

In the manner of RULER (arXiv 2404.06654): the haystack is real held-out text of an exact number of
tokens, and a needle assigns six digits to a name. `single` hides one; `multikey` hides three more
whose names share a word with it, so that near misses cost. The digits are asked by the beginning of
the line, as code has it:

    magic_quiet_river = "402817"
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cairn.evaluate.heldout import File
from cairn.evaluate.task import Example, Result, Score, Setting, mean, prompt_digest, refuse_empty
from cairn.tokens.tokenizer import Tokenizer

LENGTHS = {"512": 512, "1k": 1024, "2k": 2048, "4k": 4096, "8k": 8192, "16k": 16_384} | {
    f"{k}k": k * 1024 for k in (32, 64, 128, 256, 512)
}
FIRST = ["quiet", "amber", "brisk", "copper", "distant", "early", "gentle", "hollow"]
SECOND = ["river", "anchor", "basket", "candle", "dragon", "engine", "falcon", "garden"]
GROUPS = ("single", "multikey")
DISTRACTORS = 3
DIGITS = 6
EXAMPLES = 50  # of each group


@dataclass(frozen=True)
class Needle:
    """Find a needle in `tokens` tokens of held-out files.

    `accuracy`: greedy drawing gives all digits. `bits_per_digit`: what the model spends on a digit
    of the answer; guessing costs 3.32. `bits_found_per_digit`: how many fewer they are than where
    the needle holds other digits. That is 0 for a model that does not look back, whatever it knows
    of digits, and tells of a gain long before accuracy does.
    """

    name: str
    tokens: int
    version: int = 1

    def run(self, setting: Setting) -> Result:
        """See `Task.run`; a model is asked beyond the context that it was trained for, and
        `conditions` has that."""
        speaker = setting.speaker
        lines = haystack(setting.heldout.files, speaker.tokenizer, self.tokens)
        examples, pieces = [], []
        for group in GROUPS:
            for number in range(min(setting.limit or EXAMPLES, EXAMPLES)):
                example, ids, other, counted = self.example(group, number, lines, speaker.tokenizer)
                examples.append(example)
                pieces += [(ids, counted), (other, counted)]
        refuse_empty(self, examples)
        found = speaker.answered(pieces, self.name)
        lost = [bits for bits, _ in found[1::2]]
        records = [
            {
                "id": example.id,
                "group": example.group,
                "depth": example.facts["depth"],
                "reference": example.reference,
                "bits": round(bits, 3),
                "bits_without": round(without, 3),
                "found": exact,
            }
            for example, (bits, exact), without in zip(examples, found[::2], lost, strict=True)
        ]
        conditions = {
            "version": self.version,
            "examples": len(examples),
            "tokens": self.tokens,
            "trained_context": speaker.model.config.max_positions,
            "prompt_digest": prompt_digest(examples),
        }
        return Result(scores=self._scores(records), records=records, conditions=conditions)

    def example(
        self, group: str, number: int, lines: Sequence[Sequence[int]], tokenizer: Tokenizer
    ) -> tuple[Example, list[int], list[int], int]:
        """One example, its token ids (just `tokens` of them), the same ids where the needle holds
        other digits, and how many of them are the answer."""
        seed = hashlib.sha256(f"{group}/{number}".encode()).digest()
        generator = np.random.default_rng(list(seed[:8]))
        names, values = _draw(generator, DISTRACTORS if group == "multikey" else 0)
        needles = [tokenizer.encode(f'{n} = "{v}"\n') for n, v in zip(names, values, strict=True)]
        false = tokenizer.encode(f'{names[0]} = "{_turned(values[0])}"\n')
        question = tokenizer.encode(f'\n{names[0]} = "')
        answer = tokenizer.encode(values[0])
        start = tokenizer.id("<file_sep>" if tokenizer.has("<file_sep>") else "<|endoftext|>")
        room = self.tokens - 1 - sum(map(len, needles)) - len(question) - len(answer)
        told = _cut(lines, int(generator.integers(len(lines))), room)
        depth = (number % 10 + 0.5) / 10
        places = [int(depth * len(told)), *generator.integers(0, len(told), len(needles) - 1)]
        for place, needle in sorted(zip(places, needles, strict=True), reverse=True):
            told[place:place] = [needle]
        other = [false if line is needles[0] else line for line in told]
        end = [*question, *answer]
        ids = [start, *(token for line in told for token in line), *end]
        without = [start, *(token for line in other for token in line), *end]
        example = Example(
            id=f"{group}/{number}",
            prompt=tokenizer.decode(ids[: -len(answer)]),
            reference=values[0],
            group=group,
            facts={"depth": depth},
        )
        return example, ids, without, len(answer)

    def _scores(self, records: Sequence[dict[str, Any]]) -> list[Score]:
        scores = []
        for group in (None, *GROUPS):
            chosen = [one for one in records if group in (None, one["group"])]
            tail = "" if group is None else f"/{group}"
            bits = [float(one["bits"]) for one in chosen]
            saved = [float(one["bits_without"]) - b for one, b in zip(chosen, bits, strict=True)]
            for metric, values in (
                ("accuracy", [float(one["found"]) for one in chosen]),
                ("bits_per_digit", [one / DIGITS for one in bits]),
                ("bits_found_per_digit", [one / DIGITS for one in saved]),
            ):
                value, error = mean(values)
                scores.append(
                    Score(
                        task=self.name,
                        version=self.version,
                        metric=metric + tail,
                        value=value,
                        n=len(values),
                        standard_error=error,
                        higher_is_better=metric != "bits_per_digit",
                    )
                )
        return scores


def haystack(files: Sequence[File], tokenizer: Tokenizer, tokens: int) -> list[list[int]]:
    """Lines of held-out files, encoded one by one, repeated until they are `tokens` and more."""
    text = [line for file in files for line in file.text.splitlines(keepends=True) if line.strip()]
    lines = [ids.tolist() for ids in tokenizer.encode_arrays(text)]
    lines = [line for line in lines if 0 < len(line) < max(tokens // 8, 2)]
    return lines


def _cut(lines: Sequence[Sequence[int]], first: int, room: int) -> list[Sequence[int]]:
    """Lines from one on, round and round, of `room` tokens in all; the last may be cut."""
    told: list[Sequence[int]] = []
    at = first
    while room > 0:
        line = lines[at % len(lines)][:room]
        told.append(line)
        room -= len(line)
        at += 1
    return told


def _turned(value: str) -> str:
    """Other digits in every place."""
    return "".join(str((int(digit) + 5) % 10) for digit in value)


def _draw(generator: np.random.Generator, others: int) -> tuple[list[str], list[str]]:
    """Names and values, the needle's first; the others' names share a word with it."""
    first, second = generator.choice(FIRST), generator.choice(SECOND)
    pairs = [(first, second)]
    while len(pairs) < 1 + others:
        share = len(pairs) % 2
        one = generator.choice(FIRST) if share else first
        two = second if share else generator.choice(SECOND)
        if (one, two) not in pairs:
            pairs.append((one, two))
    values = [f"{generator.integers(10 ** (DIGITS - 1), 10**DIGITS)}" for _ in pairs]
    return [f"magic_{one}_{two}" for one, two in pairs], values
