"""Functional correctness: assemble programs, run them in the sandbox, count what passes."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from cairn.base import progress
from cairn.base.sandbox import Outcome, Program, python_program
from cairn.evaluate.scorers import pass_at_k
from cairn.evaluate.task import Example, Score, Setting, Task, mean_score

KS = (1, 10, 100)
AT_ONCE = 64  # programs between two steps of the progress bar
ERROR = re.compile(rb"^([A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Iteration))\b")


def program_of(example: Example, solution: str) -> Program:
    """The program that ends well only if `solution` (all of the code) passes the tests.

    Its last line must print a word that depends on the example: a solution that ends the
    interpreter early, with exit code 0, has not passed. (A solution that sets out to cheat could
    read its own file: scores are of models that were not made to.)
    """
    parts = [solution, example.facts.get("setup", ""), example.facts["tests"]]
    ending = f"print({_word(example)!r}, flush=True)"
    return python_program("\n".join([*parts, "", ending, ""]))


def _word(example: Example) -> str:
    return "passed-" + hashlib.sha256(f"cairn\0{example.id}".encode()).hexdigest()[:16]


def passed(example: Example, outcome: Outcome) -> bool:
    """Whether the program of an example ran to its last line."""
    lines = outcome.stdout.splitlines()
    return outcome.status == "ok" and bool(lines) and lines[-1] == _word(example).encode()


def error_of(outcome: Outcome) -> str:
    """The name of the exception that ended a Python program, or nothing.

    The name alone: messages may hold addresses, times or paths that differ from run to run.
    """
    last = outcome.stderr.rstrip().rpartition(b"\n")[2]
    found = ERROR.match(last)
    return found.group(1).decode() if found else ""


def score_programs(
    task: Task,
    examples: Sequence[Example],
    solutions: Sequence[Sequence[str]],
    setting: Setting,
) -> tuple[list[Score], list[dict[str, Any]]]:
    """Run every solution (whole programs, some for each example): pass@k and records."""
    jobs = [
        (number, sample, program_of(example, solution))
        for number, (example, several) in enumerate(zip(examples, solutions, strict=True))
        for sample, solution in enumerate(several)
    ]
    outcomes: list[Outcome] = []
    with progress(f"{task.name}: run", total=len(jobs), unit="programs") as bar:
        for start in range(0, len(jobs), AT_ONCE):
            several = [program for _, _, program in jobs[start : start + AT_ONCE]]
            outcomes += setting.sandbox.run_many(several, setting.workers)
            bar.advance(len(several))
    rights: list[list[bool]] = [[] for _ in examples]
    records = []
    for (number, sample, _), outcome in zip(jobs, outcomes, strict=True):
        right = passed(examples[number], outcome)
        rights[number].append(right)
        records.append(
            {
                "id": examples[number].id,
                "sample": sample,
                "passed": right,
                "status": outcome.status,
                "error": error_of(outcome),
            }
        )
    fewest = min(len(several) for several in rights)
    scores = [
        mean_score(
            task,
            f"pass@{k}",
            [pass_at_k(len(several), sum(several), k) for several in rights],
        )
        for k in KS
        if k <= fewest
    ]
    return scores, records


def indented(completion: str) -> str:
    """The completion up to its first line that is neither blank nor indented: a function's body."""
    kept = []
    for line in completion.split("\n"):
        if kept and line and not line[0].isspace():  # the first line goes on from the prompt
            break
        kept.append(line)
    return "\n".join(kept)


def before(completion: str, stops: Sequence[str]) -> str:
    """The completion up to the first of the stop strings."""
    places = [place for stop in stops if (place := completion.find(stop)) >= 0]
    return completion[: min(places)] if places else completion
