from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from napari_noisylabel.errors import BadLabels, ExportRefused, UnreadableFile
from napari_noisylabel.io import png

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_labels_keep_their_bits_colours_and_notes(tmp_path, bits):
    labels = RNG.integers(0, min(2**bits, 5), (7, 11)).astype(np.uint8)
    picture = Image.frombytes("P", (11, 7), labels.tobytes())
    picture.putpalette([i % 256 for i in range(3 * 2**bits)])
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Author", "a reader")
    picture.save(tmp_path / "in.png", bits=bits, pnginfo=notes, dpi=(300, 300))

    values = png.read_labels(tmp_path / "in.png").array
    turned = values[::-1].copy()
    png.write_labels(tmp_path / "in.png", turned, tmp_path / "out.png")

    assert np.array_equal(values, labels)
    assert (tmp_path / "out.png").read_bytes()[:33] == (tmp_path / "in.png").read_bytes()[:33]
    with Image.open(tmp_path / "in.png") as before, Image.open(tmp_path / "out.png") as after:
        assert np.array_equal(np.asarray(after), turned)
        assert after.getpalette() == before.getpalette() and after.info == before.info


@pytest.mark.parametrize(("mode", "high"), [("1", 1), ("L", 255), ("I;16", 40_000)])
def test_grey_labels_of_1_8_and_16_bits_come_back_as_they_were(tmp_path, mode, high):
    labels = (RNG.integers(0, 2, (7, 11)) * high).astype(np.uint16 if mode == "I;16" else np.uint8)
    Image.fromarray(labels.astype(bool) if mode == "1" else labels).save(tmp_path / "in.png")

    values = png.read_labels(tmp_path / "in.png").array
    png.write_labels(tmp_path / "in.png", values, tmp_path / "out.png")

    assert np.array_equal(values, labels)
    with Image.open(tmp_path / "in.png") as before, Image.open(tmp_path / "out.png") as after:
        assert after.mode == before.mode == mode
        assert np.array_equal(np.asarray(after), np.asarray(before))


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_labels_of_2_and_4_bits_are_read_as_stored(tmp_path, bits):
    labels = RNG.integers(0, 2**bits, (7, 11)).astype(np.uint8)
    header = (11).to_bytes(4, "big") + (7).to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")]
    (tmp_path / "in.png").write_bytes(b"".join(png._assemble(chunks, png._pack(labels, bits))))

    values = png.read_labels(tmp_path / "in.png").array
    png.write_labels(tmp_path / "in.png", values, tmp_path / "out.png")

    assert np.array_equal(values, labels)
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "in.png").read_bytes()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colour_labels_have_one_value_per_colour_and_come_back(tmp_path, mode):
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255]], np.uint8)
    if mode == "LA":
        colours = colours[:2]
    picture = Image.fromarray(colours[RNG.integers(0, len(colours), (7, 11))]).convert(mode)
    picture.save(tmp_path / "in.png")

    values = png.read_labels(tmp_path / "in.png").array
    png.write_labels(tmp_path / "in.png", values, tmp_path / "out.png")

    assert set(values.flat) == ({0, 255} if mode == "LA" else {0, 255, 0x1FF0000, 0x10000FF})
    with Image.open(tmp_path / "out.png") as after:
        assert after.mode == mode and np.array_equal(np.asarray(after), np.asarray(picture))


def test_an_interlaced_source_keeps_its_values(tmp_path):
    labels = RNG.integers(0, 3, (7, 11)).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "in.png")
    data = bytearray((tmp_path / "in.png").read_bytes())
    data[28] = 1  # says Adam7; only the header matters for writing
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "in.png").write_bytes(data)
    png.write_labels(tmp_path / "in.png", labels, tmp_path / "out.png")
    assert np.array_equal(png.read_labels(tmp_path / "out.png").array, labels)


@pytest.mark.parametrize(("mode", "n_channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGBA", 3)])
def test_images_come_as_grey_or_rgb_channels(save_picture, mode, n_channels):
    path = save_picture("a.png", RNG.integers(0, 255, (7, 11, 3)).astype(np.uint8), mode)
    image = png.read_image(path)
    header = png.read_header(path)
    assert image.array.shape == (n_channels, 7, 11)
    assert (header.n_channels, header.geometry) == (n_channels, image.geometry)
    assert header.geometry.unit == "px"


def test_a_value_outside_the_sources_bits_is_refused(save_picture, tmp_path):
    source = save_picture("in.png", np.zeros((7, 11), bool))
    with pytest.raises(ExportRefused, match="can hold the values 0 to 1, but the labels reach 2"):
        png.write_labels(source, np.full((7, 11), 2), tmp_path / "out.png")
    with pytest.raises(ExportRefused, match="must have the grid of its source"):
        png.write_labels(source, np.zeros((11, 7), np.uint8), tmp_path / "out.png")


def test_half_transparent_labels_are_refused(save_picture):
    path = save_picture("a.png", RNG.integers(0, 9, (7, 11, 4)).astype(np.uint8))
    with pytest.raises(BadLabels, match="must be opaque"):
        png.read_labels(path)


@pytest.mark.parametrize("left", [0, 20, 60, -20])
def test_a_truncated_png_is_refused(save_picture, left):
    path = save_picture("a.png", RNG.integers(0, 255, (70, 110)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:left])
    for read in (png.read_image, png.read_labels):
        with pytest.raises(UnreadableFile, match="is not a whole PNG file"):
            read(path)


def test_a_jpeg_that_is_called_png_is_refused(tmp_path):
    room = io.BytesIO()
    Image.fromarray(np.zeros((7, 11), np.uint8)).save(room, "JPEG")
    (tmp_path / "a.png").write_bytes(room.getvalue())
    with pytest.raises(UnreadableFile, match="is not a whole PNG file"):
        png.read_image(tmp_path / "a.png")


def test_a_new_png_has_16_bits_where_8_are_too_few(tmp_path):
    array = np.arange(77).reshape(7, 11) * 5
    png.write_new(array, png.flat.pixel_grid((7, 11)), tmp_path / "new.png")
    assert np.array_equal(png.read_labels(tmp_path / "new.png").array, array)
