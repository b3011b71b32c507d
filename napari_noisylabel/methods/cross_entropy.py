"""The plain baseline: cross-entropy plus soft Dice on the labels as they are."""

from __future__ import annotations

from torch import Tensor

from napari_noisylabel.methods.base import Batch, FoldRun, Method
from napari_noisylabel.methods.losses import segmentation_loss


class CrossEntropy(Method):
    """Learn the labels as they are; what the network then disagrees with is suspicious."""

    name = "cross-entropy"
    title = "Cross-entropy and Dice on the labels as they are"

    def __init__(self, dice_weight: float = 1.0) -> None:
        self.dice_weight = dice_weight

    def loss(self, run: FoldRun, batch: Batch) -> Tensor:
        logits = run.networks[0](batch.images).logits
        losses = [
            segmentation_loss(logits[t.name], batch.working[t.name], batch.weight[t.name], self.dice_weight)
            for t in run.tracks
        ]
        return sum(losses[1:], losses[0])
