"""Saves from which a killed run goes on, bit for bit: weights, moments, place in the data."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cairn.base import UserError, note, write_json
from cairn.base.artifact import remove
from cairn.base.files import sha256_of

STATE, TENSORS = "state.json", "tensors.safetensors"


def save(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Write folder/step-N whole beside and rename; the save before it stays until then.

    `state` is JSON and has `step`. Floats survive JSON exactly (repr round-trips).
    """
    final = folder / f"step-{state['step']:09d}"
    beside = folder / f".{final.name}.part"
    remove(beside)
    beside.mkdir(parents=True)
    tensors = {f"model.{n}": p.detach().contiguous() for n, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value.detach().contiguous()
    save_file(tensors, beside / TENSORS)
    write_json(beside / STATE, state | {"sha256": sha256_of(beside / TENSORS)})
    remove(final)
    beside.replace(final)
    for old in _saves(folder)[2:]:
        remove(old)


def load(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Restore the newest whole save; its state, or None where there is none.

    A save that a crash or a full disk damaged is told and passed over for the one before it.
    """
    for save_folder in _saves(folder):
        try:
            state = json.loads((save_folder / STATE).read_text(encoding="utf-8"))
            if sha256_of(save_folder / TENSORS) != state.pop("sha256"):
                raise ValueError("its tensors differ from their SHA-256")
            tensors = load_file(save_folder / TENSORS)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            note(f"{save_folder} is damaged ({error}): going back to the save before it")
            continue
        _restore(model, optimizer, tensors)
        return state
    return None


def _saves(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


@torch.no_grad()
def _restore(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    for name, parameter in model.named_parameters():
        stored = tensors.get(f"model.{name}")
        if stored is None or stored.shape != parameter.shape:
            raise UserError(f"the save does not fit the model at {name}: delete resume/")
        parameter.copy_(stored)
    optimizer.state.clear()
    for name, parameter in model.named_parameters():
        found = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors.get(f"optimizer.{key}.{name}")
            if value is not None:
                found[key] = value.to(parameter.device)
        if found:
            optimizer.state[parameter] = found
