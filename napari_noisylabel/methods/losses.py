"""Loss functions that several methods share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_noisylabel.records import IGNORE

SMOOTH = 1.0  # of the soft Dice: keeps absent classes finite


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every voxel, in nats; 0 where `labels` is IGNORE.

    logits (B, K, *spatial), labels (B, *spatial) int64; returns (B, *spatial).
    """
    return F.cross_entropy(logits.float(), labels, reduction="none", ignore_index=IGNORE)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of `values` weighted by `weight`, same shape; 0 where all weights are 0."""
    return (values * weight).sum() / weight.sum().clamp_min(1e-6)


def soft_dice_loss(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """1 - soft Dice over the batch, mean over the foreground classes.

    logits (B, K, *spatial); labels, weight (B, *spatial). Voxels count by their weight; classes
    that the batch does not show are skipped, as an empty class has no overlap to learn.
    """
    probs = logits.float().softmax(1)
    safe = torch.where(labels == IGNORE, 0, labels)
    one_hot = F.one_hot(safe, probs.shape[1]).movedim(-1, 1).to(probs.dtype)
    w = weight.unsqueeze(1)
    axes = (0, *range(2, probs.ndim))
    overlap = (w * probs * one_hot).sum(axes)[1:]
    size = (w * (probs + one_hot)).sum(axes)[1:]
    shown = (w * one_hot).sum(axes)[1:] > 0
    dice = (2 * overlap + SMOOTH) / (size + SMOOTH)
    return ((1 - dice) * shown).sum() / shown.sum().clamp_min(1)


def segmentation_loss(logits: Tensor, labels: Tensor, weight: Tensor, dice_weight: float = 1.0) -> Tensor:
    """Weighted cross-entropy plus `dice_weight` times the soft Dice loss; a scalar in nats."""
    loss = weighted_mean(pixel_cross_entropy(logits, labels), weight)
    if dice_weight:
        loss = loss + dice_weight * soft_dice_loss(logits, labels, weight)
    return loss
