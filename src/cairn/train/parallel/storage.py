"""Pieces of tensors for torch's distributed checkpoint: what each rank writes and reads."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner import SavePlanner as TorchSavePlanner
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from cairn.train.parallel.pieces import Chunk, Piece


@dataclass(frozen=True)
class Held:
    """What a rank holds of a tensor."""

    piece: Piece
    tensor: Tensor

    def at(self, offset: torch.Size | None) -> Tensor:
        """The chunk that begins at a place of the whole tensor."""
        chunk = next(c for c in self.piece.chunks if _offset(c) == offset)
        return self.tensor[chunk.held]


class Writer(FileSystemWriter):
    """Tells of a full disk as the system does."""

    def write_data(self, plan: SavePlan, planner: TorchSavePlanner) -> Future[list[WriteResult]]:
        """OSError where a file could not be written: torch's own words are of places in it."""
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            beneath = error.__context__
            if isinstance(beneath, OSError):
                raise beneath from error
            raise


METADATA = {  # what torch's list of pieces is made of
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}


class _Plain(pickle.Unpickler):
    """Makes descriptions of tensors and nothing else: a save may come from somebody else."""

    def find_class(self, module: str, name: str) -> Any:
        found = getattr(torch, name, None) if module == "torch" else None
        if name in METADATA.get(module, ()) or isinstance(found, torch.dtype):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no description of a tensor")


class Reader(FileSystemReader):
    """Reads the pickled list of pieces without running what is in it; tensors are plain anyway.

    `read_metadata` raises pickle.UnpicklingError where the list holds anything else.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = _Plain(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("it is no list of pieces")
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class SavePlanner(DefaultSavePlanner):
    """Writes the chunks of a dictionary of `Held`; of copies, the first rank's."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        """All chunks that this rank holds."""
        items = [
            WriteItem(
                MetadataIndex(name, _offset(chunk)),
                WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    _stored(chunk),
                    TensorProperties.create_from_tensor(one.tensor),
                    torch.Size(one.piece.shape),
                ),
            )
            for name, one in self.state_dict.items()
            for chunk in one.piece.chunks
        ]
        self.plan = SavePlan(items)
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Any:
        """The tensor of a chunk."""
        return self.state_dict[index.fqn].at(index.offset).contiguous()


class LoadPlanner(DefaultLoadPlanner):
    """Reads the chunks of a dictionary of `Held` into their tensors."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Take the dictionary as it is: torch's own would look for tensors on no device in it."""
        self.state_dict, self.metadata = state_dict, metadata
        self.is_coordinator = is_coordinator

    def create_local_plan(self) -> LoadPlan:
        """All reads that fill this rank's chunks."""
        assert self.metadata is not None
        items = []
        for name, one in self.state_dict.items():
            stored = self.metadata.state_dict_metadata[name]
            assert isinstance(stored, TensorStorageMetadata)
            chunks = [_stored(chunk) for chunk in one.piece.chunks]
            items += create_read_items_for_chunk_list(name, stored, chunks)
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """The tensor of a chunk, in place."""
        return self.state_dict[index.fqn].at(index.offset)


def _offset(chunk: Chunk) -> torch.Size:
    return torch.Size(part.start for part in chunk.whole)


def _stored(chunk: Chunk) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(
        offsets=_offset(chunk),
        sizes=torch.Size(part.stop - part.start for part in chunk.whole),
    )
