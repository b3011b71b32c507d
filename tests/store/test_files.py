"""Small files: whole or not at all, and errors in words."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import numpy as np
import pytest

from napari_noisylabel.errors import DiskFull, ReadOnlyProject, UnreadableFile
from napari_noisylabel.store import files
from napari_noisylabel.store.files import disk_errors, read_json, write_json


def test_json_keeps_what_python_and_numpy_have(tmp_path):
    value = {"path": Path("a/b"), "n": np.int64(3), "x": np.arange(2), "t": (1, 2), "s": {"b", "a"}, "ü": True}
    write_json(tmp_path / "run.json", value)
    expected = {"path": "a/b", "n": 3, "x": [0, 1], "t": [1, 2], "s": ["a", "b"], "ü": True}
    assert read_json(tmp_path / "run.json") == expected and os.listdir(tmp_path) == ["run.json"]


def test_nan_is_kept_or_made_null(tmp_path):
    value = {"dice": [math.nan, np.float32("inf"), 0.5]}
    write_json(tmp_path / "a.json", value)
    write_json(tmp_path / "b.json", value, nan_as_null=True)
    assert math.isnan(read_json(tmp_path / "a.json")["dice"][0])
    assert read_json(tmp_path / "b.json") == {"dice": [None, None, 0.5]}


def test_a_failed_write_leaves_the_file_before(tmp_path, monkeypatch):
    write_json(tmp_path / "run.json", 1)
    with pytest.raises(TypeError, match="no form in JSON"):
        write_json(tmp_path / "run.json", {"f": print})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DiskFull, match="no room left on the device to write .*run.json"):
        write_json(tmp_path / "run.json", 2)
    assert read_json(tmp_path / "run.json") == 1 and os.listdir(tmp_path) == ["run.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_without_room_is_a_full_disk(tmp_path):
    with pytest.raises(DiskFull), disk_errors(tmp_path), open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


def test_permissions_are_said_in_words_and_other_errors_pass(tmp_path):
    with pytest.raises(ReadOnlyProject, match="Ask for permission"), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "No such file")


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    with pytest.raises(UnreadableFile, match="cannot be read: No such file"):
        read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("[1,")
    with pytest.raises(UnreadableFile, match="must be JSON"):
        read_json(tmp_path / "bad.json")
    monkeypatch.setattr(files, "JSON_LIMIT", 2)
    with pytest.raises(UnreadableFile, match="must be below"):
        read_json(tmp_path / "bad.json")
