from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel import study
from napari_noisylabel.arrays import sampling
from napari_noisylabel.arrays.labels import voxel_indices
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.errors import NothingToDo, UnknownName
from napari_noisylabel.records import RegionState
from napari_noisylabel.store.maps import write_map
from napari_noisylabel.study.samplers import QUEUE_ORDERS, order_regions

pytest.importorskip("torch")


@pytest.fixture
def regions(store):
    found = store.regions(run="run-001", states=[RegionState.OPEN])
    assert len(found) >= 5
    return found


@pytest.mark.parametrize("order", [o for o in QUEUE_ORDERS if "bald" not in o])
def test_every_order_has_every_region_once(store, regions, order):
    found = order_regions(store, store.run("run-001"), regions, order)
    assert sorted(r.id for r in found) == sorted(r.id for r in regions)


@pytest.mark.parametrize("order", ["entropy", "mean-entropy"])
def test_entropy_is_summed_or_averaged_over_the_voxels_of_a_region(store, regions, order):
    found = order_regions(store, store.run("run-001"), regions, order)
    scores = []
    for region in found:
        probs = CaseScores(store.run_folder("run-001"), region.case).require(f"{region.track}.probs").astype(float)
        where = voxel_indices(store.region_runs(region.id))
        total = probs.reshape(len(probs), -1)[:, where].sum(0)
        own = sampling.entropy(probs.reshape(len(probs), -1)[:, where] / total)
        scores.append(own.sum() if order == "entropy" else own.mean())
    firsts = first_pieces(found)
    assert (np.diff([scores[i] for i in firsts]) <= 1e-9).all()


def first_pieces(found) -> list[int]:
    """Positions of regions before the first that is a later piece of some object, which comes after all others."""
    seen, out = [], []
    for i, region in enumerate(found):
        key = (region.case, region.track, region.from_class, region.to_class)
        if key in seen:
            break
        seen.append(key)
        out.append(i)
    return out


def test_bald_needs_a_run_of_several_passes_and_orders_by_their_map(store, regions):
    run = store.run("run-001")
    with pytest.raises(NothingToDo, match="order bald compares several passes over a case, and run-001"):
        order_regions(store, run, regions, "bald")
    last = regions[-1]
    for case in {r.case for r in regions}:
        bald = np.zeros(store.case(case).geometry.shape, np.uint8)
        if case == last.case:
            bald.reshape(-1)[voxel_indices(store.region_runs(last.id))] = 200
        write_map(store.run_folder(run.id) / "maps" / case, f"{last.track}.bald", bald)
    assert order_regions(store, run, regions, "bald")[0] == last


def test_an_order_that_is_not_there_is_refused_with_those_that_are(store, regions):
    with pytest.raises(UnknownName, match="no order 'best'. The orders are: gain, .*core-set"):
        order_regions(store, store.run("run-001"), regions, "best")


def test_the_curves_of_several_orders_start_and_end_alike_and_say_how_soon_most_is_there(store):
    truth = store.folder.parent / "truth"
    found = study.compare_orders(store, truth, ["gain", "entropy", "random"])
    curves = found["curves"]
    assert {round(c[0], 9) for c in curves.values()} == {round(found["start"], 9)}
    assert {round(c[-1], 9) for c in curves.values()} == {round(found["end"], 9)}
    assert curves["gain"] == study.simulate(store, truth, order="gain")["curve"]
    for order, needed in found["needed"].items():
        for n, target in zip(needed, found["targets"], strict=True):
            assert curves[order][n] >= target - 1e-9 and (n == 0 or curves[order][n - 1] < target)


def test_the_gain_in_dice_is_the_gain_over_the_size_of_the_structure(store, regions):
    def expected(region):
        histogram = CaseScores(store.run_folder("run-001"), region.case).statistics()[region.track].histogram
        sizes = [histogram[k].sum() for k in {region.from_class, region.to_class} - {0}]
        return sum(region.gain / max(1, size, region.voxels) for size in sizes)

    found = [expected(r) for r in order_regions(store, store.run("run-001"), regions, "dice-gain")]
    assert (np.diff(found) <= 1e-12).all() and found[0] > found[-1]
