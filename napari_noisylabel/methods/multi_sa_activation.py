"""From a trained classifier to class activation: fused over layers, spread by attention, over views and slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from napari_noisylabel.methods import multi_sa_formulas as formulas
from napari_noisylabel.methods.multi_sa_network import Classifier, Seen, pooled_map, resized

POWER = 2  # to which attention is raised for the random walk, so that weak links fade
SMALLEST = 16  # side of an image below which it is not made smaller
SLICES_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Looks:
    """What a classifier sees in a whole case, on the grid of its file, float32 in [0, 1].

    `maps` (F, *spatial) over all layers and views; `each` the same of single layers; `attention` (*spatial) per layer:
    what the positions of the finding attend to.
    """

    maps: np.ndarray
    each: tuple[np.ndarray, ...]
    attention: tuple[np.ndarray, ...]


@torch.no_grad()
def look(
    classifier: Classifier,
    image: np.ndarray,
    present: np.ndarray,
    size: Sequence[int],
    *,
    slice_axis: int | None = None,
    guess: slice | None = None,
    fusion: str = "product",
    steps: int = 0,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Looks:
    """Class activation of a whole case, computed at the size that the classifier was trained at.

    Parameters
    ----------
    image : (C, *spatial). present : (F,) bool, the findings of the case. size : sides that the classifier sees.
    slice_axis : of the volume's three axes, where it is taken slice by slice; then a finding counts as present in
        the slices where the classifier thinks so, and in the one where it thinks so most.
    guess : findings that nobody has said anything about; they count where the classifier thinks so.
    fusion, steps, scales, flip : see `activation`.
    """
    stack = image[None] if slice_axis is None else np.moveaxis(image, 1 + slice_axis, 0)
    device = next(classifier.parameters()).device
    slices = torch.from_numpy(np.ascontiguousarray(stack, np.float32))
    training = classifier.training
    classifier.eval()
    try:
        seen = [_small(part, size, device) for part in slices.split(SLICES_AT_ONCE)]
        here = _in_slices(torch.cat([classifier(part).scores for part in seen]), present, guess, slice_axis is not None)
        parts = [
            _look(classifier, part, own, slices.shape[2:], fusion, steps, scales, flip)
            for part, own in zip(seen, here.split(SLICES_AT_ONCE), strict=True)
        ]
    finally:
        classifier.train(training)
    joined = [torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True)]
    whole = [a[0] if slice_axis is None else np.moveaxis(a, 0, a.ndim - 3 + slice_axis) for a in joined]
    n = (len(whole) - 1) // 2
    return Looks(whole[0], tuple(whole[1 : 1 + n]), tuple(w[0] for w in whole[1 + n :]))


@torch.no_grad()
def activation(
    classifier: Classifier,
    images: Tensor,
    present: Tensor,
    *,
    fusion: str = "product",
    steps: int = 0,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Tensor:
    """Class activation in [0, 1] on the grid of the images, (B, F, *spatial); 0 for classes not present.

    Parameters
    ----------
    images : (B, C, *spatial), for a classifier in evaluation mode. present : (B, F) bool.
    fusion : "stack" reads the maps of the stack alone; "product", "mean" and "max" join them with those of each layer.
    steps : of the random walk by attention; 0 leaves the maps as they are.
    scales, flip : views that are averaged: the image at other sizes, and mirrored along its last axis.
    """
    size, total = tuple(images.shape[2:]), torch.zeros((), device=images.device)
    for scale in scales:
        for mirrored in (False, True) if flip else (False,):
            view = resized(images, [max(min(s, SMALLEST), round(s * scale)) for s in size])
            maps = one_view(classifier(view.flip(-1) if mirrored else view), present, fusion, steps)
            total = total + resized(maps.flip(-1) if mirrored else maps, size)
    return formulas.normalised(total, present)


def one_view(seen: Seen, present: Tensor, fusion: str, steps: int) -> Tensor:
    """The activation that one look at the images gives, (B, F, *grid) in [0, 1]."""
    maps = formulas.normalised(seen.maps, present)
    if fusion != "stack" and seen.each:
        maps = formulas.fused([maps, *(formulas.normalised(m, present) for m in seen.each)], fusion)
        maps = formulas.normalised(maps, present)
    if steps and seen.rows:
        walk = formulas.transition(torch.stack(seen.rows).mean(0), POWER)
        walked = formulas.spread(pooled_map(maps, seen.nodes), walk, steps)
        maps = torch.maximum(maps, resized(walked, maps.shape[2:]))
    return maps


# ---------------------------------------------------------------- helpers, in order of use


def _small(images: Tensor, size: Sequence[int], device: torch.device) -> Tensor:
    """Images at the size of a batch, by the same interpolation as there."""
    return resized(images.to(device), size)


def _in_slices(scores: Tensor, present: np.ndarray, guess: slice | None, sliced: bool) -> Tensor:
    """(S, F) bool: which findings count as present in each slice, from the classifier's scores of it."""
    of_case = torch.from_numpy(np.asarray(present, bool)).to(scores.device)
    likely = scores > 0
    here = of_case.expand(scores.shape).clone()
    if sliced:
        most = scores == scores.amax(0, keepdim=True)
        here &= likely | most
    if guess is not None:
        here[:, guess] |= likely[:, guess]
    return here


def _look(
    classifier: Classifier, images: Tensor, present: Tensor, size: Sequence[int], fusion: str, steps: int,
    scales: Sequence[float], flip: bool,
) -> list[Tensor]:  # fmt: skip
    """Activation, that of each layer, and where the strongest finding attends to at each layer: (B, F or 1, *size)."""
    whole = activation(classifier, images, present, fusion=fusion, steps=steps, scales=scales, flip=flip)
    seen = classifier(images)
    each = [formulas.normalised(m, present) for m in seen.each]
    seed = pooled_map(formulas.normalised(seen.maps, present), seen.nodes).flatten(2).amax(1, keepdim=True)
    attended = [torch.einsum("bqn,bnm->bqm", seed, rows) for rows in seen.rows]
    heat = [a / a.amax(-1, keepdim=True).clamp_min(1e-8) for a in attended]
    own = [h.view(len(h), 1, *seen.nodes) for h in heat]
    if len(each) != len(own):  # one of the two is switched off: what is not there is shown as nothing
        blank = torch.zeros_like(whole[:, :1])
        each = each or [torch.zeros_like(whole) for _ in own]
        own = own or [blank for _ in each]
    return [resized(m, size) for m in (whole, *each, *own)]
