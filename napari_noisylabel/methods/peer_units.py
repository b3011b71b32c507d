"""The examples of a segmentation: pieces of a case with one given label, and what two peers say of them over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_noisylabel.methods.active_refinement_formulas import given_gradients, variance_of_gradients, within_class
from napari_noisylabel.methods.base import Batch, FoldRun
from napari_noisylabel.methods.sieve_regions import supervoxels
from napari_noisylabel.records import IGNORE, Track

MOST_PER_CASE = 2000
"""Units of a case: half floats, in which maps travel with batches, count to 2048."""
MOST_PER_FOLD = 40_000
"""Units of a fold and track; their gradients of five epochs then take 30 MB."""
FITTED = 1e-3
"""A label this close to a probability of 1 has no gradient to speak of."""
PEERS = 2
UNIT = "unit"  # the attached map: number of the unit within its case, 0 where there is none


def cut_units(
    labels: np.ndarray, settled: np.ndarray, spacing: Sequence[float], side_mm: float, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cells of about `side_mm`, divided where the label changes, numbered from 1.

    labels (*spatial) with IGNORE, `settled` (*spatial) bool: voxels that are no matter of choice. Cells grow until
    there are at most `most` of them. Returns the numbers (*spatial) int64, 0 where settled or ignored, and
    the given class of each number, (units + 1,), -1 for 0.
    """
    open_ = (labels != IGNORE) & ~settled
    cells = np.prod([max(1.0, n * step / side_mm) for n, step in zip(labels.shape, spacing, strict=True)])
    side = side_mm * max(1.0, (cells / most) ** (1 / labels.ndim))
    while True:
        code = supervoxels(labels, spacing, side)
        used = np.bincount(code[open_], minlength=1) > 0
        if used.sum() <= most:
            break
        side *= 1.25
    number = np.where(used, np.cumsum(used), 0)
    units = np.where(open_, number[np.minimum(code, len(number) - 1)], 0)
    classes = np.full(int(used.sum()) + 1, -1, np.int64)
    classes[units[open_]] = labels[open_]
    return units, classes


