"""The loop between person and method: ten decisions, then every method trains on what they left."""

from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.engine.filter import FilterRequest, read_result, refilter
from napari_noisylabel.engine.source import iterate_cases
from napari_noisylabel.engine.spec import RunSpec
from napari_noisylabel.engine.train import train
from napari_noisylabel.methods import methods
from napari_noisylabel.records import Verdict
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.workbench import Workbench
from tests.engine.conftest import ALL, QUICK, working


@pytest.fixture
def decided(trained) -> Workbench:
    """A project in which ten regions were accepted and one case was found right."""
    bench = Workbench()
    bench.open(trained, by="Ada")
    for _ in range(10):
        bench.review(Verdict.ACCEPTED)
    bench.review(Verdict.VERIFIED, case=next(c.id for c in bench.store.cases() if not c.held_out))
    yield bench
    bench.close()


@pytest.mark.parametrize("method", ALL)
def test_after_ten_accepted_regions_no_retraining_changes_or_proposes_a_verified_voxel(decided, trial_methods, method):
    assert set(methods()) >= set(ALL)
    store, folder = decided.store, decided.store.folder / "runs" / "by-hand"
    spec = RunSpec("by-hand", method, QUICK.get(method, {}), {"steps": 2, "batch": 2, "threads": 1}, epochs=2)
    cases = list(iterate_cases(store, store.label_version))
    for _ in train(spec, cases, store.tracks, folder):
        pass
    for _ in refilter(store, folder, FilterRequest("by-hand", "voxel", 0.01)):
        pass

    seen = {c.id: c.verified["organ"] for c in cases if c.verified["organ"] is not None}
    assert sum(int(mask.sum()) for mask in seen.values()) >= 10
    labels = {c.id: c.labels["organ"] for c in cases}
    for (_, case, track), left in working(folder, cases).items():
        if case in seen:
            np.testing.assert_array_equal(left[seen[case]], labels[case][seen[case]], err_msg=track)
    result = read_result(folder)
    assert result.regions
    for region, voxels in zip(result.regions, result.voxels, strict=True):
        if region.case in seen:
            assert not seen[region.case].ravel()[voxels].any()


def test_the_worker_sees_the_labels_as_they_were_when_the_run_began(decided):
    version = decided.store.label_version
    before = {c.id: c.labels["organ"].copy() for c in iterate_cases(decided.store, version)}
    decided.review(Verdict.ACCEPTED)
    with ProjectStore.open(decided.store.folder, read_only=True) as store:
        for case in iterate_cases(store, version):
            np.testing.assert_array_equal(case.labels["organ"], before[case.id])
