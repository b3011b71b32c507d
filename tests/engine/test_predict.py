from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from napari_noisylabel.engine.patches import PatchPlan
from napari_noisylabel.engine.predict import Predictor, mean_of_passes
from napari_noisylabel.methods.base import Prediction
from napari_noisylabel.networks import Output, build_network
from tests.engine.conftest import OVERLAPPING, make_case, prepared

CPU = torch.device("cpu")


def setting(tmp_path, shape, plan, tracks=OVERLAPPING):
    torch.manual_seed(0)
    channels = 2 * plan.context + 1
    network = build_network("unet", plan.n_dims, channels, {t.name: t.n_classes for t in tracks}).eval()
    return Predictor(tracks, plan, 8, CPU), network, prepared(tmp_path, make_case("a", shape, tracks), tracks)


def plain(network, images: np.ndarray) -> dict[str, np.ndarray]:
    """Softmax per track of (B, C, *spatial), sides multiples of 8."""
    with torch.no_grad():
        out = network(torch.from_numpy(images.astype(np.float32)))
    return {t: v.softmax(1).numpy() for t, v in out.logits.items()}


@pytest.mark.parametrize("shape", [(16, 24), (8, 16, 24)], ids=["2-D", "3-D"])
def test_a_small_case_is_one_plain_forward_pass(tmp_path, shape):
    plan = PatchPlan(len(shape), (1, 16, 16) if len(shape) == 2 else (8, 16, 16), 0, 0, 1, 1, False)
    predictor, network, case = setting(tmp_path, shape, plan)
    found = predictor.predict(network, case, features=True)
    expected = plain(network, case.image[0][None, None] if len(shape) == 3 else case.image[:, 0][None])
    for track in ("body", "lesion"):
        assert found.probs[track].shape == (2, *shape) and found.probs[track].dtype == np.float16
        np.testing.assert_allclose(found.probs[track], expected[track][0], atol=1e-3)
    assert found.features.shape == (16, *(n // 2 for n in shape))


def test_a_volume_of_slices_is_predicted_slice_by_slice_with_its_neighbours(tmp_path):
    plan = PatchPlan(2, (16, 1, 24), 1, 1, 1, 1, False)
    predictor, network, case = setting(tmp_path, (16, 11, 24), plan)
    found = predictor.predict(network, case).probs["body"]
    for y, around in ((0, (0, 0, 1)), (7, (6, 7, 8)), (10, (9, 10, 10))):
        expected = plain(network, np.moveaxis(case.image[0], 1, 0)[list(around)][None])["body"][0]
        np.testing.assert_allclose(found[:, :, y], expected, atol=1e-3)


def test_views_are_averaged_on_the_grid_of_the_case(tmp_path):
    plan = PatchPlan(2, (1, 16, 16), 0, 0, 1, 1, False)
    predictor, network, case = setting(tmp_path, (16, 24), plan)
    each = [predictor.predict(network, case, (v,)).probs["body"].astype(float) for v in ("", "flip1", "scale0.75")]
    mean = predictor.predict(network, case, ("", "flip1", "scale0.75")).probs["body"]
    np.testing.assert_allclose(mean, np.mean(each, 0), atol=1e-3)
    mirrored = plain(network, case.image[:, 0][None, ..., ::-1].copy())["body"][0][..., ::-1]
    np.testing.assert_allclose(each[1], mirrored, atol=1e-3)
    np.testing.assert_allclose(mean.sum(0, dtype=float), 1, atol=2e-3)


def test_a_view_can_zoom_the_fine_axes_and_leave_the_slices_alone(tmp_path):
    predictor, network, case = setting(tmp_path, (8, 20, 27), PatchPlan(3, (8, 16, 16), 0, 0, 1, 1, False))
    sizes: list[tuple[int, ...]] = []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    found = predictor.predict(network, case, ("scale0.7/12",)).probs["body"].astype(float)
    assert sizes == [(8, 16, 24)]  # 8 slices of 14 x 19 voxels, padded to what the network can halve

    image = torch.from_numpy(case.image.astype(np.float32))[None]
    zoomed = torch.nn.functional.interpolate(image, (8, 14, 19), mode="trilinear")
    padded = torch.nn.functional.pad(zoomed, (0, 5, 0, 2)).numpy()
    back = torch.from_numpy(plain(network, padded)["body"][:, :, :, :14, :19])
    expected = torch.nn.functional.interpolate(back, (8, 20, 27), mode="trilinear")[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(found - predictor.predict(network, case, ("scale0.7",)).probs["body"]).max() > 0.01


@pytest.mark.parametrize("views", [(), ("turn90",)])
def test_a_view_that_is_none_is_refused(tmp_path, views):
    predictor, network, case = setting(tmp_path, (16, 24), PatchPlan(2, (1, 16, 16), 0, 0, 1, 1, False))
    with pytest.raises(ValueError, match="view"):
        predictor.predict(network, case, views)


class Voxelwise(nn.Module):
    """Looks at each voxel alone, so that blocks must agree with the whole."""

    factor = 8

    def forward(self, images):
        return Output({"body": torch.cat([images, -images], 1), "lesion": torch.cat([0 * images, images], 1)}, images)


def test_a_large_volume_goes_through_in_blocks_that_agree_with_the_whole(tmp_path):
    predictor, _, case = setting(tmp_path, (24, 40, 37), PatchPlan(3, (16, 24, 24), 0, 0, 1, 1, False))
    found = predictor.predict(Voxelwise(), case)
    x = np.asarray(case.image[0], float)
    np.testing.assert_allclose(found.probs["body"][1], 1 / (1 + np.exp(2 * x)), atol=2e-3)
    np.testing.assert_allclose(found.probs["lesion"][1], 1 / (1 + np.exp(-x)), atol=2e-3)


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (1, 9, 4)])
def test_a_case_smaller_than_the_network_can_halve_is_padded(tmp_path, shape):
    plan = PatchPlan(len(shape), (1, 16, 16) if len(shape) == 2 else (16, 16, 16), 0, 0, 1, 1, False)
    predictor, network, case = setting(tmp_path, shape, plan)
    found = predictor.predict(network, case, features=True)
    assert found.probs["lesion"].shape == (2, *shape) and np.isfinite(found.probs["lesion"]).all()
    assert found.features.shape == (16, *(-(-n // 2) for n in shape))


def test_a_network_in_training_stays_in_training(tmp_path):
    predictor, network, case = setting(tmp_path, (16, 24), PatchPlan(2, (1, 16, 16), 0, 0, 1, 1, False))
    network.train()
    predictor.predict(network, case)
    assert network.training


def test_several_passes_give_their_mean_and_how_far_they_disagree_voxel_by_voxel():
    rng = np.random.default_rng(0)
    each = [rng.dirichlet([1, 1, 1], (3, 4)).transpose(2, 0, 1).astype(np.float16) for _ in range(4)]
    found = mean_of_passes([Prediction("a", {"organ": probs}) for probs in each])
    for voxel in np.ndindex(3, 4):
        passes = np.array([probs[(slice(None), *voxel)] for probs in each], np.float64)
        mean = passes.mean(0)
        slow = -(mean * np.log(mean)).sum() + np.mean([(p * np.log(p)).sum() for p in passes])
        assert found.probs["organ"][(slice(None), *voxel)] == pytest.approx(mean, abs=1e-3)
        assert found.disagreement["organ"][voxel] == pytest.approx(slow, abs=2e-3)


def test_one_pass_is_itself_and_knows_of_no_disagreement():
    only = Prediction("a", {"organ": np.ones((1, 2, 2), np.float16)})
    assert mean_of_passes([only]) is only and not only.disagreement
