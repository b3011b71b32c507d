from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest

from napari_noisylabel.errors import UnreadableFile
from napari_noisylabel.io import gzipped

DATA = np.random.default_rng(0).integers(0, 9, 1_000_000).astype(np.uint8)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_plain_and_gzipped_bytes_are_read_from_an_offset(tmp_path, pack):
    (tmp_path / "a").write_bytes(pack(DATA.tobytes()))
    assert np.array_equal(gzipped.read_plain(tmp_path / "a", 352, 600_000), DATA[352:600_352])


def test_a_stream_of_several_members_with_padding_is_read_as_one(tmp_path):
    members = [gzip.compress(DATA[i : i + 300_000].tobytes()) for i in range(0, 1_000_000, 300_000)]
    (tmp_path / "a").write_bytes(b"".join(members) + bytes(1000))
    assert np.array_equal(gzipped.read_plain(tmp_path / "a", 0, DATA.size), DATA)


@pytest.mark.parametrize("lost", [1, 8, 100_000])
def test_a_stream_that_was_cut_off_is_noticed(tmp_path, lost):
    (tmp_path / "a").write_bytes(gzip.compress(DATA.tobytes())[:-lost])
    with pytest.raises((EOFError, UnreadableFile)):
        gzipped.read_plain(tmp_path / "a", 0, DATA.size)


def test_a_wrong_check_sum_is_noticed(tmp_path):
    packed = bytearray(gzip.compress(DATA.tobytes()))
    packed[-6] ^= 1
    (tmp_path / "a").write_bytes(packed)
    with pytest.raises(zlib.error):
        gzipped.read_plain(tmp_path / "a", 0, DATA.size)


def test_the_same_bytes_are_packed_alike_at_any_time():
    pieces = [DATA[:500].tobytes(), DATA[500:].data]
    packed = b"".join(gzipped.compress(pieces))
    assert packed == b"".join(gzipped.compress(pieces))
    assert gzip.decompress(packed) == DATA.tobytes()
