from __future__ import annotations

import numpy as np

from napari_noisylabel.methods.sieve_regions import bands, piece_means, supervoxels
from napari_noisylabel.records import IGNORE

SPACING = (2.0, 1.0)


def drawn() -> np.ndarray:
    labels = np.zeros((17, 40), np.uint8)
    labels[4:11, 5:20], labels[4:11, 20:26], labels[13:15, 33:37], labels[:, 39] = 1, 2, 1, IGNORE
    return labels


def test_a_supervoxel_is_a_cell_of_one_label():
    labels = drawn()
    pieces = supervoxels(labels, SPACING, 4.0)
    keys = {p: (p[0] // 2, p[1] // 4, labels[p]) for p in np.ndindex(*labels.shape)}
    assert len(set(keys.values())) == len(np.unique(pieces))
    assert len({(key, pieces[p]) for p, key in keys.items()}) == len(set(keys.values()))


def test_an_object_is_divided_into_band_and_core_and_the_background_around_it_is_a_piece():
    labels = drawn()
    pieces = bands(labels, SPACING, 2.0, 4.0)
    assert pieces[4, 8] == pieces[10, 12] != pieces[7, 12]  # along the boundary, and in the core
    assert pieces[7, 12] == pieces[7, 10] and pieces[7, 18] == pieces[4, 8]  # a neighbour of class 2 is a boundary, too
    assert pieces[7, 22] not in (pieces[7, 12], pieces[4, 8])
    assert pieces[3, 8] == pieces[11, 24] != pieces[7, 1]  # touching objects share their outer band
    assert pieces[7, 4] == pieces[3, 8] and pieces[3, 8] != pieces[0, 0] and pieces[2, 8] != pieces[3, 8]
    assert pieces[13, 34] != pieces[4, 8] and pieces[12, 34] != pieces[3, 8]  # another object of class 1
    assert len(np.unique(pieces[labels == IGNORE])) > 1  # nobody's: cells


def test_a_case_without_any_object_is_divided_into_cells():
    labels = np.zeros((9, 11), np.uint8)
    assert len(np.unique(bands(labels, SPACING, 2.0, 4.0))) == 5 * 3


def test_the_mean_of_a_piece_is_at_each_of_its_voxels():
    values = np.random.default_rng(0).normal(size=(17, 40)).astype(np.float32)
    pieces = bands(drawn(), SPACING, 2.0, 4.0)
    found = piece_means(values, pieces)
    for p in np.ndindex(*values.shape):
        assert found[p] == np.float32(values[pieces == pieces[p]].mean(dtype=np.float64))
