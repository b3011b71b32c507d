"""The formulas of CORES^2: confidence regulariser, sieve, prior, schedule, and consistency of two views.

H. Cheng, Z. Zhu, X. Li, Y. Gong, X. Sun, Y. Liu, "Learning with Instance-Dependent Label Noise: A
Sample Sieve Approach", ICLR 2021 (arXiv 2010.02347). `log_probs` (B, K, *spatial) are natural
logarithms of the softmax, labels (B, *spatial) class indices with IGNORE; losses are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from napari_noisylabel.records import IGNORE

TINY = 1e-8  # added to probabilities before the logarithm in the publication
MAX_LOSS = -math.log(TINY)
"""Nats at which the losses of the regulariser and the sieve end: past it nothing pulls any more, as with `TINY`."""


def beta_at(epoch: int, epochs: int, largest: float, start: float, full: float) -> float:
    """Weight of the regulariser in an epoch: 0 up to `start`, then a line, `largest` from `full` on.

    `start` and `full` are shares of `epochs`. With 100 epochs, 0.1 and 0.4 it is the published
    schedule: 0 in epochs 0 to 9, its largest value from epoch 39 on.
    """
    length = max(1.0, (full - start) * epochs - 1)
    return largest * float(np.clip((epoch - start * epochs) / length, 0, 1))


def label_loss(log_probs: Tensor, labels: Tensor) -> Tensor:
    """l(f(x), y): cross-entropy of the label, (B, *spatial); 0 where it is IGNORE."""
    return F.nll_loss(log_probs, labels, reduction="none", ignore_index=IGNORE)


def class_losses(log_probs: Tensor) -> Tensor:
    """l(f(x), k) of every class, (B, K, *spatial), at most `MAX_LOSS`."""
    return (-log_probs).clamp_max(MAX_LOSS)


def regulariser(losses: Tensor, prior: Tensor, beta: float) -> Tensor:
    """l_CR = -beta sum_k prior_k l(f(x), k), (B, *spatial): what a label drawn blindly would cost, taken off.

    losses (B, K, *spatial) of `class_losses`, prior (K,) sums to 1. Section 3 of the publication.
    """
    return -beta * torch.einsum("k,bk...->b...", prior.to(losses), losses)


def sieve_score(losses: Tensor, labels: Tensor) -> Tensor:
    """s = l(f(x), y) - mean over k of l(f(x), k), (B, *spatial); 0 where the label is IGNORE.

    Below 0 the label is more probable than the geometric mean of all classes. Of logits it is
    their mean minus the label's; with two classes it is below 0 where the label is the better one.
    """
    known = labels != IGNORE
    own = losses.gather(1, torch.where(known, labels, 0).unsqueeze(1)).squeeze(1)
    return torch.where(known, own - losses.mean(1), 0.0)


def probs_score(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`sieve_score` of a case: probs (K, *spatial), labels (*spatial) with IGNORE; float32."""
    known = labels != IGNORE
    total, own = np.zeros(labels.shape, np.float32), np.zeros(labels.shape, np.float32)
    for k, plane in enumerate(probs):  # class by class: all logarithms at once would be large
        loss = -np.log(plane.astype(np.float32) + np.float32(TINY))
        total += loss
        np.copyto(own, loss, where=labels == k)
    return np.where(known, own - total / len(probs), np.float32(0))


def unsupported(supported: Tensor, labelled: Tensor, least: float) -> Tensor:
    """True for classes of which the sieve would keep less than the share `least`; (K,) bool.

    supported, labelled (K,) are numbers of voxels. A class that the network has not learnt yet is
    rejected as a whole, and then never learnt: the sieve lets it pass. A class without voxels is not.
    """
    return supported < least * labelled


def is_known(agreed: Tensor, labelled: Tensor, least: float) -> bool:
    """True if the network names at least the share `least` of the voxels of every class that is there.

    agreed, labelled (K,) are numbers of voxels: where the best class is the label's, and of the label. The
    share that the sieve supports would not do: of an undecided network it supports about half.
    """
    return bool((agreed >= least * labelled).all())


