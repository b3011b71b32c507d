"""CORES^2: a regulariser that makes the network sure, and a sieve for the labels it then does not support.

H. Cheng, Z. Zhu, X. Li, Y. Gong, X. Sun, Y. Liu, "Learning with Instance-Dependent Label Noise: A
Sample Sieve Approach", ICLR 2021 (arXiv 2010.02347). The examples are voxels, or pieces of a case.
Formulas are in `cores_formulas`, pieces in `sieve_regions`, what is shown of a run in `sieve_record`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_noisylabel.inner import Curve, InnerState, Note
from napari_noisylabel.methods import cores_formulas as formulas
from napari_noisylabel.methods.base import Batch, Evidence, FoldRun, Method, Stage
from napari_noisylabel.methods.losses import soft_dice_loss, weighted_mean
from napari_noisylabel.methods.sieve_record import SieveRecord
from napari_noisylabel.methods.sieve_regions import bands, piece_means, supervoxels
from napari_noisylabel.records import IGNORE, Track

BOX_MARGIN = 4  # voxels around the foreground that the prior "box" counts
SIEVE, CONSISTENCY = "sieve", "consistency"  # names of the stages
KEPT = "kept"  # the attached map: 1 kept, 0 rejected


class Cores(Method):
    """Learn, grow sure, and go on with the labels that the network supports; then use the rest without labels."""

    name = "cores"
    title = "Confidence regulariser and sample sieve (CORES^2)"
    source = "Cheng et al., ICLR 2021, arXiv 2010.02347"

    def __init__(
        self,
        dice_weight: float = 1.0,
        beta: float = 1.0,
        beta_from: float = 0.1,
        beta_full: float = 0.4,
        sieve_from: float = 0.31,
        known_from: float = 0.5,
        least_steps: int = 60,
        prior: str = "balanced",
        level: str = "voxel",
        margin: float = 0.0,
        keep_at_least: float = 0.2,
        sieve_by: str = "batch",
        refresh: int = 2,
        band_mm: float = 2.0,
        supervoxel_mm: float = 4.0,
        consistency: float = 0.4,
        fresh: bool = True,
        fresh_steps: int = 400,
        consistency_weight: float = 0.4,
        unlabelled: float = 0.25,
        strength: float = 0.5,
        smooth: float = 0.5,
        likelihood: str = "networks",
    ) -> None:
        self.dice_weight, self.beta, self.prior, self.margin = dice_weight, beta, prior, margin
        self.beta_from, self.beta_full, self.sieve_from = beta_from, beta_full, sieve_from
        self.known_from, self.least_steps = known_from, least_steps
        self.level, self.sieve_by, self.refresh, self.keep_at_least = level, sieve_by, refresh, keep_at_least
        self.band_mm, self.supervoxel_mm = band_mm, supervoxel_mm
        self.consistency, self.fresh, self.fresh_steps = consistency, fresh, fresh_steps
        self.consistency_weight = consistency_weight
        self.unlabelled, self.strength = unlabelled, strength
        self.smooth, self.likelihood = smooth, likelihood
        self._prior: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}
        self._given: dict[str, Tensor] = {}
        self._supported: dict[str, Tensor] = {}
        self._labelled: dict[str, Tensor] = {}
        self._agreed: dict[str, Tensor] = {}
        self._exempt: dict[str, Tensor] = {}
        self._waited, self._known, self._second_stage = 0, False, False
        self._beta = 0.0
        self._compared = 0.0
        self._why = ""
        self._record = SieveRecord(margin, keep_at_least)

    # ------------------------------------------------------------ moments

    def stages(self, epochs: int) -> tuple[Stage, ...]:
        second = min(epochs - 1, round(self.consistency * epochs))
        first = Stage(SIEVE, epochs - second)
        return (first, Stage(CONSISTENCY, second)) if second else (first,)

    def on_run_start(self, run: FoldRun) -> None:
        for track in run.tracks:
            counts = sum(_counts(run.labels[case][track.name], track.n_classes) for case in run.case_ids)
            given = torch.as_tensor(counts)
            self._prior[track.name] = formulas.prior_of(given, given, self.prior == "balanced").to(run.device)
            self._exempt[track.name] = torch.ones(track.n_classes, dtype=torch.bool, device=run.device)
        self._record.start(run)

    def on_epoch_start(self, run: FoldRun) -> None:
        for track in run.tracks:
            nothing = torch.zeros(track.n_classes, dtype=torch.int64, device=run.device)
            for counts in (self._kept, self._given, self._supported, self._labelled, self._agreed):
                counts[track.name] = nothing.clone()
        first = self.stages(run.epochs)[0].epochs
        self._compared = 0.0
        if run.first_epoch_of_stage:
            self._second_stage = run.stage.name == CONSISTENCY and self._is_worth_it(run)
        self._why = self._waiting(run)
        self._beta = formulas.beta_at(self._time(run), first, self.beta, self.beta_from, self.beta_full)
        if self._second_stage:
            self._beta = 0.0
            if run.first_epoch_of_stage:
                self._sieve_cases(run)
                if self.fresh:
                    run.restart(0)
        elif self._by_case and self._sieving(run) and (self._time(run) - self._first_sieved(run)) % self.refresh == 0:
            self._sieve_cases(run)

    def loss(self, run: FoldRun, batch: Batch) -> Tensor | None:
        found = self._second(run, batch) if self._second_stage else self._first(run, batch)
        return sum(found[1:], found[0]) if found else None

    def on_epoch_end(self, run: FoldRun) -> None:
        for track in run.tracks:
            kept, given = self._kept[track.name], self._given[track.name]
            if kept.sum() > 0:
                self._prior[track.name] = formulas.prior_of(kept, given, self.prior == "balanced")
            supported, labelled = self._supported[track.name], self._labelled[track.name]
            if labelled.sum() > 0:  # the second stage counts nothing
                self._exempt[track.name] = formulas.unsupported(supported, labelled, self.keep_at_least)
        self._keep_time(run)
        self._record.look(run, self._score)

    def state_dict(self) -> dict[str, Any]:
        return {
            "prior": dict(self._prior), "exempt": dict(self._exempt), "waited": self._waited, "known": self._known,
            "second": self._second_stage, "record": self._record.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._prior = {track: p.to(self._prior[track].device) for track, p in state["prior"].items()}
        self._exempt = {track: e.to(self._exempt[track].device) for track, e in state["exempt"].items()}
        self._waited, self._known, self._second_stage = state["waited"], state["known"], state["second"]
        self._record.load_state_dict(state["record"])

    def inner(self) -> list[InnerState]:
        text = (
            f"the loss is divided by 1 + beta = {1 + self._beta:.2f}, as the publication does with the learning rate; "
            "the rate itself falls along the engine's cosine"
        )
        shown = [Curve("beta", {"beta": self._beta}), Note("learning rate", text), *self._record.inner()]
        return [*shown, Note("schedule", self._why)] if self._why else shown

    # ------------------------------------------------------------ scoring

    def corrected(self, evidence: Evidence) -> np.ndarray:
        """The opinion around each voxel: single ones are too sure after what the regulariser did to them."""
        return formulas.local_opinion(evidence.probs, evidence.spacing, self.smooth) if self.smooth else evidence.probs

    def noise_likelihood(self, evidence: Evidence) -> np.ndarray | None:
        """P(wrong) = sigmoid of s: g / (p + g) with the geometric mean g of all classes, if asked for."""
        return self._rejected(evidence) if self.likelihood == "sieve" else None

    def maps(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """The sieve's score through a sigmoid, 0.5 where it decides: over it a label is not supported."""
        return {"sieve": self._rejected(evidence)}

    def _rejected(self, evidence: Evidence) -> np.ndarray:
        s = self._score(evidence.probs, evidence.labels, evidence.spacing)
        return np.where(evidence.labels == IGNORE, 0, 1 / (1 + np.exp(-(s + self.margin)))).astype(np.float32)

    def _score(self, probs: np.ndarray, labels: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
        """s of each voxel, (*spatial), or the mean of the piece that it belongs to."""
        s = formulas.probs_score(probs, labels)
        if self.level == "region":
            return piece_means(s, bands(labels, spacing, self.band_mm, self.supervoxel_mm))
        if self.level == "supervoxel":
            return piece_means(s, supervoxels(labels, spacing, self.supervoxel_mm))
        return s

    # ------------------------------------------------------------ first stage

    @property
    def _by_case(self) -> bool:
        return self.level != "voxel" or self.sieve_by == "epoch"

    def _time(self, run: FoldRun) -> int:
        """The epoch by the clock of the schedule, which stands still while a class is not known yet."""
        return run.epoch - self._waited

    def _keep_time(self, run: FoldRun) -> None:
        """Stop the clock where beta would rise or the sieve start, and it is too early or a class is not known."""
        tracks, following = (t.name for t in run.tracks), self._time(run) + 1
        self._known = self._known or (
            (run.epoch + 1) * run.steps >= self.least_steps
            and all(formulas.is_known(self._agreed[t], self._labelled[t], self.known_from) for t in tracks)
        )
        begins = following > self.beta_from * self.stages(run.epochs)[0].epochs or following >= self._first_sieved(run)
        if begins and not self._known:
            self._waited += 1

    def _first_sieved(self, run: FoldRun) -> int:
        return max(1, round(self.sieve_from * self.stages(run.epochs)[0].epochs))

    def _sieving(self, run: FoldRun) -> bool:
        return self._time(run) >= self._first_sieved(run)

    def _is_worth_it(self, run: FoldRun) -> bool:
        """False where the second stage is too short for new weights, or nothing could be sieved: the first goes on."""
        return self._known and (not self.fresh or run.stage.epochs * run.steps >= self.fresh_steps)

    def _waiting(self, run: FoldRun) -> str:
        """In words, what the schedule waits for; empty where nothing waits."""
        if self._waited and not self._known:
            return (
                f"beta and sieve have waited for {self._waited} epoch(s): {self.least_steps} steps are not over, or "
                f"the network does not name {self.known_from:.0%} of the voxels of every class yet"
            )
        if run.stage.name == CONSISTENCY and not self._second_stage:
            return (
                f"the second stage is left out, and the first goes on: {run.stage.epochs * run.steps} steps are "
                f"less than the {self.fresh_steps} that new weights need"
            )
        return ""

    def _first(self, run: FoldRun, batch: Batch) -> list[Tensor]:
        """The regularised loss of each track, over what the sieve keeps; tracks without any are left out."""
        output = run.networks[0](batch.images)
        found = [self._sieved_loss(run, batch, track, output.logits[track.name].float()) for track in run.tracks]
        return [loss for loss in found if loss is not None]

    def _sieved_loss(self, run: FoldRun, batch: Batch, track: Track, logits: Tensor) -> Tensor | None:
        labels, verified, weight = (m[track.name] for m in (batch.working, batch.verified, batch.weight))
        log_probs = logits.log_softmax(1)
        loss, losses = formulas.label_loss(log_probs, labels), formulas.class_losses(log_probs)
        supported = self._supported_in_batch(batch, track.name, losses.detach()) | verified
        exempt = self._exempt[track.name][labels.clamp_max(track.n_classes - 1)]
        kept = supported | exempt if self._sieving(run) else torch.ones_like(verified)
        self._count(track, labels, weight > 0, supported, kept)
        if not self._known:
            self._agreed[track.name] += torch.bincount(
                labels[(logits.detach().argmax(1) == labels) & (weight > 0)], minlength=track.n_classes
            )
        weight = weight * kept
        if not weight.any():
            return None
        if self._beta:
            own = formulas.regulariser(losses, self._prior[track.name], self._beta)
            loss = loss + torch.where(verified, 0.0, own)  # what a person has decided needs no baseline
        total = weighted_mean(loss, weight)
        if self.dice_weight:
            total = total + self.dice_weight * soft_dice_loss(logits, labels, weight)
        return total / (1 + self._beta)

    def _supported_in_batch(self, batch: Batch, track: str, losses: Tensor) -> Tensor:
        """What the sieve would keep, whether it is used yet or not."""
        if self._by_case and KEPT in batch.extra:
            return batch.extra[KEPT][track] > 0.5
        return ~(formulas.sieve_score(losses, batch.working[track]) > -self.margin)  # so that no NaN is sieved out

    def _count(self, track: Track, labels: Tensor, known: Tensor, supported: Tensor, kept: Tensor) -> None:
        """Adds to the epoch's numbers of voxels per class; those of the prior in the box only, where it wants that."""
        near = known & formulas.foreground_box(labels, BOX_MARGIN) if self.prior == "box" else known
        sums = (
            (self._labelled, known), (self._supported, known & supported),
            (self._given, near), (self._kept, near & kept),
        )  # fmt: skip
        for counts, where in sums:
            counts[track.name] += torch.bincount(labels[where], minlength=track.n_classes)

    # ------------------------------------------------------------ second stage

    def _sieve_cases(self, run: FoldRun) -> None:
        """Decide on every voxel of every case in an evaluation pass, and attach what was kept."""
        found: dict[str, dict[str, np.ndarray]] = {track.name: {} for track in run.tracks}
        for prediction in run.predict():
            for track in run.tracks:
                labels = np.asarray(run.labels[prediction.case][track.name])
                s = self._score(prediction.probs[track.name], labels, run.spacing[prediction.case])
                found[track.name][prediction.case] = s <= -self.margin
        for track in run.tracks:
            exempt = self._exempt_of_cases(run, track, found[track.name])
            for case, supported in found[track.name].items():
                run.attach(KEPT, case, track.name, supported | np.isin(run.labels[case][track.name], exempt))

    def _exempt_of_cases(self, run: FoldRun, track: Track, supported: Mapping[str, np.ndarray]) -> np.ndarray:
        """Classes that the sieve lets pass, being about to reject nearly all of them."""
        counts = np.zeros((2, track.n_classes))
        for case, mask in supported.items():
            labels = np.asarray(run.labels[case][track.name])
            counts += [_counts(labels[mask], track.n_classes), _counts(labels, track.n_classes)]
        kept, labelled = torch.from_numpy(counts)
        return np.flatnonzero(formulas.unsupported(kept, labelled, self.keep_at_least))

    def _second(self, run: FoldRun, batch: Batch) -> list[Tensor]:
        """Kept labels teach the strong view; rejected voxels learn to look the same in both views."""
        kept = {t.name: (batch.extra[KEPT][t.name] > 0.5) | batch.verified[t.name] for t in run.tracks}
        rejected = {t: ~mask & (batch.weight[t] > 0) for t, mask in kept.items()}
        chosen = self._patches_to_compare(rejected)
        network = run.networks[0]
        logits = network(formulas.strong_view(batch.images, run.rng, self.strength)).logits
        with torch.no_grad():
            weak = network(batch.images[chosen]).logits if len(chosen) else {}
        found = []
        for track in kept:
            weight = batch.weight[track] * kept[track]
            if not weight.any() and not rejected[track].any():
                continue
            labels = batch.working[track]
            own = logits[track].float()
            total = weighted_mean(formulas.label_loss(own.log_softmax(1), labels), weight)
            if self.dice_weight:
                total = total + self.dice_weight * soft_dice_loss(own, labels, weight)
            if len(chosen):
                apart = formulas.consistency(weak[track], own[chosen], rejected[track][chosen])
                total = total + self.consistency_weight * apart
            found.append(total)
        return found

    def _patches_to_compare(self, rejected: Mapping[str, Tensor]) -> Tensor:
        """Indices of the patches with most rejected voxels, over the steps of an epoch a share `unlabelled` of all."""
        voxels = torch.stack([mask.flatten(1).sum(1) for mask in rejected.values()]).sum(0)
        self._compared += self.unlabelled * len(voxels) if self.consistency_weight else 0.0
        n = int(self._compared + 1e-9)
        self._compared -= n
        best = voxels.argsort(descending=True, stable=True)[:n]
        return best[voxels[best] > 0].sort().values


# ---------------------------------------------------------------- helpers


def _counts(labels: np.ndarray, n_classes: int) -> np.ndarray:
    return np.bincount(np.asarray(labels).reshape(-1), minlength=IGNORE + 1)[:n_classes]
