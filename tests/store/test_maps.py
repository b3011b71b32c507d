"""Maps: a new name per version, complete or not there at all."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from napari_noisylabel.errors import BadSetting, DiskFull, ShapeMismatch, UnreadableFile
from napari_noisylabel.store import maps
from napari_noisylabel.store.maps import map_path, open_map, read_map, write_map


@pytest.fixture
def score():
    return np.arange(2 * 5 * 7, dtype=np.uint16).reshape(2, 5, 7)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int16", "float16", "float32"])
@pytest.mark.parametrize("shape", [(4,), (5, 7), (2, 5, 7), (3, 2, 5, 7)])
def test_a_map_comes_back_as_it_was(tmp_path, dtype, shape):
    array = np.random.default_rng(1).integers(0, 9, shape).astype(dtype)
    write_map(tmp_path, "probs", array, {"track": "organ", "scale": 0.5})
    found = open_map(tmp_path, "probs")
    assert found.dtype == dtype and dict(found.attrs) == {"track": "organ", "scale": 0.5}
    assert (read_map(tmp_path, "probs") == array).all()


def test_one_slice_is_one_chunk_and_all_lie_in_one_file(tmp_path, score):
    path = write_map(tmp_path / "run" / "maps", "score", np.zeros_like(score))
    assert open_map(path.parent, "score").chunks == (1, 5, 7)
    assert sorted(p.name for p in path.rglob("*") if p.is_file()) == ["0", "complete", "zarr.json"]


def test_versions_count_up_and_old_ones_go(tmp_path, score):
    names = [write_map(tmp_path, "score", score + i).name for i in range(3)]
    assert names == ["score.v1.zarr", "score.v2.zarr", "score.v3.zarr"]
    assert os.listdir(tmp_path) == ["score.v3.zarr"]
    assert read_map(tmp_path, "score")[0, 0, 0] == 2


def test_maps_whose_names_begin_alike_are_apart(tmp_path, score):
    write_map(tmp_path, "score.organ", score)
    write_map(tmp_path, "score", score + 1)
    write_map(tmp_path, "score.organ", score + 2)
    assert read_map(tmp_path, "score")[0, 0, 0] == 1 and read_map(tmp_path, "score.organ")[0, 0, 0] == 2


def test_a_map_that_is_not_complete_is_not_seen(tmp_path, score):
    write_map(tmp_path, "score", score)
    newer = tmp_path / "score.v2.zarr"
    maps._write_array(newer, score + 1, {})
    assert map_path(tmp_path, "score").name == "score.v1.zarr"
    assert write_map(tmp_path, "score", score + 2).name == "score.v3.zarr"
    assert os.listdir(tmp_path) == ["score.v3.zarr"]


def test_what_is_not_there_is_none(tmp_path):
    assert open_map(tmp_path / "nowhere", "score") is None and read_map(tmp_path, "score") is None


def test_a_reader_of_a_version_that_went_gets_an_error_not_zeros(tmp_path, score):
    write_map(tmp_path, "score", score)
    old = open_map(tmp_path, "score")
    write_map(tmp_path, "score", score)
    with pytest.raises(UnreadableFile, match="replaced by a newer version"):
        old[0]


def test_a_full_disk_leaves_the_version_before(tmp_path, score, monkeypatch):
    write_map(tmp_path, "score", score)

    def full(path, array, attrs):
        path.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(maps, "_write_array", full)
    with pytest.raises(DiskFull, match="no room left"):
        write_map(tmp_path, "score", score + 1)
    assert os.listdir(tmp_path) == ["score.v1.zarr"] and (read_map(tmp_path, "score") == score).all()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")
def test_a_limit_met_while_zarr_writes_is_a_full_disk(tmp_path, start_python):
    script = """
import resource, sys
import numpy as np
from pathlib import Path
from napari_noisylabel.errors import DiskFull
from napari_noisylabel.store.maps import write_map
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write_map(Path(sys.argv[1]), "score", np.random.default_rng(0).integers(0, 60000, (2, 300, 400), dtype=np.uint16))
except DiskFull as error:
    print("said")
"""
    assert start_python(script, tmp_path).communicate(timeout=60)[0] == "said\n"
    assert os.listdir(tmp_path) == []


def test_the_shape_is_checked_before_memory_is_taken(tmp_path, score):
    path = write_map(tmp_path, "score", score)
    meta = json.loads((path / "zarr.json").read_text())
    meta["shape"][0] = 10**12
    (path / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(ShapeMismatch, match=r"has shape \(1000000000000, 5, 7\), its case \(2, 5, 7\)"):
        read_map(tmp_path, "score", shape=(2, 5, 7))


def test_a_codec_that_could_run_code_is_refused(tmp_path, score):
    path = write_map(tmp_path, "score", score)
    text = (path / "zarr.json").read_text().replace('"blosc"', '"numcodecs.pickle"')
    (path / "zarr.json").write_text(text)
    with pytest.raises(UnreadableFile, match="kind that this program does not write"):
        open_map(tmp_path, "score")


def test_damaged_maps_are_said_to_be_damaged(tmp_path, score):
    path = write_map(tmp_path, "score", score)
    (data,) = (path / "c").rglob("0/0/0")
    data.write_bytes(data.read_bytes()[:-9])
    with pytest.raises(UnreadableFile, match="damaged"):
        read_map(tmp_path, "score")
    (path / "zarr.json").write_text("{}")
    with pytest.raises(UnreadableFile, match="damaged"):
        open_map(tmp_path, "score")


@pytest.mark.parametrize("name", ["../score", "", "a/b", ".score"])
def test_a_name_with_a_path_in_it_is_refused(tmp_path, score, name):
    with pytest.raises(BadSetting, match="plain name"):
        write_map(tmp_path, name, score)
    with pytest.raises(BadSetting, match="plain name"):
        open_map(tmp_path, name)


def test_maps_without_numbers_are_refused(tmp_path):
    for array in (np.zeros((0, 4)), np.array(3), np.array(["a"]), np.array([None])):
        with pytest.raises(ShapeMismatch, match="must hold numbers"):
            write_map(tmp_path, "score", array)
