"""The processes that `torchrun` starts, as `cairn make` sees them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cairn.base.make import Made
from cairn.base.make import make as make_alone
from cairn.base.plan import Plan
from cairn.train.parallel.ranks import meet, processes


def make(
    plan: Plan,
    folder: Path,
    target: str | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> list[Made]:
    """`base.make.make` by all processes that `torchrun` started; the others return nothing."""
    if processes()[1] == 1:
        return make_alone(plan, folder, target, report)
    with Crew() as crew:
        return make_alone(plan, folder, target, report, crew)


class Crew:
    """See `base.make.Crew`; inside `with`, the processes are connected."""

    def __init__(self) -> None:
        self.lead = processes()[0] == 0
        self._joined = False  # others are in what they were told, and hear nothing

    def __enter__(self) -> "Crew":
        meet()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """The others leave with the first, but where they are in the midst of a failed recipe.

        From there they come out by themselves: by the same error, or by the lost connection.
        """
        if kind is None or (self.lead and not self._joined):
            if self.lead:
                self.tell(None)
            dist.destroy_process_group()

    def tell(self, name: str | None) -> None:
        """Of the first: all are to make this artifact; None: nothing more is to do."""
        self._joined = name is not None
        dist.broadcast_object_list([name], 0)

    def hear(self) -> str | None:
        """Of the others: what the first tells next."""
        told: list[Any] = [None]
        dist.broadcast_object_list(told, 0)
        return told[0]
