"""A filter looks only at the voxels that would change; what it leaves is what the whole maps give."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from napari_noisylabel.arrays.regions import find_regions
from napari_noisylabel.engine.casemaps import MEASURED, STATISTICS, CaseScores
from napari_noisylabel.engine.filter import FilterRequest, likelihood_counts, read_result, refilter
from napari_noisylabel.engine.source import labels_of
from napari_noisylabel.records import FilterLevel

THRESHOLD = 0.3


@pytest.mark.parametrize("level", list(FilterLevel))
def test_the_regions_of_a_filter_are_those_of_its_likelihood_maps(store, level):
    folder = filtered(store, level)
    expected = []
    for case in store.cases():
        labels, proposal, likelihood = case_maps(store, folder, case)
        expected.append(find_regions(labels, proposal, likelihood >= 255 * THRESHOLD, case.geometry.spacing))

    result = read_result(folder)

    assert len(result.regions) == sum(map(len, expected)) > 0
    np.testing.assert_array_equal(np.concatenate(result.voxels), np.concatenate([e.indices for e in expected]))


def test_likelihoods_are_counted_over_all_voxels_that_would_change(store):
    folder = filtered(store, FilterLevel.CASE)
    expected = np.zeros(256, np.int64)
    for case in (c for c in store.cases() if not c.held_out):
        labels, proposal, likelihood = case_maps(store, folder, case)
        expected += np.bincount(likelihood[labels != proposal], minlength=256)

    np.testing.assert_array_equal(likelihood_counts(folder)["organ"], expected)


@pytest.mark.parametrize("level", list(FilterLevel))
@pytest.mark.parametrize("overlap", [0.4, 0.9])
def test_regions_of_a_class_that_the_networks_have_not_learnt_are_weak_and_the_note_says_so(store, level, overlap):
    """Far from every label in voxels, as with large objects; then Dice decides."""
    folder = filtered(store, FilterLevel.CASE)
    for case in store.cases():
        scores = CaseScores(folder, case.id)
        own = scores.statistics()["organ"]
        far = [np.full(3, value) for value in (9.0, 9.0, 0.5, overlap)]
        far[-1][[0, 2]] = np.nan, 0.9  # background is nobody's class, and of the second class they know enough
        scores.write_statistics({"organ": replace(own, **dict(zip(MEASURED, far, strict=True)))})

    filtered(store, level)
    result = read_result(folder)

    unlearnt = overlap < 0.5
    assert result.regions
    assert all(r.weak == (unlearnt and 1 in (r.from_class, r.to_class)) for r in result.regions)
    assert result.filter.note.count("have not learnt") == unlearnt


def test_in_runs_from_before_overlap_was_measured_every_class_counts_as_learnt(store):
    folder = filtered(store, FilterLevel.CASE)
    found = len(read_result(folder).regions)
    for case in store.cases():
        path = CaseScores(folder, case.id).folder / STATISTICS
        tree = json.loads(path.read_text())
        del tree["organ"]["overlap"]
        path.write_text(json.dumps(tree))
    filtered(store, FilterLevel.CASE)
    result = read_result(folder)
    assert len(result.regions) == found and not any(r.weak for r in result.regions)
    assert "learnt" not in result.filter.note


def filtered(store, level):
    """The folder of the run, with another filter."""
    run = store.latest_complete_run().id
    for _ in refilter(store, store.run_folder(run), FilterRequest(run, level, THRESHOLD)):
        pass
    return store.run_folder(run)


def case_maps(store, folder, case):
    """Labels, proposal and likelihood, as they are stored."""
    scores = CaseScores(folder, case.id)
    return labels_of(store, case)["organ"], scores.require("organ.proposal"), scores.require("organ.likelihood")
