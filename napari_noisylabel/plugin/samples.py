"""Sample data in napari's menu."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_noisylabel.io.volumes import read_image, read_labels
from napari_noisylabel.plugin.colours import label_colormap
from napari_noisylabel.plugin.contrast import contrast_limits
from napari_noisylabel.plugin.display import Shown
from napari_noisylabel.samples import hippocampus_folder


def open_hippocampus() -> list[tuple[Any, ...]]:
    """One MRI of the hippocampus, both parts labelled (Medical Segmentation Decathlon, CC BY-SA 4.0)."""
    folder = hippocampus_folder()
    file = min((folder / "images").glob("*.nii.gz"))
    image, labels = read_image(file), read_labels(folder / "labels" / file.name)
    shown = Shown(image.geometry)
    grid = {"scale": shown.scale, "units": shown.units}
    channel = image.array.reshape(image.geometry.shape)
    values = np.asarray(labels.array, dtype=np.uint8)
    return [
        (
            shown.view(channel),
            {"name": file.name, "contrast_limits": contrast_limits(channel, "1 to 99 %"), **grid},
            "image",
        ),
        (
            shown.view(values),
            {"name": "labels", "colormap": label_colormap(3), "opacity": 0.4, **grid},
            "labels",
        ),
    ]
