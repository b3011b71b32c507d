"""Formulas of `multi_sa`: attention, class activation, its spread, pseudo-masks. Pure functions.

A. Yaganapu, M. Kang, "Multi-layered self-attention mechanism for weakly supervised semantic
segmentation", Computer Vision and Image Understanding, 2024. Only its abstract could be read; what
fills its gaps is a reconstruction from neighbouring publications, named where it is used.

B images, C channels, N positions of a feature map, K classes (background included), F = K - 1
foreground classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from napari_noisylabel.records import IGNORE

# ---------------------------------------------------------------- attention


def attention(queries: Tensor, keys: Tensor) -> Tensor:
    """Which positions each position attends to: softmax over keys of q.k / sqrt(d).

    queries (B, d, N), keys (B, d, M) -> (B, N, M), rows sum to 1. The form of non-local networks and
    self-attention GANs; without the root of d, more than a thousand keys saturate on one.
    """
    energy = torch.einsum("bdn,bdm->bnm", queries, keys) / queries.shape[1] ** 0.5
    return energy.softmax(-1)


def attended(features: Tensor, values: Tensor, rows: Tensor, gamma: Tensor | float) -> Tensor:
    """features + gamma * context: what a layer becomes when each position takes in what it attends to.

    features (B, C, *grid) of N positions, values (B, C, M), rows (B, N, M) -> (B, C, *grid).
    """
    context = torch.einsum("bcm,bnm->bcn", values, rows)
    return features + gamma * context.view_as(features)


# ---------------------------------------------------------------- class activation


def presence_score(maps: Tensor, share: float = 1.0) -> Tensor:
    """Score of each class from its map: the mean of the largest `share` of positions, (B, F, *grid) -> (B, F).

    1 is the global mean of class activation maps; less suits findings that fill a small part of an image.
    """
    flat = maps.flatten(2)
    if share >= 1:
        return flat.mean(-1)
    return flat.topk(max(1, round(share * flat.shape[-1])), dim=-1).values.mean(-1)


def soft_margin(scores: Tensor, present: Tensor, weight: Tensor) -> Tensor:
    """Multi-label soft margin loss: binary cross-entropy of each class, weighted mean, in nats.

    scores, present (0 or 1), weight: (B, F). A weight of 0 takes a class of an image out.
    """
    each = F.binary_cross_entropy_with_logits(scores.float(), present.float(), reduction="none")
    return (each * weight).sum() / weight.sum().clamp_min(1e-6)


def normalised(maps: Tensor, present: Tensor) -> Tensor:
    """Class activation in [0, 1]: relu(M) over its maximum in the image; 0 for classes that are not present.

    maps (B, F, *grid), present (B, F) bool. Without the mask by `present`, a class that is absent would look as
    strong as one that is there.
    """
    positive = maps.clamp_min(0)
    most = positive.flatten(2).amax(-1).clamp_min(1e-8)
    shape = (*most.shape, *(1,) * (maps.ndim - 2))
    return positive / most.view(shape) * present.view(shape).to(maps.dtype)


def fused(maps: Sequence[Tensor], how: str) -> Tensor:
    """Several activation maps >= 0 of one shape as one: their "mean", "max" or "product" per position.

    The product is their geometric mean: high where all layers see something, and as fine as the finest of them.
    """
    stack = torch.stack(list(maps))
    if how == "product":
        return stack.clamp_min(1e-6).log().mean(0).exp() * (stack > 0).any(0)
    return stack.mean(0) if how == "mean" else stack.amax(0)


# ---------------------------------------------------------------- spread by attention


def transition(rows: Tensor, power: int = 2) -> Tensor:
    """Where a random walk goes next: `rows` (B, N, N) to an elementwise power, rows summing to 1 again."""
    sharp = rows**power
    return sharp / sharp.sum(-1, keepdim=True).clamp_min(1e-12)


def spread(maps: Tensor, walk: Tensor, steps: int, threshold: float = 0.3, most: float = 2.0) -> Tensor:
    """Activation carried to the positions that attend to it, step by step.

    maps (B, F, *grid) in [0, 1], walk (B, N, N) from `transition`. A step replaces each map by the larger of
    itself and of what each position attends to of the seed, which is what is over `threshold`: so attention that
    goes everywhere brings nothing. The area over `threshold` never shrinks; a map stops before the step that would
    make it larger than `most` times what it was. With 0 steps the maps come back as they are.

    The larger of the two, and the seed as gate, are our choices: a plain walk blurs the seed away.
    """
    flat = maps.flatten(2)
    first = (flat > threshold).sum(-1, keepdim=True)
    moving = torch.ones_like(first, dtype=torch.bool)
    for _ in range(steps):
        carried = torch.einsum("bnm,bfm->bfn", walk, flat * (flat > threshold))
        wider = torch.maximum(flat, carried)
        moving = moving & ((wider > threshold).sum(-1, keepdim=True) <= most * first)
        flat = torch.where(moving, wider, flat)
    return flat.view_as(maps)


# ---------------------------------------------------------------- pseudo-masks


def seeds(activation: np.ndarray, foreground: float, background: float) -> np.ndarray:
    """Class indices where activation is sure, IGNORE in between: (F, *spatial) in [0, 1] -> (*spatial) uint8.

    A class where it is the strongest and over `foreground`, background where all are under `background`.
    """
    strongest = activation.max(0)
    out = np.full(strongest.shape, IGNORE, np.uint8)
    out[strongest < background] = 0
    sure = strongest > foreground
    out[sure] = (activation.argmax(0)[sure] + 1).astype(np.uint8)
    return out


def dense(activation: np.ndarray, alpha: float) -> np.ndarray:
    """A class for every voxel: the strongest of the classes and of background = (1 - strongest) ** alpha.

    activation (F, *spatial) -> (*spatial) uint8. The published recipes refine this with a dense random field,
    which is not part of this program.
    """
    background = (1 - activation.max(0)) ** alpha
    return np.concatenate([background[None], activation]).argmax(0).astype(np.uint8)


def grow(
    seeded: np.ndarray, probs: np.ndarray, foreground: float = 0.85, background: float = 0.99, touching: bool = True
) -> np.ndarray:
    """Seeds and what is connected to them: IGNORE voxels join a class they touch where its probability is high.

    Parameters
    ----------
    seeded : (*spatial) uint8 with IGNORE.
    probs : (K, *spatial). A voxel joins the class that is its most probable one, over the limit.
    foreground, background : limits for classes and for background, as remembered from deep seeded region growing.
    touching : neighbours share a corner (8 in 2-D, 26 in 3-D), not only a side.

    Returns
    -------
    (*spatial) uint8, a new array. Seeds stay.
    """
    out = seeded.copy()
    best, open_ = probs.argmax(0), seeded == IGNORE
    around = ndimage.generate_binary_structure(seeded.ndim, seeded.ndim if touching else 1)
    for k, plane in enumerate(probs):
        own = seeded == k
        if not own.any():
            continue
        reach = own | (open_ & (best == k) & (plane > (foreground if k else background)))
        out[ndimage.binary_propagation(own, around, reach)] = k
    return out


def coverage(mask: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Recall and precision of a mask, both (*spatial) bool; NaN where undefined."""
    hit = float(np.count_nonzero(mask & truth))
    n_true, n_found = float(np.count_nonzero(truth)), float(np.count_nonzero(mask))
    return (hit / n_true if n_true else float("nan"), hit / n_found if n_found else float("nan"))
