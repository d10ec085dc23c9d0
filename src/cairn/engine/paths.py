"""Which code serves every layer of a checkpoint, loaded as the engine loads it."""

from dataclasses import asdict
from pathlib import Path

import torch

from cairn.base import UserError
from cairn.base.log import note
from cairn.engine.assembly import opened, states_in
from cairn.model.served import print_served, served


def rows_of_folder(
    folder: Path,
    dtype: str | None = None,
    *,
    float8: bool = False,
    states: str | None = None,
    quiet: bool = False,
) -> list[dict[str, object]]:
    """`cairn.model.served` of a checkpoint as JSON values, printed unless `quiet`.

    On a GPU where there is one, in the dtype that the engine takes by itself unless one is given,
    with matrices in 8 bits and recurrent states in the dtype that are asked for. UserError where
    it is no folder.
    """
    if not folder.is_dir():
        mend = "give the folder of a checkpoint: --paths runs it"
        raise UserError("what", str(folder), "is no folder", mend)
    kind = None if dtype is None else getattr(torch, dtype)
    model = opened(folder, None, None, kind, "float8" if float8 else None, 1).model
    rows = served(model, states=states_in(states))
    if not quiet:
        print_served(rows)
        weights = "float8" if float8 else str(model.dtype).removeprefix("torch.")
        note(f"weights in {weights}, states in {states or 'float32'}, on {model.device.type}")
    return [asdict(row) for row in rows]
