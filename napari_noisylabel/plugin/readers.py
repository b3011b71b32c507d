"""A project folder dropped on napari opens in the dock; without a window, its first case as layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import napari

from napari_noisylabel.plugin.colours import label_colormap
from napari_noisylabel.plugin.contrast import contrast_limits, default_preset
from napari_noisylabel.plugin.display import Shown
from napari_noisylabel.plugin.layers import CORRECTED, GIVEN, image_names
from napari_noisylabel.records import CaseView, Track
from napari_noisylabel.workbench import Workbench

PROJECT_FILE = "project.json"
PLUGIN, DOCK = "napari-noisylabel", "Noisy labels"
LayerData = tuple[Any, ...]


def get_project_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """The reader of a project folder (or of its `project.json`), None for anything else."""
    if not isinstance(path, str):
        return None
    return read_project if (project_folder(path) / PROJECT_FILE).is_file() else None


def project_folder(path: str) -> Path:
    """The folder that `path` means."""
    named = Path(path)
    return named.parent if named.name == PROJECT_FILE else named


def read_project(path: str | Sequence[str]) -> list[LayerData]:
    """Open the project in the dock of the viewer at hand; else give the first case's layers."""
    folder = project_folder(str(path))
    viewer = napari.current_viewer()
    if viewer is None:
        return first_case(folder)
    _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, DOCK)
    dock.open_project(folder)
    return [(None,)]  # napari's sign for "read, and there is no layer to add"


def first_case(folder: Path) -> list[LayerData]:
    """Image, given and corrected labels of the first case, as it lies on disk."""
    workbench = Workbench()
    try:
        session = workbench.open(folder, read_only=True)
        return layer_data(workbench.load(session.cases[0].id), session.tracks)
    finally:
        workbench.close()


def layer_data(view: CaseView, tracks: Sequence[Track]) -> list[LayerData]:
    """A case as napari's layer tuples, bottom to top."""
    shown = Shown(view.case.geometry)
    grid = {"scale": shown.scale, "units": shown.units}
    layers: list[LayerData] = [
        (
            shown.view(a),
            {"name": name, "contrast_limits": contrast_limits(a, default_preset(a)), **grid},
            "image",
        )
        for name, a in zip(image_names(len(view.images)), view.images, strict=True)
    ]
    for track in tracks:
        for name, arrays, pale in ((GIVEN, view.given, True), (CORRECTED, view.corrected, False)):
            if track.name in arrays:
                look = {"name": name, "colormap": label_colormap(track.n_classes, pale=pale), **grid}
                layers.append((shown.view(arrays[track.name]), look, "labels"))
    return layers
