"""The noise models by their names; `noise.corrupt` is the door to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from napari_noisylabel.arrays.noise_case import Case, ClassJob
from napari_noisylabel.arrays.noise_contours import boundary, dilation_erosion, ellipses, markov_front
from napari_noisylabel.arrays.noise_flips import asymmetric, symmetric
from napari_noisylabel.arrays.noise_instance import instance
from napari_noisylabel.arrays.noise_objects import false_object, missing, shift, swap
from napari_noisylabel.arrays.noise_resized import under_over

Spoiled = tuple[np.ndarray, dict[str, Any]]
"""A mask (BY_CLASS) or label map (AT_ONCE), and what was drawn, fit for JSON."""

BY_CLASS: Mapping[str, Callable[[ClassJob], Spoiled]] = {
    "markov": markov_front,
    "one-sided": markov_front,
    "boundary": boundary,
    "dilation-erosion": dilation_erosion,
    "ellipse": ellipses,
    "missing": missing,
    "false-object": false_object,
}
"""Models that spoil one class at a time; the last class first, because it covers the others."""

AT_ONCE: Mapping[str, Callable[[Case], Spoiled]] = {
    "class-swap": swap,
    "shift": shift,
    "under-over": under_over,
    "symmetric": symmetric,
    "asymmetric": asymmetric,
    "instance": instance,
}
"""Models that look at all classes together."""

TO_OTHER_CLASSES = frozenset({"class-swap", "symmetric", "asymmetric", "instance"})
"""Models that give voxels to classes which the case may lack: they must know all of the track."""

WITH_IMAGE = frozenset({"instance"})
"""Models that look at the image."""

FLIPS = frozenset({"symmetric", "asymmetric"})
"""Models that spoil background too, in a case without any labelled voxel."""
