from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_noisylabel.engine.data import CaseArrays, PreparedCase
from napari_noisylabel.engine.patches import (
    CaseMaps,
    PatchPlan,
    _turn_and_zoom,
    cut,
    cut_image,
    make_batch,
    patch_start,
    plan_patches,
)  # fmt: skip
from napari_noisylabel.engine.settings import EngineSettings
from napari_noisylabel.methods.base import Batch
from napari_noisylabel.records import IGNORE, Track
from tests.engine.conftest import ORGANS, make_case, prepared

VOLUME = PatchPlan(3, (8, 16, 24), 0, 0, 2, 1, False)
SLICES = PatchPlan(2, (16, 1, 24), 1, 0, 2, 1, True)
PLAIN = EngineSettings(augment=False)


@pytest.fixture
def case(tmp_path) -> PreparedCase:
    return prepared(tmp_path, make_case("a", (12, 20, 31), verified=True))


def batch_of(case: PreparedCase, plan: PatchPlan, settings: EngineSettings, seeds, working=None, **extra) -> Batch:
    labels = case.labels["organ"]
    own = CaseMaps(labels, labels if working is None else working, case.verified["organ"], extra)
    return make_batch([case] * len(seeds), {case.id: {"organ": own}}, ORGANS, plan, settings, seeds)


@pytest.mark.parametrize("plan", [VOLUME, SLICES], ids=["3-D", "2-D"])
def test_the_same_seed_draws_the_same_patch_and_another_another(case, plan):
    once, again = (batch_of(case, plan, EngineSettings(), [(0, 1, 2), (0, 1, 3)]) for _ in range(2))
    assert torch.equal(once.images, again.images) and torch.equal(once.working["organ"], again.working["organ"])
    assert torch.equal(once.index, again.index) and once.views == again.views
    assert not torch.equal(once.images[0], once.images[1])


def test_a_patch_is_the_box_that_its_index_names(case):
    batch = batch_of(case, VOLUME, PLAIN, [(5,)])
    box = tuple(slice(a, b) for a, b in zip(batch.index[0, :3].tolist(), batch.index[0, 3:].tolist(), strict=True))
    np.testing.assert_array_equal(batch.images[0, 0], np.asarray(case.image[0][box], np.float32))
    np.testing.assert_array_equal(batch.labels["organ"][0], case.labels["organ"][box])
    np.testing.assert_array_equal(batch.verified["organ"][0], case.verified["organ"][box])


@pytest.mark.parametrize("augment", [False, True])
def test_what_lies_outside_the_case_is_ignored_and_has_no_weight(case, augment):
    plan = PatchPlan(3, (24, 32, 40), 0, 0, 1, 1, False)
    batch = batch_of(case, plan, EngineSettings(augment=augment), [(7,)], doubt=np.ones(case.image.shape[1:]))
    outside = batch.labels["organ"] == IGNORE
    assert torch.equal(outside, batch.ignore("organ")) and outside.float().mean() > 0.5
    assert torch.equal(batch.weight["organ"] == 0, outside) and (batch.working["organ"][outside] == IGNORE).all()
    assert not batch.verified["organ"][outside].any() and not batch.extra["doubt"]["organ"][outside].any()
    if not augment:
        assert (~outside).sum() == np.prod(case.shape)


def test_verified_voxels_of_a_batch_keep_their_label_whatever_the_working_labels_say(case):
    batch = batch_of(case, VOLUME, EngineSettings(), [(i,) for i in range(4)], np.full((12, 20, 31), 2, np.uint8))
    own = batch.verified["organ"]
    assert own.any() and torch.equal(batch.working["organ"][own], batch.labels["organ"][own])
    assert (batch.weight["organ"][own] == 1).all()
    assert (batch.working["organ"][~own & ~batch.ignore("organ")] == 2).all()


@pytest.mark.parametrize("spacing", [(1.5, 0.4), (5.0, 0.7, 1.2)])
def test_a_turn_is_one_in_millimetres_on_any_grid(spacing):
    shape = (20, 31, 14)[: len(spacing)]
    grid = _turn_and_zoom(shape, spacing, np.random.default_rng(3))[0].double().numpy()[..., ::-1]
    mm = (grid * np.array(shape) - 1 + np.array(shape)) / 2 * spacing  # normalised coordinates -> voxels -> mm
    origin = (0,) * len(shape)
    steps = [mm[tuple(int(i == a) for i in range(len(shape)))] - mm[origin] for a in range(len(shape))]
    matrix = np.array(steps) / np.array(spacing)[:, None]
    zoom = np.linalg.norm(matrix[0])
    np.testing.assert_allclose(matrix @ matrix.T, zoom**2 * np.eye(len(shape)), atol=1e-3)
    assert 0.5 < zoom < 2 and abs(matrix - np.eye(len(shape)) * zoom).max() > 0.01
    middle = mm.mean(axis=tuple(range(len(shape))))
    np.testing.assert_allclose(middle, (np.array(shape) - 1) / 2 * spacing, atol=1e-3)


