"""Saving the corrected layer: on the grid of its source, with the source's values."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_noisylabel.arrays.geometry import to_array
from napari_noisylabel.errors import ExportRefused
from napari_noisylabel.io.values import source_values
from napari_noisylabel.io.volumes import write_labels as write_like_source


def write_labels(path: str, data: np.ndarray, meta: dict[str, Any]) -> list[str]:
    """Write the corrected labels of a project's case to `path`; returns the file written.

    Raises
    ------
    ExportRefused : a layer that does not come from a project, or has strokes that no event explains.
    """
    origin = meta.get("metadata", {}).get("noisylabel")
    if origin is None or not origin["source"]:
        raise ExportRefused(
            f"layer {meta.get('name', '')!r} is not the corrected labels of a project, so its geometry is "
            "not known. Save it with napari's own writer, or choose the layer 'corrected labels'."
        )
    if origin["session"].draft:
        raise ExportRefused(
            f"strokes on case {origin['case']!r} are not applied, and no voxel leaves without a decision. "
            "Apply them (D) or discard them, then save."
        )
    labels = to_array(np.asarray(data), origin["axes"])
    write_like_source(origin["source"], source_values(labels, origin["track"]), path)
    return [path]
