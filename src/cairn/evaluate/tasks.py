"""The tasks by name."""

from cairn.base import UserError
from cairn.base.config import nearest
from cairn.evaluate.functions import Functions
from cairn.evaluate.humaneval import GAPS, HumanEval, HumanEvalInfilling
from cairn.evaluate.infilling import Infilling
from cairn.evaluate.likelihood import BitsPerByte
from cairn.evaluate.mbpp import Mbpp
from cairn.evaluate.needle import LENGTHS, Needle
from cairn.evaluate.task import Task


def all_tasks() -> dict[str, Task]:
    """Every task by the name that the command line spells."""
    tasks: list[Task] = [BitsPerByte(), Infilling(), Functions(), HumanEval(), Mbpp()]
    tasks += [HumanEvalInfilling(name) for name in GAPS]
    tasks += [Needle(f"needle_{name}", tokens) for name, tokens in LENGTHS.items()]
    return {task.name: task for task in tasks}


def find_tasks(names: tuple[str, ...]) -> list[Task]:
    """The tasks of these names, each once. UserError for an unknown one, or for none."""
    known = all_tasks()
    if not names:
        raise UserError("tasks", "()", "is empty", f"choose from {', '.join(known)}")
    for name in names:
        if name not in known:
            raise UserError("task", name, "is unknown", nearest(name, known))
    return [known[name] for name in dict.fromkeys(names)]
