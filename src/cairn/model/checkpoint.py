"""Checkpoint folders: config.json, generation_config.json and safetensors, read and written.

Names are those of the family's released checkpoints, so transformers and common servers read what
`save` writes. Pickled weights are never opened: unpickling runs code from the file.
"""

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from cairn.base import UserError, write_json
from cairn.model.config import ModelConfig
from cairn.model.decoder import Decoder, empty, skeleton
from cairn.model.families import Family, family_of, our_name, their_name
from cairn.model.sharding import Cut, cut_of, cuts, share_of
from cairn.model.stored import DTYPES, Maps, Stored, read_into, stored_in

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
READERS = 4  # tensors read at a time: one waits for the disk while another fills memory
EMBEDDING = "backbone.embeddings.weight"  # its dtype is the model's
HEAD = "lm_head.weight"
COMPARED = 2**22  # numbers at a time
_RECOMPUTED = (".rotary_emb.inv_freq",)  # buffers that old checkpoints of transformers hold


def load(
    folder: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    mapped: bool = True,
    rank: int = 0,
    ranks: int = 1,
) -> Decoder:
    """The model in a checkpoint folder, in the stored dtype unless told.

    Weights that are wanted on the CPU in the stored dtype are private views of the files, where
    they are `mapped`: ready at once, and read by the kernel while they are used. Such a file may be
    replaced or removed, but must not be overwritten in place. Others are read piece by piece to
    where they belong. Either way peak memory is the model. With `ranks`, the share of one rank of
    a tensor-parallel group (`model.sharding`): its mixers' outputs are summands of the whole's.
    An output matrix that differs from the embedding is read, whatever the configuration says.
    Raises UserError for a family that is not supported, for weights that are absent, pickled,
    truncated, missing, left over or of another shape: all of them named in one line.
    """
    config, where = _stored(Path(folder))
    table = cuts(config, rank, ranks) if ranks > 1 else None
    model = empty(share_of(config, ranks), device, dtype or DTYPES[where[EMBEDDING].dtype])
    left = list(model.named_parameters())
    if mapped and ranks == 1 and torch.device(device).type == "cpu":
        maps = Maps()
        left = [(name, p) for name, p in left if not _map(p, where[name], maps)]
        maps.read_ahead()

    def fill(named: tuple[str, Tensor]) -> None:
        name, parameter = named
        cut = Cut() if table is None else cut_of(config, table, name)
        _read(where[name], parameter.data, cut, rank)

    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(fill, left):
            pass
    return model


def stored_dtype(folder: str | Path) -> torch.dtype:
    """What `load` gives a model where no dtype is asked for; UserError as there."""
    return DTYPES[_stored(Path(folder))[1][EMBEDDING].dtype]


def stored_config(folder: str | Path) -> ModelConfig:
    """The configuration of what `load` gives; UserError as there."""
    return _stored(Path(folder))[0]


def _stored(folder: Path) -> tuple[ModelConfig, dict[str, Stored]]:
    """The configuration that fits a folder's weights, and where each parameter is."""
    config = ModelConfig.from_folder(folder)
    family = family_of(config.family)
    found = _locate(folder)
    ends = {name: one for one in found if (name := our_name(family, one.name)) in (EMBEDDING, HEAD)}
    if config.tie_embeddings and len(ends) == 2 and not _same(ends[EMBEDDING], ends[HEAD]):
        config = replace(config, tie_embeddings=False)  # as transformers has it
    if config.tie_embeddings and set(ends) == {HEAD}:  # the one that is there serves for both
        found.remove(ends[HEAD])
        found.append(replace(ends[HEAD], name=their_name(family, EMBEDDING)))
    return config, _matched(folder, config, family, found)


