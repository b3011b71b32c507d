"""Colours of the label layers and of the noise likelihood: safe for colour-deficient eyes."""

from __future__ import annotations

import colorsys
from collections import defaultdict

import numpy as np
from napari.utils.colormaps import Colormap, DirectLabelColormap, ensure_colormap

from napari_noisylabel.records import IGNORE

# Okabe and Ito, "Color Universal Design", 2008, without black. The warm ones come last: warm is suspicious.
CLASS_COLOURS = ("#56B4E9", "#CC79A7", "#009E73", "#0072B2", "#F0E442", "#E69F00", "#D55E00")
CLEAR = np.zeros(4, dtype=np.float32)
UNANNOTATED = np.array([0.5, 0.5, 0.5, 0.35], dtype=np.float32)

BOX_COLOUR = "#FFFFFF"
FADE = 24
"""Steps of the likelihood colormap over which it goes from clear to opaque."""


def class_colour(index: int) -> np.ndarray:
    """RGBA of class `index` (1 is the first structure). Beyond seven classes hues are spread evenly."""
    if index <= len(CLASS_COLOURS):
        text = CLASS_COLOURS[index - 1]
        return np.array([int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)] + [1.0], dtype=np.float32)
    hue = (index * 0.618034) % 1.0  # golden ratio: any two neighbours lie far apart
    return np.array([*colorsys.hsv_to_rgb(hue, 0.6, 0.95), 1.0], dtype=np.float32)


def paler(colour: np.ndarray, share: float = 0.55) -> np.ndarray:
    """`colour` mixed with white: the given labels beside the corrected ones."""
    return np.append(colour[:3] + (1 - colour[:3]) * share, colour[3]).astype(np.float32)


def label_colormap(n_classes: int, *, pale: bool = False) -> DirectLabelColormap:
    """A colour per class index 1..K-1; background and unknown values are clear, IGNORE is grey."""
    colours: dict[int | None, np.ndarray] = defaultdict(lambda: CLEAR)
    colours.update({None: CLEAR, 0: CLEAR, IGNORE: CLEAR if pale else UNANNOTATED})
    for index in range(1, n_classes):
        colours[index] = paler(class_colour(index)) if pale else class_colour(index)
    return DirectLabelColormap(color_dict=colours)


def likelihood_colormap() -> Colormap:
    """The warm half of inferno, clear at the low end: 256 colours. Classes have the cool ones."""
    colours = np.asarray(ensure_colormap("inferno").map(np.linspace(0.55, 0.97, 256))).copy()
    colours[:FADE, 3] = np.linspace(0, 1, FADE)
    return Colormap(colours, name="noise likelihood", display_name="noise likelihood")


def affinity_colormap() -> Colormap:
    """Viridis, clear where the affinity is low: 256 colours."""
    colours = np.asarray(ensure_colormap("viridis").map(np.linspace(0, 1, 256))).copy()
    colours[:, 3] = np.clip(np.linspace(-0.6, 1.4, 256), 0, 1)
    return Colormap(colours, name="affinity", display_name="affinity")
