"""Evaluation passes: whole cases through a network, in slices or in overlapping blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from napari_noisylabel.arrays.sampling import disagreement
from napari_noisylabel.engine.data import PreparedCase
from napari_noisylabel.engine.patches import PatchPlan
from napari_noisylabel.methods.base import Method, Prediction
from napari_noisylabel.records import Track

WHOLE = 3.0  # a case up to this many patches in size goes through in one piece
SLICES_AT_ONCE = 8


@dataclass(frozen=True)
class Predictor:
    """What an evaluation pass needs to know of a run."""

    tracks: tuple[Track, ...]
    plan: PatchPlan
    factor: int
    device: torch.device
    autocast: torch.dtype | None = None
    method: Method = field(default_factory=Method)

    @torch.no_grad()
    def predict(
        self, network: nn.Module, case: PreparedCase, views: Sequence[str] = ("",), features: bool = False
    ) -> Prediction:
        """Softmax of each track over a whole case, the mean over `views`.

        probs (K, *spatial) float16 in the file's axes; features (F, *spatial/2) float16, the mean
        over blocks of two voxels.
        """
        training = network.training
        network.eval()
        try:
            planes = self._mean_over_views(network, case, views, features)
        finally:
            network.train(training)
        probs, at = {}, 0
        for track in self.tracks:
            probs[track.name] = case.as_given(planes[at : at + track.n_classes])
            at += track.n_classes
        return Prediction(case.id, probs, _halved(case.as_given(planes[at:])) if features else None)

    def _mean_over_views(
        self, network: nn.Module, case: PreparedCase, views: Sequence[str], features: bool
    ) -> np.ndarray:
        if not views:
            raise ValueError("views must name at least one view; use ('',) for the image as it is")
        total = self._one_view(network, case, views[0], features)
        for view in views[1:]:
            total = total.astype(np.float32) + self._one_view(network, case, view, features)
        return total if len(views) == 1 else (total / len(views)).astype(np.float16)

    def _one_view(self, network: nn.Module, case: PreparedCase, view: str, features: bool) -> np.ndarray:
        run = self._slices if self.plan.n_dims == 2 else self._volume
        return run(network, case, view, features)

    def _forward(self, network: nn.Module, images: Tensor, view: str, features: bool) -> Tensor:
        """Probabilities of all tracks (and features) of a batch, on the batch's own grid."""
        flips, scale, only = _parse_view(view)
        size = images.shape[2:]
        if flips:
            images = images.flip([2 + a for a in flips])
        if scale != 1:
            wished = [s * scale if not only or a in only else s for a, s in enumerate(size)]
            images = _resized(images, [max(1, round(s)) for s in wished])
        padded, crop = _padded(images, self.factor)
        with torch.autocast(self.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            out = network(padded)
            probs = self.method.probabilities(out)
        planes = [probs[t.name].float() for t in self.tracks]
        if features:
            planes.append(self.method.features(out).float())
        result = torch.cat(planes, 1)[crop]
        if scale != 1:
            result = _resized(result, list(size))
        return result.flip([2 + a for a in flips]) if flips else result

    def _volume(self, network: nn.Module, case: PreparedCase, view: str, features: bool) -> np.ndarray:
        size = self.plan.size
        if np.prod(case.image.shape[1:]) <= WHOLE * np.prod(size):
            image = torch.from_numpy(case.image[None].astype(np.float32)).to(self.device)
            return self._forward(network, image, view, features)[0].half().cpu().numpy()
        image = torch.from_numpy(np.array(case.image))[None]
        stitched = sliding_window_inference(
            image.float(), size, sw_batch_size=1, overlap=0.25, mode="gaussian",
            predictor=lambda block: self._forward(network, block, view, features),
            sw_device=self.device, device=torch.device("cpu"),
        )  # fmt: skip
        if not isinstance(stitched, Tensor):
            raise TypeError("the network must give one tensor per block")
        return stitched[0].half().numpy()

    def _slices(self, network: nn.Module, case: PreparedCase, view: str, features: bool) -> np.ndarray:
        axis, context = self.plan.slice_axis, self.plan.context
        slices = np.moveaxis(case.image, 1 + axis, 0)  # (S, C, H, W)
        n = len(slices)
        done = []
        for first in range(0, n, SLICES_AT_ONCE):
            rows = range(first, min(first + SLICES_AT_ONCE, n))
            stack = [
                np.concatenate([slices[int(np.clip(i + d, 0, n - 1))] for d in range(-context, context + 1)])
                for i in rows
            ]
            images = torch.from_numpy(np.stack(stack).astype(np.float32)).to(self.device)
            done.append(self._forward(network, images, view, features).half().cpu().numpy())
        return np.moveaxis(np.concatenate(done), 0, 1 + axis)


def mean_of_passes(passes: Sequence[Prediction]) -> Prediction:
    """The mean of several passes over one case, and per voxel how far they disagree (BALD), in nats."""
    first = passes[0]
    if len(passes) == 1:
        return first
    probs, apart = {}, {}
    for track, own in first.probs.items():
        probs[track], apart[track] = np.empty_like(own), np.empty(own.shape[1:], np.float32)
        for i in range(own.shape[1]):  # slice by slice: in double precision all passes would take too much memory
            planes = np.stack([p.probs[track][:, i] for p in passes]).astype(np.float32)
            probs[track][:, i] = planes.mean(0)
            apart[track][i] = disagreement(planes)
    return Prediction(first.case, probs, first.features, apart)


def _parse_view(view: str) -> tuple[list[int], float, list[int]]:
    """Axes to mirror, zoom, and the axes that are zoomed (none: all).

    "" -> as is; "flip0" or "flip01" -> mirrored; "scale0.7" -> zoomed, "scale0.7/12" along axes 1 and 2; joined by "+".
    """
    flips: list[int] = []
    only: list[int] = []
    scale = 1.0
    for part in filter(None, view.split("+")):
        if part.startswith("flip"):
            flips = [int(a) for a in part[4:]]
        elif part.startswith("scale"):
            factor, _, axes = part[5:].partition("/")
            scale, only = float(factor), [int(a) for a in axes]
        else:
            raise ValueError(f"a view is 'flip' with axes or 'scale' with a factor, got {part!r}")
    return flips, scale, only


def _resized(images: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(images, size=size, mode="bilinear" if images.ndim == 4 else "trilinear", align_corners=False)


def _padded(images: Tensor, factor: int) -> tuple[Tensor, tuple[slice, ...]]:
    """`images` padded at the end of each axis to a multiple of `factor`, and how to cut that off.

    The last axis gets at least two factors: one single voxel at the bottom has no spread to
    normalise by.
    """
    size = images.shape[2:]
    extra = [(-s) % factor for s in size]
    if max(size) <= factor:
        extra[-1] += factor
    crop = (slice(None), slice(None), *(slice(0, s) for s in size))
    if not any(extra):
        return images, crop
    return F.pad(images, [v for e in reversed(extra) for v in (0, e)]), crop


def _halved(features: np.ndarray) -> np.ndarray:
    """Mean over blocks of two voxels; odd sizes and single slices keep their last voxel."""
    t = torch.from_numpy(np.ascontiguousarray(features)).float()[None]
    kernel = [min(2, s) for s in t.shape[2:]]
    pool = F.avg_pool2d if len(kernel) == 2 else F.avg_pool3d
    return pool(t, tuple(kernel), ceil_mode=True, count_include_pad=False)[0].half().numpy()