def _same(one: Stored, other: Stored) -> bool:
    """Whether tensors hold the same numbers; so they do where `_matched` tells of their damage."""
    if one.shape != other.shape:
        return False
    known = one.shape and {one.dtype, other.dtype} <= DTYPES.keys()
    if not known or one.truncated or other.truncated:
        return True
    wide = torch.promote_types(DTYPES[one.dtype], DTYPES[other.dtype])
    rows, step = one.shape[0], max(1, COMPARED // max(1, prod(one.shape[1:])))
    for first in range(0, rows, step):
        part = first, min(rows, first + step)
        pieces = [torch.empty((part[1] - first, *one.shape[1:]), dtype=wide) for _ in range(2)]
        for piece, stored in zip(pieces, (one, other), strict=True):
            read_into(stored, piece, [part])
        if not torch.allclose(*pieces, rtol=0, atol=0, equal_nan=True):
            return False
    return True


def _map(parameter: Tensor, one: Stored, maps: Maps) -> bool:
    """Let a parameter be a view of its file, where it has the stored type; whether that was so."""
    view = maps.view(one) if parameter.dtype == DTYPES[one.dtype] else None
    if view is not None:
        parameter.data = view
    return view is not None


def _read(one: Stored, target: Tensor, cut: Cut, rank: int) -> None:
    """One parameter, or a rank's part of it."""
    if cut.first_only and rank:
        target.zero_()
    elif cut.dim == 1:
        whole = torch.empty(one.shape, dtype=DTYPES[one.dtype])
        read_into(one, whole)
        target.copy_(torch.cat([whole[:, a:b] for a, b in cut.parts], 1))
    else:
        read_into(one, target, list(cut.parts) if cut.dim == 0 else None)


def save(
    model: Decoder,
    folder: str | Path,
    eos_token_ids: Iterable[int] | None = None,
    max_shard_size: int | None = None,
) -> None:
    """Write the model so that transformers loads the folder; config.json comes last.

    `eos_token_ids` end a generation (the configuration's where None). Weights of more than
    `max_shard_size` bytes (5 GB) become several files and an index. Every file is written beside
    and renamed; equal models give equal bytes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    family = family_of(config.family)
    tensors = {their_name(family, n): t.detach() for n, t in sorted(model.state_dict().items())}
    if config.tie_embeddings and not family.output_copied:
        del tensors["lm_head.weight"]
    written = _write_weights(folder, tensors, max_shard_size or SHARD_BYTES)
    for stale in [*folder.glob("model*.safetensors"), folder / INDEX]:
        if stale.name not in written:
            stale.unlink(missing_ok=True)
    eos = list(config.eos_token_ids if eos_token_ids is None else eos_token_ids)
    generation = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos,
        "pad_token_id": config.pad_token_id,
    }
    said = {name: value for name, value in generation.items() if value is not None}
    write_json(folder / "generation_config.json", said)
    dtype = str(model.dtype).removeprefix("torch.")
    write_json(folder / "config.json", config.to_json() | {"dtype": dtype})


def _locate(folder: Path) -> list[Stored]:
    """Every tensor in the folder's files."""
    index, files = folder / INDEX, [WEIGHTS]
    if index.is_file():  # beside a whole file it is not looked at, but where it names that
        named = _shards(index)
        files = named if WEIGHTS in named or not (folder / WEIGHTS).is_file() else files
    elif not (folder / WEIGHTS).is_file():
        if list(folder.glob("pytorch_model*.bin*")):
            raise UserError(
                f"{folder} holds pickled weights (pytorch_model.bin): unpickling can run any code, "
                "so they are not opened; convert them to safetensors where you trust them"
            )
        raise UserError("checkpoint", str(folder), f"has no {WEIGHTS}", "give a model's folder")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{index} names {', '.join(missing)}, not in the folder: fetch them")
    return [one for name in files for one in stored_in(folder / name)]


def _shards(index: Path) -> list[str]:
    """The files that an index names; UserError where it is none, or they are not beside it."""
    try:
        named = list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is no index of shards ({error!r}): fetch it anew") from None
    for name in named:
        if isinstance(name, str) and Path(name).name != name:
            raise UserError(f"{index} names {name!r}: shards lie beside their index, fetch anew")
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise UserError(f"{index} names {name!r}, no file of safetensors: fetch it anew")
    return sorted(set(named))


def _matched(
    folder: Path, config: ModelConfig, family: Family, found: list[Stored]
) -> dict[str, Stored]:
    """Where each parameter is, by our name; UserError that names all that does not fit."""
    shapes = {name: tuple(p.shape) for name, p in skeleton(config).named_parameters()}
    where: dict[str, Stored] = {}
    wrong: dict[str, list[str]] = {}
    for one in found:
        name = our_name(family, one.name)
        if one.name.endswith(_RECOMPUTED):
            continue
        if name == HEAD and config.tie_embeddings:
            continue  # a copy, for readers that do not tie
        if name is None or name not in shapes:
            wrong.setdefault("not in the model", []).append(one.name)
            continue
        if name in where:
            wrong.setdefault("there twice", []).append(one.name)
        where[name] = one
        if one.shape != shapes[name]:
            text = f"{one.name} {list(one.shape)} instead of {list(shapes[name])}"
            wrong.setdefault("of another shape", []).append(text)
        if one.dtype not in DTYPES:
            text = f"{one.name} {one.dtype} instead of 16 bits or more"
            wrong.setdefault("of another type", []).append(text)
        if one.truncated:
            wrong.setdefault("truncated", []).append(f"{one.name} in {one.path.name}")
    missing = sorted(set(shapes) - set(where))
    if missing:
        wrong["missing"] = [their_name(family, name) for name in missing]
    if wrong:
        listed = "; ".join(f"{what}: {_listed(sorted(wrong[what]))}" for what in sorted(wrong))
        raise UserError(f"{folder}: weights do not fit config.json; {listed}")
    return where


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _write_weights(folder: Path, tensors: dict[str, Tensor], most: int) -> list[str]:
    """Write one file, or numbered shards and their index; the names of the files."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > most:
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
