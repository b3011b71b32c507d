from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_noisylabel.errors import BadImage, BadLabels, ExportRefused, UnreadableFile
from napari_noisylabel.io import tiff

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_labels_keep_type_byte_order_resolution_and_notes(tmp_path, dtype, byteorder):
    labels = RNG.integers(0, 2, (7, 11)).astype(dtype)
    options = {"resolution": (300, 150), "description": "drawn by a reader", "metadata": None}
    tifffile.imwrite(tmp_path / "in.tif", labels, byteorder=byteorder, compression="zlib", **options)

    values = tiff.read_labels(tmp_path / "in.tif").array
    tiff.write_labels(tmp_path / "in.tif", 1 - values, tmp_path / "out.tif")

    with tifffile.TiffFile(tmp_path / "in.tif") as before, tifffile.TiffFile(tmp_path / "out.tif") as after:
        assert np.array_equal(after.asarray(), 1 - labels.astype(int))
        assert after.byteorder == before.byteorder
        facts = ("dtype", "bitspersample", "photometric", "resolution", "description", "compression")
        for fact in facts:
            assert getattr(after.pages[0], fact) == getattr(before.pages[0], fact), fact


@pytest.mark.parametrize(
    ("mode", "compression"),
    [("1", "group4"), *((m, c) for m in ("1", "L", "P") for c in ("raw", "tiff_lzw", "packbits"))],
)
def test_labels_by_other_programs_come_back_with_their_values(tmp_path, mode, compression):
    labels = RNG.integers(0, 2, (7, 11)).astype(np.uint8)
    picture = Image.fromarray(labels.astype(bool) if mode == "1" else labels)
    if mode == "P":
        picture = Image.frombytes("P", (11, 7), labels.tobytes())
        picture.putpalette([0, 0, 0, 255, 10, 20])
    picture.save(tmp_path / "in.tif", compression=compression)

    values = tiff.read_labels(tmp_path / "in.tif").array
    tiff.write_labels(tmp_path / "in.tif", values, tmp_path / "out.tif")

    with Image.open(tmp_path / "in.tif") as before, Image.open(tmp_path / "out.tif") as after:
        assert np.array_equal(np.asarray(after), np.asarray(before)) and after.mode == before.mode
    assert np.array_equal(values, labels)


def test_colour_labels_come_back(tmp_path):
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0]], np.uint8)[RNG.integers(0, 3, (7, 11))]
    tifffile.imwrite(tmp_path / "in.tif", colours, photometric="rgb")
    values = tiff.read_labels(tmp_path / "in.tif").array
    tiff.write_labels(tmp_path / "in.tif", values, tmp_path / "out.tif")
    assert set(values.flat) == {0, 255, 0x1FF0000}
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), colours)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_images_become_channels(tmp_path, planar):
    colours = RNG.integers(0, 4000, (7, 11, 3)).astype(np.uint16)
    stored = colours if planar == "contig" else np.moveaxis(colours, -1, 0)
    tifffile.imwrite(tmp_path / "in.tif", stored, photometric="rgb", planarconfig=planar)
    image = tiff.read_image(tmp_path / "in.tif")
    assert np.array_equal(image.array, np.moveaxis(colours, -1, 0))
    assert tiff.read_header(tmp_path / "in.tif").n_channels == 3


def test_a_stack_is_refused_with_a_way_out(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((4, 7, 11), np.uint8), photometric="minisblack")
    with pytest.raises(BadImage, match="must hold one 2-D image, but .* holds 4. Save a stack as NIfTI"):
        tiff.read_image(tmp_path / "in.tif")
    with pytest.raises(BadLabels, match="must hold one 2-D image"):
        tiff.read_labels(tmp_path / "in.tif")


def test_labels_that_are_no_whole_numbers_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", RNG.random((7, 11)).astype(np.float32))
    with pytest.raises(BadLabels, match="must be whole numbers"):
        tiff.read_labels(tmp_path / "in.tif")


@pytest.mark.parametrize("left", [0, 4, 100, 4000])
def test_a_truncated_tiff_is_refused(tmp_path, left):
    tifffile.imwrite(tmp_path / "in.tif", RNG.integers(0, 255, (70, 110)).astype(np.uint8))
    (tmp_path / "in.tif").write_bytes((tmp_path / "in.tif").read_bytes()[:left])
    with pytest.raises(UnreadableFile, match="is not a whole TIFF file"):
        tiff.read_image(tmp_path / "in.tif")


def test_a_header_that_claims_huge_pixels_takes_no_memory(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((7, 11), np.uint8), compression="zlib")
    with tifffile.TiffFile(tmp_path / "in.tif", mode="r+") as file:
        for tag in (256, 257):
            file.pages[0].tags[tag].overwrite(2_000_000)
    with pytest.raises(UnreadableFile, match="speaks of 4000000000000 bytes"):
        tiff.read_image(tmp_path / "in.tif")


def test_a_value_that_the_type_cannot_hold_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((7, 11), np.uint8))
    with pytest.raises(ExportRefused, match="do not fit the type of the source, uint8"):
        tiff.write_labels(tmp_path / "in.tif", np.full((7, 11), 256), tmp_path / "out.tif")
