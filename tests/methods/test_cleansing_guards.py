from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.methods.cleansing_guards import (
    Lost,
    lost_objects,
    object_volumes,
    over_the_cap,
    without_specks,
)
from napari_noisylabel.records import IGNORE


def test_predicted_components_smaller_than_clean_objects_are_dropped():
    labels, pseudo = np.zeros((2, 5, 12, 14), np.uint8)
    labels[1:4, 2:6, 2:6], pseudo[1:4, 2:6, 2:7] = 1, 1  # grows by a column
    pseudo[2, 9, 9:11] = 1  # a speck of 2 voxels
    pseudo[4, 9:11, 3] = 2  # one of another class, which may be small
    found = without_specks(pseudo, labels, np.array([0.0, 3 * 1.5, 1.0]), (1.5, 1.0, 1.0))
    assert not found[2, 9].any() and (found[1:4, 2:6, 2:7] == 1).all() and (found[4, 9:11, 3] == 2).all()
    assert (pseudo[2, 9, 9:11] == 1).all()  # a new array


def test_an_object_is_lost_where_no_voxel_keeps_it_and_most_become_another_class():
    labels = np.zeros((10, 20), np.uint8)
    labels[1:4, 1:4], labels[1:4, 6:9], labels[1:4, 11:14], labels[6:9, 1:4] = 1, 1, 1, 2
    pseudo = labels.copy()
    pseudo[1:4, 1:4], pseudo[6:9, 1:4] = 0, 1
    pseudo[1:4, 6:9] = 0
    pseudo[2, 7] = 1  # one voxel stays
    pseudo[1:4, 11:14] = IGNORE  # left out is not deleted
    sure = np.full((10, 20), 0.9)
    sure[6:9] = 0.8
    found = lost_objects(labels, pseudo, sure, (2.0, 1.0))
    assert [(lost.k, lost.volume_mm3) for lost in found] == [(1, 18.0), (2, 18.0)]
    assert [lost.sureness for lost in found] == pytest.approx([0.9, 0.8])
    assert (labels.ravel()[found[0].voxels] == 1).all() and 1 * 20 + 1 in found[0].voxels


def test_over_the_cap_only_the_surest_objects_may_be_deleted():
    lost = [Lost(1, np.zeros(1, int), s, 1.0) for s in (0.82, 0.99, 0.9, 0.85)]
    assert over_the_cap(lost, 20, 0.1) == [True, False, False, True]
    assert over_the_cap(lost, 9, 0.1) == [True] * 4 and over_the_cap(lost, 20, 1.0) == [False] * 4


def test_volumes_are_in_mm3():
    labels = np.zeros((3, 6, 9), np.uint8)
    labels[0, :2, :2], labels[2, 4:, 5:] = 1, 1
    assert sorted(object_volumes(labels, 1, (3.0, 0.5, 1.0))) == [6.0, 12.0]
    assert object_volumes(labels, 2, (3.0, 0.5, 1.0)).size == 0
