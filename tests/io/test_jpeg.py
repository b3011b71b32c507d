from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.errors import BadLabels, ExportRefused, UnreadableFile
from napari_noisylabel.io import jpeg

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("mode", "n_channels"), [("L", 1), ("RGB", 3), ("CMYK", 3)])
def test_images_come_as_grey_or_rgb_channels(save_picture, mode, n_channels):
    path = save_picture("a.jpg", RNG.integers(0, 255, (7, 11, 3)).astype(np.uint8), mode)
    assert jpeg.read_image(path).array.shape == (n_channels, 7, 11)
    assert jpeg.read_header(path).n_channels == n_channels


def test_labels_in_a_lossy_format_are_refused(save_picture, tmp_path):
    path = save_picture("a.jpg", np.zeros((7, 11), np.uint8))
    with pytest.raises(BadLabels, match="stored without loss"):
        jpeg.read_labels(path)
    with pytest.raises(ExportRefused, match="without loss"):
        jpeg.write_labels(path, np.zeros((7, 11), np.uint8), tmp_path / "b.jpg")


@pytest.mark.parametrize("left", [0, 20, -200])
def test_a_truncated_jpeg_is_refused(save_picture, left):
    path = save_picture("a.jpg", RNG.integers(0, 255, (70, 110)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UnreadableFile, match="is not a whole JPEG file"):
        jpeg.read_image(path)