def local_opinion(probs: np.ndarray, spacing: Sequence[float], width: float) -> np.ndarray:
    """The mean of the probabilities around each voxel, (K, *spatial) float32.

    A network that was made sure of everything is as sure of a stray voxel at a boundary as of an
    object that the label lacks; its neighbours tell the two apart. A Gaussian of `width`, in voxels of
    the finest spacing; 0 changes nothing but the type.
    """
    planes = probs.astype(np.float32)
    if width:
        sigma = [width * min(spacing) / step for step in spacing]
        for plane in planes:
            ndimage.gaussian_filter(plane, sigma, output=plane, mode="nearest")
    return planes


def prior_of(kept: Tensor, given: Tensor, balanced: bool) -> Tensor:
    """Prior of the labels, (K,), from numbers of voxels of each class: those kept among those given.

    The publication's is the frequency among what is kept. With `balanced` each class counts as if
    it had as many voxels as every other, so that it is the kept share of the class that matters.
    Without anything kept it is flat.
    """
    counts = kept / given.clamp_min(1) if balanced else kept.float()
    total = counts.sum()
    return counts / total if total > 0 else torch.full_like(counts, 1 / len(counts))


def foreground_box(labels: Tensor, margin: int) -> Tensor:
    """True in the box around the foreground of each patch, `margin` voxels wider; (B, *spatial) bool.

    A patch without foreground has an empty box.
    """
    inside = torch.ones_like(labels, dtype=torch.bool)
    foreground = (labels > 0) & (labels != IGNORE)
    for axis in range(1, labels.ndim):
        others = [a for a in range(1, labels.ndim) if a != axis]
        shown = foreground.amax(others) if others else foreground
        after = shown.cumsum(1) > 0
        before = shown.flip(1).cumsum(1).flip(1) > 0
        between = F.max_pool1d((after & before).float()[:, None], 2 * margin + 1, 1, margin)[:, 0] > 0
        inside &= between.reshape([len(labels), *(labels.shape[a] if a == axis else 1 for a in range(1, labels.ndim))])
    return inside


def consistency(weak_logits: Tensor, strong_logits: Tensor, where: Tensor) -> Tensor:
    """Mean of KL(p_weak || p_strong) over the voxels `where` (B, *spatial) bool; 0 without any.

    Logits (B, K, *spatial). The weak view is the target: nothing is learnt through it.
    """
    target = weak_logits.detach().float().log_softmax(1)
    apart = F.kl_div(strong_logits.float().log_softmax(1), target, reduction="none", log_target=True).sum(1)
    return (apart * where).sum() / where.sum().clamp_min(1)


def strong_view(images: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    """The same anatomy in other clothes: contrast, brightness, gamma, noise, and a box cut out.

    images (B, C, *spatial) of unit spread. Nothing moves, so labels and predictions stay where
    they are. `strength` 0 changes nothing, 1 is strong. Stands in for the published AutoAugment and
    cutout, whose geometric part would have to be undone.
    """
    if not strength:
        return images
    out = []
    for image in images:
        low, high = image.amin(), image.amax()
        gamma = math.exp(strength * rng.uniform(-0.7, 0.7))
        span = (high - low).clamp_min(TINY)
        changed = ((image - low) / span) ** gamma * span + low
        changed = changed * math.exp(strength * rng.uniform(-0.5, 0.5)) + strength * rng.uniform(-0.5, 0.5)
        noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32)).to(image.device)
        changed = changed + strength * rng.uniform(0, 0.4) * noise
        box = []
        for n in image.shape[1:]:
            side = round(n * 0.5 * strength)  # half of each side, as cutout 16 of 32 pixels
            first = int(rng.integers(-side // 2, n - side // 2 + 1))
            box.append(slice(max(0, first), max(0, first + side)))
        changed[(slice(None), *box)] = 0
        out.append(changed)
    return torch.stack(out)