def test_slices_are_cut_across_their_axis_and_neighbours_become_channels(case):
    plan = PatchPlan(2, (12, 1, 31), 1, 1, 1, 1, False)
    for y, expected in ((5, (4, 5, 6)), (0, (0, 0, 1)), (19, (18, 19, 19))):
        patch = cut_image(case, (0, y, 0), plan)
        assert patch.shape == (3, 12, 31)
        np.testing.assert_array_equal(patch, np.moveaxis(case.image[0], 1, 0)[list(expected)].astype(np.float32))
    assert batch_of(case, SLICES, PLAIN, [(0,)]).labels["organ"].shape == (1, 16, 24)


def test_a_box_that_leaves_the_array_is_filled():
    array = np.arange(24).reshape(1, 2, 3, 4)
    box = cut(array, (-1, 1, 2), (3, 3, 3), 99)
    assert box.shape == (1, 3, 3, 3) and (box[0, 0] == 99).all() and (box[0, :, 2] == 99).all()
    np.testing.assert_array_equal(box[0, 1:, :2, :2], array[0, :, 1:, 2:])


def test_most_patches_show_a_rare_class_where_that_is_asked_for(tmp_path):
    labels = np.zeros((60, 71), np.uint8)
    labels[40:42, 11:13] = 2
    case = prepared(tmp_path, CaseArrays("a", "a", False, (1, 1), np.ones((1, 60, 71)), {"organ": labels}, {}))
    plan = PatchPlan(2, (1, 16, 16), 0, 0, 1, 1, False)

    def share(foreground: float) -> float:
        rng = np.random.default_rng(0)
        starts = [patch_start(case, ORGANS, plan, foreground, rng) for _ in range(300)]
        return float(np.mean([cut(case.labels["organ"], s, plan.size, 0).any() for s in starts]))

    assert share(0.0) < 0.2 < 0.9 < share(1.0)


@pytest.mark.parametrize(
    ("shape", "spacing", "n_dims", "axis"),
    [
        ((40, 50), (5.0, 5.0), 2, 0),  # a picture with large pixels is still a picture
        ((40, 50), (4.0, 1.0), 2, 0),
        ((10, 90, 80), (8.0, 1.5, 1.5), 2, 0),
        ((90, 80, 10), (1.5, 1.5, 8.0), 2, 2),
        ((30, 36, 34), (1.0, 1.2, 1.0), 3, 0),
        ((4, 90, 80), (1.0, 1.0, 1.0), 2, 0),
    ],
)
def test_the_data_decide_between_slices_and_volumes(tmp_path, shape, spacing, n_dims, axis):
    cases = [prepared(tmp_path, make_case("a", shape, spacing=spacing))]
    plan = plan_patches(cases, EngineSettings(), 8, big_device=False)
    assert plan.n_dims == n_dims and (n_dims == 3 or plan.slice_axis == axis)
    assert all(plan.size[a] % 8 == 0 for a in plan.in_plane) and (n_dims == 3 or plan.size[axis] == 1)
    assert np.prod(plan.size) <= 64**3


def test_a_picture_is_never_taken_for_a_volume(tmp_path):
    cases = [prepared(tmp_path, make_case("a", (40, 50)))]
    plan = plan_patches(cases, EngineSettings(dims="3d", patch=(16, 24, 32)), 8, big_device=False)
    assert plan.n_dims == 2 and plan.size == (1, 24, 32)


def test_a_track_without_a_single_voxel_still_gives_patches(case):
    empty = Track("empty", ("background", "nothing"), (0, 1))
    bare = PreparedCase(**{**case.__dict__, "centres": {"empty": {}}})
    start = patch_start(bare, (empty,), VOLUME, 1.0, np.random.default_rng(0))
    assert all(0 <= a <= n - s for a, n, s in zip(start, (12, 20, 31), VOLUME.size, strict=True))


@pytest.mark.parametrize("plan", [VOLUME, SLICES], ids=["3-D", "2-D"])
def test_a_whole_case_comes_at_the_size_of_a_patch(case, plan):
    labels = case.labels["organ"]
    maps = {case.id: {"organ": CaseMaps(labels, labels, None, {})}}
    batch = make_batch([case], maps, ORGANS, plan, PLAIN, [(3,)], whole=True)
    assert tuple(batch.images.shape[2:]) == tuple(plan.size[a] for a in plan.in_plane)
    shown = labels if plan.n_dims == 3 else np.take(labels, int(batch.index[0, plan.slice_axis]), plan.slice_axis)
    assert not (batch.labels["organ"] == IGNORE).any()
    assert float((batch.labels["organ"] > 0).float().mean()) == pytest.approx(float((shown > 0).mean()), abs=0.05)
