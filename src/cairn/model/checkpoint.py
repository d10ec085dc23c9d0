"""Checkpoint folders: config.json, generation_config.json and safetensors, read and written.

Names are those of released nemotron_h checkpoints, so transformers and common servers read what
`save` writes. Pickled weights are never opened: unpickling runs code from the file.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cairn.base import UserError, write_json
from cairn.model.config import ModelConfig
from cairn.model.decoder import Decoder, empty

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
_RENAMED = (("model.", "backbone."), ("backbone.embedding.", "backbone.embeddings."))


def load(
    folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Decoder:
    """The model in a checkpoint folder, in the stored dtype unless told.

    Raises UserError for a family that is not supported, for weights that are absent, pickled,
    truncated, missing, left over or of another shape: all of them named in one line.
    """
    folder = Path(folder)
    config = ModelConfig.from_folder(folder)
    where = _locate(folder)
    with torch.device("meta"):
        skeleton = Decoder(config)
    shapes = {name: tuple(p.shape) for name, p in skeleton.named_parameters()}
    if config.tie_embeddings and "lm_head.weight" in where:
        where.pop("lm_head.weight")  # a copy, for readers that do not tie
    _check(folder, shapes, where)
    stored = _stored_dtype(where["backbone.embeddings.weight"])
    model = empty(config, device, dtype or stored)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in _read(where):
            parameters[name].copy_(tensor)
    return model


def save(model: Decoder, folder: str | Path, eos_token_ids: Iterable[int] | None = None) -> None:
    """Write the model so that transformers loads the folder; config.json comes last.

    `eos_token_ids` end a generation (the configuration's where None). Every file is written
    beside and renamed; equal models give equal bytes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    tensors = {name: tensor.detach() for name, tensor in sorted(model.state_dict().items())}
    written = _write_weights(folder, tensors)
    for stale in [*folder.glob("model*.safetensors"), folder / INDEX]:
        if stale.name not in written:
            stale.unlink(missing_ok=True)
    eos = list(config.eos_token_ids if eos_token_ids is None else eos_token_ids)
    generation = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos,
        "pad_token_id": config.pad_token_id,
    }
    write_json(folder / "generation_config.json", generation)
    dtype = str(model.dtype).removeprefix("torch.")
    write_json(folder / "config.json", config.to_json() | {"dtype": dtype})


def _locate(folder: Path) -> dict[str, tuple[Path, str]]:
    """Our name of every stored tensor, to its file and its name there."""
    index = folder / INDEX
    if index.is_file():
        try:
            files = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{index} is no index of shards ({error!r}): fetch it anew") from None
    elif (folder / WEIGHTS).is_file():
        files = [WEIGHTS]
    elif list(folder.glob("pytorch_model*.bin*")):
        raise UserError(
            f"{folder} holds pickled weights (pytorch_model.bin): unpickling can run any code, so "
            "they are not opened; convert them to safetensors where you trust them"
        )
    else:
        raise UserError("checkpoint", str(folder), f"has no {WEIGHTS}", "give a model's folder")
    outside = [name for name in files if Path(str(name)).name != name]
    if outside:
        raise UserError(f"{index} names {outside[0]!r}: shards lie beside their index, fetch anew")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{index} names {', '.join(missing)}, not in the folder: fetch them")
    where = {}
    for path in (folder / name for name in files):
        with _opened(path) as file:
            for stored in file.keys():  # noqa: SIM118 (no mapping)
                where[_our_name(stored)] = (path, stored)
    return where


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): fetch it anew") from None


def _our_name(stored: str) -> str:
    for prefix, ours in _RENAMED:
        if stored.startswith(prefix):
            stored = ours + stored.removeprefix(prefix)
    return stored


def _check(
    folder: Path, shapes: dict[str, tuple[int, ...]], where: dict[str, tuple[Path, str]]
) -> None:
    """Hold names and shapes against the configuration before anything is read."""
    found = []
    missing = sorted(set(shapes) - set(where))
    extra = sorted(set(where) - set(shapes))
    for what, names in (("missing", missing), ("not in the model", extra)):
        if names:
            found.append(f"{what}: {_listed(names)}")
    wrong = []
    for name, (path, stored) in sorted(where.items()):
        if name in shapes:
            with _opened(path) as file:
                shape = tuple(file.get_slice(stored).get_shape())
            if shape != shapes[name]:
                wrong.append(f"{name} {list(shape)} instead of {list(shapes[name])}")
    if wrong:
        found.append(f"of another shape: {_listed(wrong)}")
    if found:
        raise UserError(f"{folder}: weights do not fit config.json; {'; '.join(found)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _stored_dtype(place: tuple[Path, str]) -> torch.dtype:
    with _opened(place[0]) as file:
        dtype = file.get_tensor(place[1]).dtype
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise UserError(
            "checkpoint", str(place[0]), f"is stored as {dtype}", "give 16 bits or more"
        )
    return dtype


def _read(where: dict[str, tuple[Path, str]]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, file by file, one in memory at a time."""
    for path in sorted({path for path, _ in where.values()}):
        with _opened(path) as file:
            for name, (home, stored) in where.items():
                if home == path:
                    yield name, file.get_tensor(stored)


def _write_weights(folder: Path, tensors: dict[str, Tensor]) -> list[str]:
    """Write one file, or numbered shards and their index; the names of the files."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        _write_file(folder / WEIGHTS, shards[0])
        return [WEIGHTS]
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return [*sorted(set(weight_map.values())), INDEX]


def _write_file(path: Path, tensors: dict[str, Tensor]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Clones: safetensors refuses tensors that share memory, as tied embeddings do.
        whole = {name: t.to("cpu", copy=True).contiguous() for name, t in tensors.items()}
        save_file(whole, beside, metadata={"format": "pt"})
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
