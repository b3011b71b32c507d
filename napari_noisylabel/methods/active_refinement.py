"""Active refinement: two networks that pick clean examples for each other, by small loss and by steady gradients.

B. Khanal, T. Dai, B. Bhattarai, C. Linte, "Active Label Refinement for Robust Training of Imbalanced Medical Image
Classification Tasks in the Presence of High Label Noise", MICCAI 2024 (arXiv 2407.05973). The publication classifies
pictures; here the examples are pieces of cases, or whole structures. What it asks an expert about is the review
queue, with its samplers in `arrays.sampling`: whatever a person decided is verified, and always trained on.
Formulas are in `active_refinement_formulas`, the examples in `peer_units`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_noisylabel.inner import InnerState, from_json, to_json
from napari_noisylabel.methods import active_refinement_formulas as formulas
from napari_noisylabel.methods.base import Batch, Evidence, FoldRun, Method, Stage
from napari_noisylabel.methods.losses import pixel_cross_entropy, soft_dice_loss, weighted_mean
from napari_noisylabel.methods.peer_report import describe
from napari_noisylabel.methods.peer_units import PEERS, PeerRecord
from napari_noisylabel.methods.sieve_regions import piece_means, supervoxels
from napari_noisylabel.records import IGNORE, Track

PEERS_TEACH, REFINE = "peers", "refine"  # names of the stages
VIEWS = ("", "scale0.9", "scale1.1", "scale0.8", "scale1.2")
"""Views of the passes that disagreement is measured over: ten with both peers, as many as published."""


class ActiveRefinement(Method):
    """Each network learns what the other holds to be clean; at the end the first goes on with what both do."""

    name = "active-refinement"
    title = "Two networks that choose for each other, and a person who is asked (active label refinement)"
    source = "Khanal et al., MICCAI 2024, arXiv 2407.05973"
    n_networks = PEERS

    def __init__(
        self,
        dice_weight: float = 1.0,
        forget: float = 0.0,
        ramp: float = 0.3,
        vog: str = "class",
        share: float = 0.2,
        vog_from: float = 0.4,
        memory: int = 3,
        per_class: bool = True,
        background: float = 1.0,
        unit: str = "region",
        unit_mm: float = 5.0,
        refine: float = 0.2,
        clean_by: str = "vote",
        passes: int = 2,
        likelihood: str = "networks",
    ) -> None:
        self.dice_weight, self.forget, self.ramp = dice_weight, forget, ramp
        self.vog, self.share, self.vog_from, self.memory = vog, share, vog_from, memory
        self.per_class, self.background, self.unit, self.unit_mm = per_class, background, unit, unit_mm
        self.refine, self.clean_by, self.passes, self.likelihood = refine, clean_by, passes, likelihood
        self._records: dict[str, PeerRecord] = {}
        self._rate: dict[str, float] = {}
        self._clean: dict[str, Tensor] = {}
        self._ranks: dict[str, Tensor] = {}
        self._overlaps: dict[str, list[float]] = {}
        self._shown: list[InnerState] = []
        self._now = 0.0  # forget rate of this epoch, as a share of the full one

    # ------------------------------------------------------------ moments

    def stages(self, epochs: int) -> tuple[Stage, ...]:
        second = min(epochs - 1, round(self.refine * epochs))
        first = Stage(PEERS_TEACH, epochs - second, (0, 1))
        return (first, Stage(REFINE, second)) if second else (first,)

    def evaluation_passes(self) -> tuple[tuple[int, str], ...]:
        """Both peers, then the same with other views; with one pass the first peer alone."""
        if self.passes == 1:
            return ((0, ""),)
        return tuple((peer, view) for view in VIEWS for peer in range(PEERS))[: self.passes]

    def on_run_start(self, run: FoldRun) -> None:
        for track in run.tracks:
            self._records[track.name] = PeerRecord(track, self.memory)
            self._records[track.name].start(run, self.unit, self.unit_mm)
            self._rate[track.name] = self.forget or formulas.MOST_RATE

    def on_epoch_start(self, run: FoldRun) -> None:
        if run.stage.name == REFINE:
            if run.first_epoch_of_stage:
                self._clean = {name: own.clean(self.clean_by) for name, own in self._records.items()}
            return
        ramp = max(1, round(self.ramp * run.epochs))
        self._now = formulas.forget_rate(run.epoch, 1.0, ramp)
        self._overlaps = {track.name: [] for track in run.tracks}
        for own in self._records.values():
            own.start_epoch()

    def loss(self, run: FoldRun, batch: Batch) -> Tensor | None:
        found = self._refined(run, batch) if run.stage.name == REFINE else self._exchanged(run, batch)
        return sum(found[1:], found[0]) if found else None

    def on_epoch_end(self, run: FoldRun) -> None:
        if run.stage.name == REFINE:
            return
        self._shown = []
        for track in run.tracks:
            own = self._records[track.name]
            own.end_epoch()
            if not self.forget:
                known = (own.seen > 0) & ((own.classes > 0) | (self.unit == "case"))
                self._rate[track.name] = formulas.estimated_rate(own.p_given.mean(0)[known], own.voxels[known])
            rate = self._now * self._rate[track.name]
            self._ranks[track.name] = _quantiles(own, track)
            self._shown += describe(own, rate, self.clean_by, self._overlaps[track.name])

    def state_dict(self) -> dict[str, Any]:
        return {
            "records": {name: own.state_dict() for name, own in self._records.items()},
            "rate": dict(self._rate),
            "clean": dict(self._clean),
            "ranks": dict(self._ranks),
            "shown": to_json(self._shown),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, own in self._records.items():
            own.load_state_dict(state["records"][name])
        self._rate = dict(state["rate"])
        self._clean = {n: v.to(self._records[n].classes.device) for n, v in state["clean"].items()}
        self._ranks = dict(state["ranks"])
        self._shown = from_json(state["shown"])

    def inner(self) -> list[InnerState]:
        return list(self._shown)

    # ------------------------------------------------------------ scoring

    def noise_likelihood(self, evidence: Evidence) -> np.ndarray | None:
        """With `likelihood` "rank": from the rank of a unit's loss among those of its class in training."""
        return self._by_rank(evidence) if self.likelihood == "rank" else None

    def maps(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """How far the passes disagree (BALD), as a share of the most that is possible."""
        if evidence.disagreement is None:
            return {}
        return {"bald": evidence.disagreement / np.log(evidence.track.n_classes)}

    def _by_rank(self, evidence: Evidence) -> np.ndarray:
        known = evidence.labels != IGNORE
        losses = np.where(known, self.score(evidence), 0)
        if self.unit == "case":
            pieces = np.minimum(evidence.labels, evidence.track.n_classes).astype(np.int64)
        else:
            pieces = supervoxels(evidence.labels, evidence.spacing, self.unit_mm)
        means = piece_means(losses, pieces)
        out = np.zeros(means.shape, np.float32)
        ranks = self._ranks.get(evidence.track.name)
        if ranks is None:
            return out
        for k, quantiles in enumerate(ranks.cpu().numpy()):
            where = evidence.labels == k
            rank = np.interp(means[where], quantiles, np.linspace(0, 1, len(quantiles)))
            out[where] = formulas.rank_likelihood(torch.from_numpy(rank), self._rate[evidence.track.name]).numpy()
        return out

    # ------------------------------------------------------------ first stage

    def _exchanged(self, run: FoldRun, batch: Batch) -> list[Tensor]:
        """Per track the sum of both peers' losses, each over what the other one proposes; empty tracks are left out."""
        outputs = [network(batch.images) for network in run.networks]
        found = []
        for track in run.tracks:
            weight = batch.weight[track.name]
            if not weight.any():
                continue
            own, labels = self._records[track.name], batch.working[track.name]
            logits = [out.logits[track.name].float() for out in outputs]
            losses = [pixel_cross_entropy(own_logits, labels) for own_logits in logits]
            index = own.index(batch)
            with torch.no_grad():
                proposals = self._proposals(run, track, index, losses, [out.features for out in outputs])
            for peer in range(PEERS):
                kept = weight * proposals[1 - peer][index]
                found.append(self._loss(losses[peer], logits[peer], labels, kept))
        return found

    def _proposals(
        self, run: FoldRun, track: Track, index: Tensor, losses: list[Tensor], features: list[Tensor]
    ) -> list[Tensor]:
        """Per peer (units + 1,) bool: what it holds to be clean. Voxels of no unit are, always."""
        own = self._records[track.name]
        shown, means = own.add(index, [loss.detach() for loss in losses], features)
        rate = self._now * self._rate[track.name]
        steady = self.share if run.epoch >= self._first_by_vog(run) else 0.0
        masks = []
        for peer in range(PEERS):
            pool, loss = shown, means[peer]
            if self.unit == "case":  # a batch has too few of them: they rank among all cases of the fold
                everywhere = own.loss[peer].clone()
                everywhere[shown] = loss
                pool = everywhere.isfinite().nonzero().squeeze(1)
                loss = everywhere[pool]
            vog = own.vog_for(peer, self.vog == "class")[pool]
            chosen = formulas.choose(
                loss, vog, own.classes[pool], rate, steady, self.per_class, self.background
            )  # fmt: skip
            mask = torch.ones(len(own.classes), dtype=torch.bool, device=index.device)
            mask[pool] = chosen
            own.vote(peer, shown[mask[shown]])
            masks.append(mask)
        shared = formulas.overlap(masks[0][shown], masks[1][shown])
        if shared is not None:
            self._overlaps[track.name].append(shared)
        return masks

    def _first_by_vog(self, run: FoldRun) -> int:
        """The first epoch in which gradients are known and have a say."""
        return max(self.memory, round(self.vog_from * run.epochs))

    def _loss(self, loss: Tensor, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        total = weighted_mean(loss, weight)
        if self.dice_weight:
            total = total + self.dice_weight * soft_dice_loss(logits, labels, weight)
        return total

    # ------------------------------------------------------------ second stage

    def _refined(self, run: FoldRun, batch: Batch) -> list[Tensor]:
        """The first peer alone, on what was judged clean and what a person has decided."""
        output = run.networks[0](batch.images)
        found = []
        for track in run.tracks:
            labels, logits = batch.working[track.name], output.logits[track.name].float()
            weight = batch.weight[track.name] * self._clean[track.name][self._records[track.name].index(batch)]
            if weight.any():
                found.append(self._loss(pixel_cross_entropy(logits, labels), logits, labels, weight))
        return found


# ---------------------------------------------------------------- helpers


def _quantiles(record: PeerRecord, track: Track) -> Tensor:
    """(K, 101): quantiles of the units' losses, mean over both peers, of each class; infinite without units."""
    losses = record.loss.mean(0)
    rows = []
    for k in range(track.n_classes):
        own = losses[(record.classes == k) & losses.isfinite()]
        at = torch.linspace(0, 1, 101, device=losses.device)
        rows.append(own.quantile(at) if len(own) else torch.full_like(at, torch.inf))
    return torch.stack(rows)
