from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from napari_noisylabel.errors import BadSetting, UnknownName, UnreadableFile
from napari_noisylabel.networks import FEATURES, build_network, load_weights

TRACKS = {"body": 2, "organ": 4}


@pytest.mark.parametrize(
    ("name", "n_dims", "size"),
    [
        ("unet", 2, (16, 24)), ("unet", 3, (8, 16, 24)), ("unet-large", 2, (16, 24)), ("BasicUNet", 2, (32, 64)),
        ("BasicUNetPlusPlus", 2, (32, 64)), ("SegResNet", 3, (8, 16, 24)), ("AttentionUnet", 2, (16, 24)),
    ],
)  # fmt: skip
def test_a_network_gives_logits_per_track_and_features_on_the_grid_of_its_images(name, n_dims, size):
    network = build_network(name, n_dims, 3, TRACKS).eval()
    with torch.no_grad():
        out = network(torch.randn(2, 3, *size))
    assert {t: tuple(v.shape) for t, v in out.logits.items()} == {"body": (2, 2, *size), "organ": (2, 4, *size)}
    assert out.features.shape == (2, FEATURES, *size)


def test_thick_slices_are_not_halved():
    network = build_network("unet", 3, 1, TRACKS, strides=((1, 2, 2), (1, 2, 2), (1, 2, 2)))
    assert network(torch.randn(1, 1, 3, 16, 24)).features.shape[2:] == (3, 16, 24)


@pytest.mark.parametrize("name", ["NoSuchNet", "__name__", "UNetx", "Sequence"])
def test_an_unknown_network_is_refused(name):
    with pytest.raises(UnknownName, match=f"there is no network '{name}'"):
        build_network(name, 2, 1, TRACKS)


def test_a_network_that_needs_more_than_we_know_is_refused_in_words():
    with pytest.raises(BadSetting, match="MONAI's DynUNet cannot be built for 2-D segmentation"):
        build_network("DynUNet", 2, 1, TRACKS)


def test_a_classifier_is_no_segmentation_network():
    network = build_network("DenseNet121", 2, 1, TRACKS).eval()
    with pytest.raises(BadSetting, match="one value per voxel: DenseNet121 made"):
        network(torch.randn(1, 1, 32, 64))


def test_weights_come_back_from_a_file_and_only_into_their_own_network(tmp_path):
    path = tmp_path / "weights.safetensors"
    source, target = build_network("unet", 2, 1, TRACKS), build_network("unet", 2, 1, TRACKS)
    save_file(source.state_dict(), path)
    load_weights(target, path)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    with pytest.raises(BadSetting, match="do not fit this network"):
        load_weights(build_network("unet", 2, 2, TRACKS), path)


def test_weights_that_are_no_safetensors_file_are_refused(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "weights.pt")
    for path in (tmp_path / "weights.pt", tmp_path / "missing.safetensors"):
        with pytest.raises(UnreadableFile, match="weights must be a safetensors file"):
            load_weights(build_network("unet", 2, 1, TRACKS), path)
