"""Segmentation networks: a MONAI backbone with one softmax head per track."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import monai.networks.nets as monai_nets
from monai.networks.blocks import Convolution
from safetensors.torch import load_file
from torch import Tensor, nn

from napari_noisylabel.errors import BadSetting, UnknownName, UnreadableFile

FEATURES = 16
"""Channels of the penultimate decoder map."""

SMALL = (16, 32, 64, 128)
LARGE = (32, 64, 128, 256)
ACTIVATION = ("LEAKYRELU", {"negative_slope": 0.1, "inplace": True})
"""Instead of MONAI's PReLU: its backward pass makes a step on a CPU a fifth slower."""


class Output(NamedTuple):
    """What a network gives: logits (B, K, *spatial) per track, features (B, F, *spatial)."""

    logits: dict[str, Tensor]
    features: Tensor


class SegmentationNetwork(nn.Module):
    """A backbone that gives features, and a 1x1 convolution per track on top of them.

    `factor` is what each side of a patch must be a multiple of.
    """

    def __init__(self, backbone: nn.Module, tracks: Mapping[str, int], n_dims: int, factor: int) -> None:
        super().__init__()
        conv: type[nn.Module] = nn.Conv2d if n_dims == 2 else nn.Conv3d
        self.backbone = backbone
        self.activation = nn.LeakyReLU(0.1)
        self.heads = nn.ModuleList(conv(FEATURES, n_classes, 1) for n_classes in tracks.values())
        self.tracks = tuple(tracks)
        self.factor = factor

    def forward(self, images: Tensor) -> Output:
        out = self.backbone(images)
        if isinstance(out, (list, tuple)):  # networks with deep supervision: the full resolution comes first
            out = out[0]
        if out.shape[2:] != images.shape[2:]:
            raise BadSetting(
                f"a network must give one value per voxel: {type(self.backbone).__name__} made {tuple(out.shape)} of "
                f"{tuple(images.shape)}. Choose a segmentation network."
            )
        features = self.activation(out)
        logits = {name: head(features) for name, head in zip(self.tracks, self.heads, strict=True)}
        return Output(logits, features)


def build_network(
    name: str,
    n_dims: int,
    in_channels: int,
    tracks: Mapping[str, int],
    settings: Mapping[str, Any] | None = None,
    strides: Sequence[Sequence[int]] | None = None,
) -> SegmentationNetwork:
    """A network with random weights.

    Parameters
    ----------
    name : "unet" (small), "unet-large", or the name of any class of `monai.networks.nets` that
        takes `spatial_dims`, `in_channels` and `out_channels`.
    n_dims : 2 or 3.
    tracks : classes per track, background included.
    settings : further arguments of the MONAI class.
    strides : per level and axis, for "unet": thick slices are not halved.

    Raises
    ------
    UnknownName : MONAI has no such network.
    BadSetting : the network does not take these arguments.
    """
    if name in ("unet", "unet-large"):
        channels = SMALL if name == "unet" else LARGE
        steps = tuple(tuple(s) for s in strides) if strides is not None else ((2,) * n_dims,) * 3
        fixed: dict[str, Any] = {"num_res_units": 2, "norm": "INSTANCE", "act": ACTIVATION}
        backbone: nn.Module = monai_nets.UNet(
            n_dims, in_channels, FEATURES, channels, steps, **{**fixed, **(settings or {})}
        )
        return SegmentationNetwork(backbone, tracks, n_dims, factor=8)
    backbone = _monai_network(name, n_dims, in_channels, settings or {})
    return SegmentationNetwork(backbone, tracks, n_dims, factor=32)


class ExampleNetwork(nn.Module):
    """A classifier of whole examples: (B, ...) -> logits (B, K) and the features (B, F) that its last layer sees."""

    def __init__(self, body: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(features, classes)

    def forward(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(examples)
        return self.head(features), features


def build_classifier(shape: Sequence[int], classes: int, hidden: int = 64) -> ExampleNetwork:
    """A small classifier with random weights, for examples of `shape`: (d,) or (C, *spatial) in 2-D or 3-D.

    `hidden` is its number of features: one hidden layer, or four convolutions that halve the picture and a mean.
    """
    if len(shape) == 1:
        return ExampleNetwork(nn.Sequential(nn.Linear(shape[0], hidden), nn.ReLU()), hidden, classes)
    n_dims, blocks, channels = len(shape) - 1, [], shape[0]
    for width in (16, 32, hidden, hidden):
        blocks += [Convolution(n_dims, channels, width, strides=2, norm="BATCH", act="RELU")]
        channels = width
    pool = nn.AdaptiveAvgPool2d(1) if n_dims == 2 else nn.AdaptiveAvgPool3d(1)
    return ExampleNetwork(nn.Sequential(*blocks, pool, nn.Flatten()), hidden, classes)


def load_weights(network: nn.Module, path: Path) -> None:
    """Start `network` from a local safetensors file, strictly. Raises UnreadableFile, BadSetting."""
    try:
        state = load_file(path)
    except Exception as error:  # safetensors raises its own, undocumented types
        raise UnreadableFile(f"weights must be a safetensors file, {path} is not readable as one: {error}.") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise BadSetting(
            f"the weights in {path} do not fit this network: {first} Choose the network they were saved from."
        ) from None


def _monai_network(name: str, n_dims: int, in_channels: int, settings: Mapping[str, Any]) -> nn.Module:
    factory = getattr(monai_nets, name, None)
    if not inspect.isclass(factory) or not issubclass(factory, nn.Module):
        raise UnknownName(
            f"there is no network {name!r}. Use 'unet', 'unet-large' or the name of a network of MONAI, "
            "for example 'BasicUNet', 'SegResNet' or 'AttentionUnet'."
        )
    wanted = {"spatial_dims": n_dims, "in_channels": in_channels, "out_channels": FEATURES, **settings}
    needed = inspect.signature(factory).parameters
    wanted |= {k: v for k, v in (("channels", SMALL), ("strides", (2, 2, 2))) if k in needed and k not in settings}
    try:
        return factory(**wanted)
    except (TypeError, ValueError) as error:
        raise BadSetting(
            f"MONAI's {name} cannot be built for {n_dims}-D segmentation here: {error}. Choose another network."
        ) from None
