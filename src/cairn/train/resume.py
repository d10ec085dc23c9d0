"""Saves from which a killed run goes on, bit for bit: weights, moments, and the step.

torch's distributed checkpoint writes them: each rank what it holds, by its place in the whole
tensors, so that any number of ranks goes on from what another has saved. A save is written in the
background from a copy, beside its place, and renamed when it is whole.
"""

import json
import pickle
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as read_pieces
from torch.distributed.checkpoint.state_dict_saver import save as write_pieces

from cairn.base import UserError, note, write_json
from cairn.base.artifact import remove
from cairn.base.files import sha256_of
from cairn.model import Decoder
from cairn.train.parallel.pieces import Piece, held, pieces
from cairn.train.parallel.ranks import Ranks
from cairn.train.parallel.storage import Held, LoadPlanner, Reader, SavePlanner, Writer

STATE, MOMENTS = "state.json", ("exp_avg", "exp_avg_sq")
KEPT = 2  # saves: should the newest turn out damaged, there is one before it


class Saves:
    """The saves of one run in `folder`, written by all its ranks."""

    def __init__(
        self, folder: Path, model: Decoder, optimizer: torch.optim.Optimizer, ranks: Ranks
    ) -> None:
        self.folder, self.model, self.optimizer, self.ranks = folder, model, optimizer, ranks
        self.pieces = pieces(model, ranks)
        self._writer = ThreadPoolExecutor(1, "save")
        self._writing: Future[None] | None = None
        # One process is no mistake.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable")

    def save(self, state: dict[str, Any]) -> None:
        """Begin to write folder/step-N, once the save before is done; the one before stays.

        `state` is JSON and has `step`. Floats survive JSON exactly (repr round-trips).
        """
        self.wait()
        tensors = {
            name: Held(piece, tensor.detach().to("cpu", copy=True))
            for name, (piece, tensor) in self._tensors().items()
        }
        steps = {name: float(self._moments(p)["step"]) for name, p in self._moved()}
        whole = state | {"moments": steps, "ranks": self.ranks.world}
        self._writing = self._writer.submit(self._write, tensors, whole)

    def __enter__(self) -> "Saves":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """What is being written is finished first, also where the run breaks off."""
        try:
            self.wait()
        except Exception:
            if kind is None:
                raise
        finally:
            self._writer.shutdown()

    def wait(self) -> None:
        """Until what is being written is whole; OSError where it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def load(self) -> dict[str, Any] | None:
        """Restore the newest whole save; its state, or None where there is none.

        A save that a crash or a full disk damaged is told and passed over for the one before it.
        """
        for folder in self._agreed():
            problem = self._problem(folder)
            if not self.ranks.any(bool(problem)):
                state = json.loads((folder / STATE).read_text(encoding="utf-8"))
                self._restore(folder, state)
                return state
            if problem:
                note(f"{folder} is damaged ({problem}): going back to the save before it")
        return None

    # -- what is saved -------------------------------------------------------------------------

    def _moments(self, parameter: Tensor) -> dict[str, Any]:
        return self.optimizer.state.get(parameter, {})

    def _moved(self) -> list[tuple[str, Tensor]]:
        """Parameters that have been stepped."""
        return [(n, p) for n, p in self.model.named_parameters() if self._moments(p)]

    def _tensors(self) -> dict[str, tuple[Piece, Tensor]]:
        """All that a save holds, in place."""
        found = {
            f"model.{name}": (self.pieces[name], held(p.detach()))
            for name, p in self.model.named_parameters()
        }
        for name, parameter in self._moved():
            for key in MOMENTS:
                moment = held(self._moments(parameter)[key])
                found[f"optimizer.{key}.{name}"] = (self.pieces[name], moment)
        return found

    # -- writing -------------------------------------------------------------------------------

    def _write(self, tensors: dict[str, Held], state: dict[str, Any]) -> None:
        final = self.folder / f"step-{state['step']:09d}"
        beside = self.folder / f".{final.name}.part"
        try:
            self._first(lambda: self._begin(beside))
            self._write_parts(beside, tensors)
            self._first(lambda: self._finish(beside, final, state))
        except (CheckpointException, OSError) as error:
            if self.ranks.lead:
                remove(beside)
            raise OSError(f"{final} could not be written: {_cause(error)}") from error

    def _first(self, act: Callable[[], None]) -> None:
        """Let the first rank do something, and all know whether it could."""
        problem = None
        try:
            if self.ranks.lead:
                act()
        except OSError as error:
            problem = error
        self._agree(problem)

    def _agree(self, problem: OSError | None) -> None:
        if self.ranks.any(problem is not None, self.ranks.storing):
            raise problem or OSError("another rank could not write its part")

    def _begin(self, beside: Path) -> None:
        for stale in self.folder.glob(".step-*.part"):
            remove(stale)
        beside.mkdir(parents=True)

    def _finish(self, beside: Path, final: Path, state: dict[str, Any]) -> None:
        write_json(beside / STATE, state)
        remove(final)
        beside.replace(final)
        for old in _saves(self.folder)[KEPT:]:
            remove(old)

    def _write_parts(self, beside: Path, tensors: dict[str, Held]) -> None:
        alone = self.ranks.world == 1
        write_pieces(
            tensors,
            storage_writer=Writer(beside),
            planner=SavePlanner(),
            process_group=self.ranks.storing,
            no_dist=alone,
        )
        own = [f for f in beside.iterdir() if f.name.startswith(f"__{self.ranks.rank}_")]
        if self.ranks.lead:
            own.append(beside / ".metadata")
        problem = None
        try:
            digests = {file.name: sha256_of(file) for file in own}
            write_json(beside / f"digests-{self.ranks.rank}.json", digests)
        except OSError as error:
            problem = error
        self._agree(problem)

    # -- reading -------------------------------------------------------------------------------

    def _agreed(self) -> list[Path]:
        """Saves, newest first, as the lead rank sees them."""
        found = [_saves(self.folder)]
        if self.ranks.world > 1:
            dist.broadcast_object_list(found, 0, group=self.ranks.storing)
        return found[0]

    def _problem(self, folder: Path) -> str:
        """What is wrong with a save; ranks share its files."""
        try:
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            for rank in range(self.ranks.rank, state["ranks"], self.ranks.world):
                digests = json.loads((folder / f"digests-{rank}.json").read_text(encoding="utf-8"))
                for name, digest in digests.items():
                    if sha256_of(folder / name) != digest:
                        return f"{name} differs from its SHA-256"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return str(error)
        return ""

    def _restore(self, folder: Path, state: dict[str, Any]) -> None:
        reader = Reader(folder)
        steps = state.pop("moments")
        self.optimizer.state.clear()
        for name, parameter in self.model.named_parameters():
            if name in steps:
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(steps[name], device=parameter.device),
                    **{key: torch.zeros_like(parameter.detach()) for key in MOMENTS},
                }
        wanted = {name: Held(*one) for name, one in self._tensors().items()}
        try:
            stored = reader.read_metadata().state_dict_metadata
        except pickle.UnpicklingError as error:  # its digest was right
            problem = f"{folder} is of another version, or no save ({error}): delete resume/"
            raise UserError(problem) from error
        for name, one in wanted.items():
            size = getattr(stored.get(name), "size", None)
            if size is None or tuple(size) != one.piece.shape:
                raise UserError(f"the save does not fit the model at {name}: delete resume/")
        alone = self.ranks.world == 1
        read_pieces(
            wanted,
            storage_reader=reader,
            planner=LoadPlanner(),
            process_group=self.ranks.storing,
            no_dist=alone,
        )


def _saves(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _cause(error: BaseException) -> str:
    """What went wrong on the first rank that tells."""
    failures: dict[int, Any] = getattr(error, "failures", {})
    found: Sequence[Any] = next(iter(failures.values()), (error,))
    return " ".join(str(found[0]).split())
