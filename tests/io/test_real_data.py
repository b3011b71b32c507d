"""The five public data sets that the program is measured on open as they are. Skipped where they are not."""

from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.io.folders import (
    check_cases,
    find_cases,
    load_image,
    load_labels,
    make_cases,
    make_tracks,
    read_split,
    source_values,
)
from napari_noisylabel.io.volumes import read_labels, write_labels

DATASETS = [  # folder, labels, raters, ignore, (training, val, test), values, unit, C
    ("hippocampus3d", "labels", [], None, (69, 18, 23), (0, 1, 2), "mm", 1),
    ("acdc_cardiac", "labels", ["labels_scribble"], 4, (36, 12, 12), (0, 1, 2, 3), "px", 1),
    ("bubil_cells_crowd", "labels_crowd1", ["labels_expert2"], None, (70, 23, 24), (0, 255), "px", 1),
    ("chase_db1_vessels", "labels", ["labels_rater2"], None, (16, 6, 6), (0, 1), "px", 3),
    ("kvasir_polyp", "labels", [], None, (218, 40, 42), (0, 255), "px", 3),
]


@pytest.mark.parametrize(
    ("name", "labels", "raters", "ignore", "parts", "values", "unit", "n_channels"),
    DATASETS,
    ids=[dataset[0] for dataset in DATASETS],
)
def test_a_public_data_set_opens(data_dir, tmp_path, name, labels, raters, ignore, parts, values, unit, n_channels):
    folder = data_dir / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is not in {data_dir}")
    found = find_cases(folder / "images", {"t": folder / labels}, {r: folder / r for r in raters})
    checked = check_cases(found)
    (track,) = make_tracks(checked, ignore=ignore)
    cases = make_cases(checked, split=read_split(folder / "split.json"))

    assert tuple(sum(c.held_out == p for c in cases) for p in ("", "val", "test")) == parts
    assert (track.values, {c.geometry.unit for c in cases}) == (values, {unit})
    assert load_image(cases[0]).shape == (n_channels, *cases[0].geometry.shape)

    source = cases[0].labels["t"].path
    given = load_labels(cases[0], track)
    write_labels(source, source_values(given, track), tmp_path / source.name)
    again = read_labels(tmp_path / source.name)
    assert np.array_equal(again.array, read_labels(source).array)
    assert (again.geometry, again.dtype) == (cases[0].geometry, read_labels(source).dtype)
