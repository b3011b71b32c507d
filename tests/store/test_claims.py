"""A decision takes voxels from the regions that wait, and its undo gives them back."""

from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays.labels import all_voxels, voxel_indices
from napari_noisylabel.records import Event, RegionState, Verdict
from napari_noisylabel.store import redoing, undoing


@pytest.fixture
def take(store, make_event):
    def take(indices, verdict=Verdict.EDITED, **fields):
        return store.append(make_event(indices, verdict, **fields))

    return take


def undo(store):
    store.append(undoing(store.undo_target(), "ann"))


def redo(store):
    store.append(redoing(store.redo_target(), "ann"))


def states(store):
    return [str(region.state) for region in store.regions()]


@pytest.mark.parametrize("verdict", ["accepted", "rejected", "edited", "unsure"])
def test_a_verdict_sets_the_state_of_its_region_and_undo_opens_it(store, propose, take, verdict):
    propose([1, 2], [7])
    take([1, 2], Verdict(verdict), region=1)
    assert states(store) == [verdict, "open"]
    undo(store)
    assert states(store) == ["open", "open"]
    redo(store)
    assert states(store) == [verdict, "open"]


def test_the_caller_has_the_last_word_on_the_state(store, propose, make_event):
    propose([1, 2])
    store.append(make_event([1]), (1, RegionState.UNSURE))
    assert states(store) == ["unsure"]


def test_a_region_loses_the_voxels_that_were_decided_on(store, propose, take):
    before = propose([1, 2, 3, 9])[0]
    take([2, 3, 4])
    region = store.region(1)
    assert voxel_indices(store.region_runs(1)).tolist() == [1, 9]
    assert (region.voxels, region.state, region.stop) == (2, RegionState.OPEN, (1, 2, 5))
    assert region.volume_mm3 == pytest.approx(before.volume_mm3 / 2) and region.gain == before.gain / 2


def test_a_region_without_voxels_left_is_gone(store, propose, take):
    propose([1, 2], [7])
    take([1, 2, 3])
    assert states(store) == ["gone", "open"]


def test_undo_gives_regions_back_as_they_were(store, propose, take):
    before = propose([1, 2, 3, 9], [12, 13], [40])
    take([2, 3, 12, 13], region=3)
    undo(store)
    assert store.regions() == before
    assert voxel_indices(store.region_runs(1)).tolist() == [1, 2, 3, 9]


def test_undo_of_two_decisions_gives_back_both(store, propose, take):
    before = propose([1, 2, 3, 9])
    take([2]), take([9])
    undo(store), undo(store)
    assert store.regions() == before
    redo(store), redo(store)
    assert voxel_indices(store.region_runs(1)).tolist() == [1, 3]


def test_other_cases_and_tracks_keep_their_regions(store, propose, take):
    propose([1, 2])
    take([1, 2], case="case-2"), take([1, 2], track="tumour")
    assert states(store) == ["open"]


def test_a_whole_case_marked_as_right_ends_its_regions(store, propose, given):
    propose([1, 2], [7])
    store.append(Event(0, "", "ann", Verdict.VERIFIED, "case-1", "organ", all_voxels(given)))
    assert states(store) == ["gone", "gone"]
    undo(store)
    assert states(store) == ["open", "open"]


def test_unsure_takes_nothing(store, propose, take):
    propose([1, 2], [7])
    take([1, 2, 7], Verdict.UNSURE, region=1)
    assert states(store) == ["unsure", "open"]


def test_undo_does_not_bring_back_what_a_later_filter_replaced(store, propose, take):
    propose([1, 2, 3])
    take([3])
    propose([1, 2, 5])
    undo(store)
    shown = [voxel_indices(store.region_runs(r.id)).tolist() for r in store.regions(states=["open"])]
    assert shown == [[1, 2, 5]]


def test_a_random_review_undone_leaves_no_trace(store, propose, take):
    rng = np.random.default_rng(5)
    voxels = np.array_split(rng.permutation(60), 9)
    before = propose(*(np.sort(v) for v in voxels))
    for _ in range(25):
        take(np.flatnonzero(rng.random(60) < 0.1), region=int(rng.integers(0, 10)))
    left = sum(r.voxels for r in store.regions(states=["open"]))
    for _ in range(25):
        undo(store)
    assert left < 60 and store.regions() == before