def case_units(labels: np.ndarray, settled: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """One unit per foreground class of a case; background belongs to none. Returned as by `cut_units`."""
    units = np.where((labels != IGNORE) & ~settled & (labels < n_classes), labels, 0).astype(np.int64)
    return units, np.array([-1, *range(1, n_classes)], np.int64)


class PeerRecord:
    """Of all units of one fold and track: what each peer lost on them, and their gradients, over the last epochs.

    Rows of all tensors are units, numbered through all cases; row 0 is for voxels of no unit.
    """

    def __init__(self, track: Track, memory: int) -> None:
        self.track, self.memory = track, memory
        self._first: dict[str, int] = {}
        self.classes = torch.full((1,), -1, dtype=torch.int64)

    def start(self, run: FoldRun, level: str, side_mm: float) -> None:
        """Cut all cases into units, and attach where they are."""
        most = min(MOST_PER_CASE, max(64, MOST_PER_FOLD // max(1, len(run.case_ids))))
        classes = [np.array([-1])]
        for case in run.case_ids:
            labels, verified = np.asarray(run.labels[case][self.track.name]), run.verified[case][self.track.name]
            settled = np.zeros(labels.shape, bool) if verified is None else np.asarray(verified)
            if level == "case":
                units, own = case_units(labels, settled, self.track.n_classes)
            else:
                units, own = cut_units(labels, settled, run.spacing[case], side_mm, most)
            run.attach(UNIT, case, self.track.name, units)
            self._first[case] = sum(len(c) for c in classes) - 1
            classes.append(own[1:])
        self.classes = torch.from_numpy(np.concatenate(classes)).to(run.device)
        n = len(self.classes)
        self.loss = torch.full((PEERS, n), torch.inf, device=run.device)
        self.p_given = torch.ones((PEERS, n), device=run.device)
        self.seen = torch.zeros(n, dtype=torch.int64, device=run.device)
        self.voxels = torch.zeros(n, device=run.device)
        self.votes = torch.zeros((self.memory, PEERS, n), device=run.device)
        self.asked = torch.zeros((self.memory, n), device=run.device)
        self.vog = torch.full((PEERS, n), torch.inf, device=run.device)
        self._scored = self.vog.clone()
        self.history: Tensor | None = None  # (PEERS, memory, n, features + 1), once the number of features is known
        self.start_epoch()

    def start_epoch(self) -> None:
        """Sums over the epoch's batches, from 0."""
        n, device = len(self.classes), self.classes.device
        self._gradients: Tensor | None = None
        self._losses = torch.zeros((PEERS, n), device=device)
        self._counts = torch.zeros(n, device=device)
        self._votes = torch.zeros((PEERS, n), device=device)
        self._asked = torch.zeros(n, device=device)

    def index(self, batch: Batch) -> Tensor:
        """(B, *spatial) int64: the unit of each voxel, 0 for none."""
        own = batch.extra[UNIT][self.track.name].round().long()
        first = torch.tensor([self._first[case] for case in batch.case_ids], device=own.device)
        first = first.reshape(-1, *(1 for _ in own.shape[1:]))
        return torch.where(own > 0, own + first, 0)

    def add(self, index: Tensor, losses: Sequence[Tensor], features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Take in a batch; returns the units that it shows, (N,), and each peer's mean loss on them, (N,).

        index (B, *spatial), `losses` per peer (B, *spatial), `features` per peer (B, F, *spatial).
        """
        flat, n = index.reshape(-1), len(self.classes)
        counts = torch.bincount(flat, minlength=n).float()
        counts[0] = 0
        shown = counts.nonzero().squeeze(1)
        means = []
        if self._gradients is None:
            self._gradients = torch.zeros((PEERS, n, features[0].shape[1] + 1), device=flat.device)
        for peer, (loss, feature) in enumerate(zip(losses, features, strict=True)):
            loss = loss.reshape(-1)
            sums = torch.zeros(n, device=flat.device).index_add_(0, flat, loss)
            missing = torch.expm1(-loss)  # p - 1; voxels that are fitted add nothing, and are most of a case
            open_ = (missing < -FITTED).nonzero().squeeze(1)
            voxels = feature.shape[2:].numel()
            rows = feature.detach().flatten(2)[open_ // voxels, :, open_ % voxels].float()
            gradients = given_gradients(1 + missing[open_], rows)
            self._gradients[peer].index_add_(0, flat[open_], gradients)
            self._losses[peer] += sums
            means.append(sums[shown] / counts[shown])
        self._counts += counts
        self._asked[shown] += 1
        return shown, means

    def vote(self, peer: int, kept: Tensor) -> None:
        """`kept` are the units that a peer proposed in a batch."""
        self._votes[peer, kept] += 1

    def end_epoch(self) -> None:
        """From the epoch's sums: loss, probability of the label, gradients and votes of every unit that was seen."""
        if self._gradients is None:
            return
        seen = self._counts > 0
        seen[0] = False
        count = self._counts[seen]
        gradients = self._gradients[:, seen] / count[:, None]
        self.loss[:, seen] = self._losses[:, seen] / count
        self.p_given[:, seen] = 1 + gradients[:, :, 0]
        self.voxels[seen] = count
        if self.history is None:
            self.history = torch.zeros((PEERS, self.memory, *self._gradients.shape[1:]), device=seen.device)
        self.history[:, :, seen] = torch.cat([self.history[:, 1:, seen], gradients[:, None]], 1)
        self.seen += seen
        self.votes = torch.cat([self.votes[1:], self._votes[None]])
        self.asked = torch.cat([self.asked[1:], self._asked[None]])
        self._renew()

    def clean(self, by: str) -> Tensor:
        """(units + 1,) bool, the set S: units judged clean, those that nobody was asked about among them.

        by : "last" - the first peer proposed it in some batch of the last epoch; "vote" - it had most of the votes
            of both peers over the epochs remembered.
        """
        if by == "last":
            return (self.votes[-1, 0] > 0) | (self.asked[-1] == 0)
        asked = PEERS * self.asked.sum(0)
        return (2 * self.votes.sum((0, 1)) > asked) | (asked == 0)

    def vog_for(self, peer: int, within: bool) -> Tensor:
        """(units + 1,) of one peer: the variance of gradients, raw or as standard score within the given class."""
        return self._scored[peer] if within else self.vog[peer]

    def state_dict(self) -> dict[str, Any]:
        names = ("loss", "p_given", "seen", "voxels", "votes", "asked")
        return {**{name: getattr(self, name) for name in names}, "history": self.history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        device = self.classes.device
        for name, value in state.items():
            setattr(self, name, None if value is None else value.to(device))
        self._renew()

    def _renew(self) -> None:
        """VOG where as many epochs are known as are remembered, infinite elsewhere."""
        if self.history is None:
            return
        known = self.seen >= self.memory
        for peer in range(PEERS):
            own = variance_of_gradients(self.history[peer])
            self.vog[peer] = torch.where(known, own, torch.inf)
            self._scored[peer] = within_class(self.vog[peer], self.classes)
