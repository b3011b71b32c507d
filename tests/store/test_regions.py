"""Regions: ids that are never used again, and what a new filter leaves of the old ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_noisylabel.arrays.labels import encode_indices, voxel_indices
from napari_noisylabel.errors import InputError, ShapeMismatch
from napari_noisylabel.records import RegionState, Verdict
from napari_noisylabel.store import ProjectStore


def test_a_region_comes_back_as_it_was(store, folder, propose):
    (written,) = propose([3, 4, 9], score=math.nan, share_above=0.02, to_class=2)
    store.close()
    with ProjectStore.open(folder, read_only=True) as again:
        (region,) = again.regions()
        runs = again.region_runs(region.id)
        assert repr(region) == repr(written) and region.start == (0, 0, 3) and math.isnan(region.score)
        assert voxel_indices(runs).tolist() == [3, 4, 9]
        assert (set(runs.before), set(runs.after)) == ({0}, {2})


def test_voxels_may_be_given_as_runs(store, make_run, make_region):
    store.add_run(make_run())
    region, indices = make_region([5, 6])
    (written,) = store.replace_open_regions("run-001", [region], [encode_indices(indices, 0, 1)])
    assert voxel_indices(store.region_runs(written.id)).tolist() == [5, 6]


def test_ids_are_never_used_again(store, folder, propose, make_region):
    assert [r.id for r in propose([1], [2])] == [1, 2]
    propose()
    store.close()
    with ProjectStore.open(folder) as again:
        region, indices = make_region([3])
        assert [r.id for r in again.replace_open_regions("run-001", [region], [indices])] == [3]


def test_a_region_that_stays_the_same_keeps_its_id(store, propose):
    propose([1, 2], [7])
    regions = propose([7], [8], likelihood=0.9)
    assert [(r.id, r.likelihood) for r in regions] == [(2, 0.9), (3, 0.9)]
    assert [r.id for r in store.regions()] == [2, 3]


def test_regions_decided_on_stay_as_they_are(store, propose, make_event):
    propose([1, 2], [7], [9])
    store.append(make_event([1, 2], run="run-001", region=1))
    store.append(make_event([7], Verdict.REJECTED, 0, 0, region=2))
    propose([11])
    states = {r.id: r.state for r in store.regions()}
    assert states == {1: RegionState.ACCEPTED, 2: RegionState.REJECTED, 4: RegionState.OPEN}


def test_regions_of_other_runs_are_left_alone(store, propose, make_run, make_region):
    propose([1])
    store.add_run(make_run())
    region, indices = make_region([2], run="run-002")
    store.replace_open_regions("run-002", [region], [indices])
    assert [(r.id, r.run) for r in store.regions(states=[RegionState.OPEN])] == [(1, "run-001"), (2, "run-002")]
    assert [r.id for r in store.regions(run="run-002", case="case-1")] == [2]
    assert store.regions(case="case-2") == ()


def test_what_a_person_called_unsure_stays_unsure_when_it_grows(store, propose, make_event):
    propose([1, 2], [30])
    store.append(make_event([1, 2], Verdict.UNSURE, 0, 0, region=1))
    assert store.region(1).state == RegionState.UNSURE
    assert [r.state for r in propose([1, 2, 3], [30])] == [RegionState.UNSURE, RegionState.OPEN]
    assert store.region(1).state == RegionState.GONE  # an event still names it


def test_regions_without_their_voxels_are_refused_and_nothing_changes(store, propose, make_region):
    propose([1, 2])
    region, _ = make_region([5, 6])
    with pytest.raises(ShapeMismatch, match="3 given, 2 named"):
        store.replace_open_regions("run-001", [region], [np.array([5, 6, 7])])
    with pytest.raises(InputError, match="ascend"):
        store.replace_open_regions("run-001", [region], [np.array([6, 5])])
    with pytest.raises(ValueError, match="zip"):
        store.replace_open_regions("run-001", [region], [])
    assert [r.id for r in store.regions(states=["open"])] == [1]


def test_a_state_can_be_set_without_an_event(store, propose):
    propose([1])
    assert store.set_region_state(1, RegionState.UNSURE).state == RegionState.UNSURE
    assert store.events() == ()


def test_after_a_decision_only_what_it_changed_is_read_again(store, propose, make_event):
    before = propose([1, 2, 3], [7], [9, 12])
    store.append(make_event([3, 9, 12], region=2))

    again = store.regions_again(before[0].run, {region.id: region for region in before})

    assert again == store.regions()[:2]
    assert [region.state for region in store.regions()] == ["open", "accepted", "gone"]


def test_regions_that_are_as_they_were_are_the_same_objects(store, propose, make_event):
    before = propose([1, 2, 3], [7])
    store.append(make_event([7], region=2))

    again = store.regions_again(before[0].run, {region.id: region for region in before})

    assert again[0] is before[0] and again[1] is not before[1]
