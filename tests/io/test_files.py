from __future__ import annotations

import errno
import os

import pytest

from napari_noisylabel.errors import DiskFull, ExportRefused, SourceChanged, UnreadableFile
from napari_noisylabel.io import files


def test_a_file_is_written_whole_and_nothing_else_is_left(tmp_path):
    files.write_whole(tmp_path / "new" / "a.bin", [b"one", b"two"])
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"onetwo"
    assert os.listdir(tmp_path / "new") == ["a.bin"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path, monkeypatch, number):
    (tmp_path / "a.bin").write_bytes(b"old")

    def no_room(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(DiskFull, match="no room left on the device while writing"):
        files.write_whole(tmp_path / "a.bin", [b"new"])
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ExportRefused, match="Choose a folder on which you may write"):
        files.write_whole(tmp_path / "file" / "a.bin", [b"new"])


def test_a_folder_without_the_right_to_write_is_refused(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "open", denied)  # for root every folder is writable
    with pytest.raises(ExportRefused, match="cannot be written: Permission denied"):
        files.write_whole(tmp_path / "a.bin", [b"new"])


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def pieces():
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_whole(tmp_path / "a.bin", pieces())
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_a_file_in_its_place_and_a_closed_folder_are_told_apart(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnreadableFile, match="is not there"):
        files.list_folder(tmp_path / "none")
    with pytest.raises(UnreadableFile, match="a folder is needed"):
        files.list_folder(tmp_path / "file")

    def denied(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", denied)
    with pytest.raises(UnreadableFile, match="cannot be read: Permission denied"):
        files.list_folder(tmp_path)


def test_hidden_files_are_not_listed(tmp_path):
    for name in ("b.png", "a.png", "._a.png"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in files.list_folder(tmp_path)] == ["a.png", "b.png"]


def test_a_touched_file_looks_changed_and_is_not(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    source = files.source_file(path)
    os.utime(path, (1, 1))
    assert files.looks_changed(source)
    assert files.require_unchanged(source) == path


def test_a_file_of_other_content_is_refused_even_with_the_old_size_and_time(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    source = files.source_file(path)
    path.write_bytes(b"abd")
    os.utime(path, ns=(source.mtime_ns, source.mtime_ns))
    assert not files.looks_changed(source)
    with pytest.raises(SourceChanged, match="its content changed since"):
        files.require_unchanged(source)


def test_a_file_that_went_away_is_unreadable(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    source = files.source_file(path)
    path.unlink()
    assert files.looks_changed(source)
    with pytest.raises(UnreadableFile, match="is not there"):
        files.require_unchanged(source)
