"""What is read of a save that may come from somebody else."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_saver import save

from cairn.train.parallel.storage import Reader


class Calls:
    """Pickled, it is a call."""

    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        Calls(os.system, "touch ran"),
        Calls(eval, "open('ran', 'w')"),
        Calls(torch.load, "weights.pt"),
        Calls(getattr, "text", "encode"),
    ],
    ids=["system", "eval", "load", "getattr"],
)
def test_a_list_of_pieces_that_calls_something_is_refused(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".metadata").write_bytes(pickle.dumps({"pieces": call}))
    with pytest.raises(pickle.UnpicklingError, match="is no description of a tensor"):
        Reader(tmp_path).read_metadata()
    assert not Path("ran").exists()


def test_what_is_no_list_of_pieces_is_refused(tmp_path):
    (tmp_path / ".metadata").write_bytes(pickle.dumps({"pieces": 1}))
    with pytest.raises(pickle.UnpicklingError, match="no list of pieces"):
        Reader(tmp_path).read_metadata()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torchs_own_lists_are_read_as_torch_reads_them(tmp_path):
    kinds = (torch.float32, torch.bfloat16, torch.int64, torch.bool)
    save({str(kind): torch.ones(2, 3, dtype=kind) for kind in kinds}, checkpoint_id=tmp_path)
    ours, theirs = Reader(tmp_path).read_metadata(), FileSystemReader(tmp_path).read_metadata()
    assert ours.state_dict_metadata == theirs.state_dict_metadata
    assert ours.storage_data == theirs.storage_data
