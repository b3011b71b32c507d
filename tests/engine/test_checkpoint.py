from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_noisylabel.engine.checkpoint import epoch_checkpoints, load_checkpoint, save_checkpoint
from napari_noisylabel.errors import DiskFull, UnreadableFile
from tests.engine.conftest import same


def test_a_tree_comes_back_as_it_was(tmp_path):
    tree = {
        "weights": [{"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(1, dtype=torch.int64)}, {}],
        "state": {0: {"step": torch.tensor(3.0)}, "name": "x", "none": None, "yes": True, "big": 2**100},
        "maps": {"case/1": np.array([[1, 2]], np.float16), "empty": np.zeros((0, 3), np.uint8)},
    }
    save_checkpoint(tmp_path, "epoch-00001", tree, {"report.json": "{}"})
    assert same(load_checkpoint(tmp_path / "epoch-00001"), tree)
    assert (tmp_path / "epoch-00001" / "report.json").read_text() == "{}"


def test_what_was_written_only_half_does_not_count(tmp_path):
    save_checkpoint(tmp_path, "epoch-00002", {"a": 1})
    (tmp_path / ".epoch-00003.tmp").mkdir()
    assert [p.name for p in epoch_checkpoints(tmp_path)] == ["epoch-00002"]
    assert epoch_checkpoints(tmp_path / "nowhere") == []


def test_without_room_the_checkpoint_before_stays(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, "epoch-00001", {"a": torch.ones(3)})

    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_noisylabel.engine.checkpoint.save_file", no_room)
    with pytest.raises(DiskFull, match="no checkpoint could be written"):
        save_checkpoint(tmp_path, "epoch-00002", {"a": torch.ones(3)})
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-00001"]


def test_a_damaged_checkpoint_is_refused_and_never_unpickled(tmp_path):
    kept = save_checkpoint(tmp_path, "epoch-00001", {"a": torch.ones(3)})
    torch.save({"a": torch.ones(3)}, kept / "tensors.safetensors")
    with pytest.raises(UnreadableFile, match="is damaged"):
        load_checkpoint(kept)
