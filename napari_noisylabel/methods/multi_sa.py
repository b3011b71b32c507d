"""Multi-SA: image-level tags teach a classifier where something is, its maps become masks, these teach a network.

A. Yaganapu, M. Kang, "Multi-layered self-attention mechanism for weakly supervised semantic
segmentation", Computer Vision and Image Understanding, 2024. A reconstruction from its abstract:
what is behind each step is said in `multi_sa_formulas`, `multi_sa_network`, `multi_sa_activation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_noisylabel.errors import BadSetting
from napari_noisylabel.inner import Curve, InnerState, Mixtures, Note
from napari_noisylabel.methods import multi_sa_formulas as formulas
from napari_noisylabel.methods.base import Batch, Evidence, FoldRun, Method, Stage
from napari_noisylabel.methods.losses import segmentation_loss
from napari_noisylabel.methods.multi_sa_activation import Looks, look
from napari_noisylabel.methods.multi_sa_network import Classifier
from napari_noisylabel.records import IGNORE, Track

BINS = 20
DETAILED = 1 << 22  # voxels of a case up to which the maps of single layers are kept, too
CLASSIFIER, SEGMENTATION = "classifier", "segmentation"


class MultiSA(Method):
    """A classifier of whole images first; then a segmentation network on the masks that its attention suggests."""

    name = "multi-sa"
    title = "Masks from image-level tags by attention on several layers (after Multi-SA)"
    source = "Yaganapu and Kang, Computer Vision and Image Understanding, 2024 (from its abstract)"
    uses_tags = True

    def __init__(
        self,
        classifier: float = 0.5,
        images: int = 16,
        layers: Sequence[int] = (3, 4, 5),
        attention: bool = True,
        auxiliary: float = 0.3,
        fusion: str = "product",
        width: int = 8,
        embedding: int = 16,
        dropout: float = 0.2,
        top: float = 0.1,
        nodes: int = 1024,
        classifier_lr: float = 3e-3,
        steps: int = 0,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        pseudo: str = "seeds",
        foreground: float = 0.3,
        background: float = 0.05,
        alpha: float = 4.0,
        regrow: float = 0.0,
        grow_foreground: float = 0.85,
        grow_background: float = 0.99,
        masks: str = "use",
        dice_weight: float = 1.0,
    ) -> None:
        self.classifier, self.images = classifier, images
        self.layers, self.attention, self.auxiliary, self.fusion = tuple(layers), attention, auxiliary, fusion
        self.width, self.embedding, self.dropout = width, embedding, dropout
        self.top, self.nodes, self.classifier_lr = top, nodes, classifier_lr
        self.steps, self.scales, self.flip = steps, tuple(scales), flip
        self.pseudo, self.foreground, self.background, self.alpha = pseudo, foreground, background, alpha
        self.regrow, self.grow_foreground, self.grow_background = regrow, grow_foreground, grow_background
        self.masks, self.dice_weight = masks, dice_weight
        self._tracks: tuple[Track, ...] = ()
        self._columns: dict[str, slice] = {}  # of each track's foreground classes among all findings
        self._present: dict[str, np.ndarray] = {}  # per case (F,) bool
        self._told: dict[str, np.ndarray] = {}  # per case (F,) bool: somebody has said
        self._useful = np.zeros(0, bool)  # findings that some cases have and some have not: (F,)
        self._weights = np.zeros((2, 0), np.float32)  # of an absent and of a present finding in the loss
        self._network: Classifier | None = None
        self._axes: tuple[int, ...] = ()
        self._size: tuple[int, ...] = ()
        self._slices = False  # of volumes, not whole images
        self._losses: list[float] = []
        self._counts = np.zeros((2, 2, 0, BINS), np.int64)
        self._shares: dict[str, float] = {}

    # ------------------------------------------------------------ the moments

    def stages(self, epochs: int) -> tuple[Stage, ...]:
        if epochs < 2:
            raise BadSetting(f"multi-sa has two stages, a classifier and a segmentation: give 2 epochs, got {epochs}.")
        first = min(epochs - 1, max(1, round(self.classifier * epochs)))
        return (
            Stage(CLASSIFIER, first, (), "images", self.images),
            Stage(SEGMENTATION, epochs - first, (0,)),
        )

    def on_run_start(self, run: FoldRun) -> None:
        self._tracks, self._axes = run.tracks, run.axes
        self._size = tuple(run.patch_size[a] for a in run.axes)
        self._read_tags(run)
        self._require_something_to_learn(run)
        first = run.image(run.case_ids[0])
        self._slices = len(run.axes) < first.ndim - 1
        self._network = Classifier(
            len(run.axes), len(first), self._weights.shape[1], self._size, layers=self.layers, attention=self.attention,
            width=self.width, embedding=self.embedding, dropout=self.dropout, share=self.top, nodes=self.nodes,
            auxiliary=self.auxiliary > 0,
        ).to(run.device)  # fmt: skip
        run.add_parameters(self._network.parameters(), self.classifier_lr)

    def on_epoch_start(self, run: FoldRun) -> None:
        self._losses = []
        if run.stage.name == CLASSIFIER:
            self._counts = np.zeros((2, 2, self._weights.shape[1], BINS), np.int64)
            return
        begun = sum(s.epochs for s in self.stages(run.epochs)[:1])
        if run.first_epoch_of_stage:
            self._make_masks(run)
            run.restart(0)
        elif self.regrow and run.epoch == begun + max(1, round(self.regrow * (run.epochs - begun))):
            self._grow_masks(run)

    def loss(self, run: FoldRun, batch: Batch) -> Tensor | None:
        loss = self._classify(batch) if run.stage.name == CLASSIFIER else self._segment(run, batch)
        if loss is not None:
            self._losses.append(float(loss.detach()))
        return loss

    def state_dict(self) -> dict[str, Any]:
        network = self._trained
        return {
            "buffers": dict(network.named_buffers()),
            "counts": self._counts,
            "shares": dict(self._shares),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        own = dict(self._trained.named_buffers())
        for name, value in state["buffers"].items():
            own[name].copy_(value)
        self._counts, self._shares = np.array(state["counts"]), dict(state["shares"])

    # ------------------------------------------------------------ what becomes of a case

    def corrected(self, evidence: Evidence) -> np.ndarray:
        """What the tags say is not there counts as background."""
        if evidence.findings is None:
            return evidence.probs
        probs = np.array(evidence.probs)
        for k in range(1, len(probs)):
            if k not in evidence.findings:
                probs[0] += probs[k]
                probs[k] = 0
        return probs

    def noise_likelihood(self, evidence: Evidence) -> np.ndarray | None:
        """Of an empty mask the probability that there is something; of a given one what all networks reject."""
        return 1 - evidence.probs[0].astype(np.float32) if evidence.blank else None

    def score(self, evidence: Evidence) -> np.ndarray:
        """The cross-entropy of the label, of background where there is no mask."""
        if not evidence.blank:
            return super().score(evidence)
        return -np.log(np.clip(evidence.probs[0].astype(np.float32), 1e-7, 1.0))

    def maps(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Where the classifier sees a finding, at all layers and at each; and where the finding's place attends to."""
        if evidence.image is None or not self._useful.any():
            return {}
        columns = self._columns[evidence.track.name]
        present, told = self._presence_of(evidence.track, evidence.findings, evidence.labels, evidence.blank)
        wide = _widened(present, columns, self._weights.shape[1])
        found = self._look(evidence.image, wide, None if told else columns)
        maps = {"activation": found.maps[columns].max(0, initial=0)}
        if maps["activation"].size <= DETAILED:
            for layer, own in zip(self.layers, found.each, strict=False):
                maps[f"activation-{layer}"] = own[columns].max(0, initial=0)
            maps |= {f"attention-{layer}": own for layer, own in zip(self.layers, found.attention, strict=False)}
        return maps

    def inner(self) -> list[InnerState]:
        shown: list[InnerState] = []
        if self._losses:
            shown.append(Curve("loss of the stage", {"all": float(np.mean(self._losses))}, "nats"))
        gammas = self._trained.gammas
        if gammas:
            series = {f"layer {n}": g for n, g in zip(self.layers, gammas, strict=True)}
            shown.append(Curve("gamma of attention", series))
        shown += self._calibration()
        if self._shares:
            shown.append(Curve("share of voxels in pseudo-masks", self._shares))
        left_out = [name for name, useful in zip(self._names(), self._useful, strict=True) if not useful]
        if left_out:
            text = f"{', '.join(left_out)}: in all cases or in none, so tags tell nothing about where"
            shown.append(Note("findings left out", text))
        return shown

    # ------------------------------------------------------------ tags

    @property
    def _trained(self) -> Classifier:
        if self._network is None:
            raise RuntimeError("multi-sa has a classifier from on_run_start on")
        return self._network

    def _names(self) -> list[str]:
        return [f"{t.name}/{c}" for t in self._tracks for c in t.classes[1:]]

    def _read_tags(self, run: FoldRun) -> None:
        """Which finding each case has, and how much each counts: absent and present ones half each."""
        at = 0
        for track in run.tracks:
            self._columns[track.name] = slice(at, at + track.n_classes - 1)
            at += track.n_classes - 1
        for case in run.case_ids:
            self._present[case], self._told[case] = np.zeros(at, bool), np.zeros(at, bool)
            for track in run.tracks:
                own = run.findings[case].get(track.name)
                blank = track.name in run.blank[case]
                present, told = self._presence_of(track, own, run.labels[case][track.name], blank)
                self._present[case][self._columns[track.name]] = present
                self._told[case][self._columns[track.name]] = told
        shown, said = (np.stack([m[c] for c in run.case_ids]) for m in (self._present, self._told))
        positive, negative = (shown & said).sum(0), (~shown & said).sum(0)
        self._useful = (positive > 0) & (negative > 0)
        total = (positive + negative) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            weights = np.clip(np.stack([total / negative, total / positive]), 0.2, 5.0)
        # where no finding is useful, masks teach the second stage alone; the first is only kept going
        self._weights = (np.where(self._useful, weights, 0.0 if self._useful.any() else 1.0)).astype(np.float32)

    @staticmethod
    def _presence_of(
        track: Track, findings: tuple[int, ...] | None, labels: np.ndarray, blank: bool
    ) -> tuple[np.ndarray, bool]:
        """(K - 1,) bool: by tags, and by what labels show; and whether anybody has said."""
        present = np.array([bool((labels == k).any()) for k in range(1, track.n_classes)])
        if findings is not None:
            present[[k - 1 for k in findings]] = True
        return present, findings is not None or not blank

    def _require_something_to_learn(self, run: FoldRun) -> None:
        if self._useful.any():
            return
        if self.masks == "use" and any(len(run.blank[c]) < len(run.tracks) for c in run.case_ids):
            return
        if not any((self._present[c] & self._told[c]).any() for c in run.case_ids):
            raise BadSetting(
                f"multi-sa learns from tags, and none of the {len(run.case_ids)} cases of a fold has a finding: there "
                "is no positive case. Correct the tags, add cases, or give fewer folds."
            )
        raise BadSetting(
            f"multi-sa learns where something is from images that show it and images that do not, and every finding "
            f"is in all {len(run.case_ids)} cases of a fold or in none. Add cases without, or cut the images up."
        )

    # ------------------------------------------------------------ the classifier

    def _classify(self, batch: Batch) -> Tensor | None:
        present, weight = self._targets(batch)
        if not weight.any():
            return None
        network = self._trained.train()
        seen = network(_middle(batch.images, _in_channels(network)).float())
        loss = formulas.soft_margin(seen.scores, present, weight)
        if self.auxiliary and seen.each_score:
            own = [formulas.soft_margin(s, present, weight) for s in seen.each_score]
            loss = loss + self.auxiliary * sum(own[1:], own[0]) / len(own)
        self._count(seen.scores.detach(), present, weight)
        return loss

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What each image of the batch shows, and how much that counts, (B, F) each.

        Of a volume taken slice by slice the labels of the slice decide, where there are any; else the case's tags.
        """
        present = np.stack([self._present[c] for c in batch.case_ids])
        told = np.stack([self._told[c] for c in batch.case_ids])
        for track in self._tracks if self._slices else ():
            labels = batch.labels[track.name]
            known = (labels != IGNORE).flatten(1).all(1).cpu().numpy()
            for k in range(1, track.n_classes):
                own = (labels == k).flatten(1).any(1).cpu().numpy()
                column = self._columns[track.name].start + k - 1
                present[:, column] = np.where(known, own, present[:, column])
        weight = np.where(present, self._weights[1], self._weights[0]) * told
        device = batch.images.device
        return torch.from_numpy(present).to(device), torch.from_numpy(weight.astype(np.float32)).to(device)

    def _count(self, scores: Tensor, present: Tensor, weight: Tensor) -> None:
        """Histogram of the classifier's probabilities of absent and present findings, for its calibration."""
        bins = (scores.sigmoid() * BINS).long().clamp(0, BINS - 1).cpu().numpy()
        there, counts = present.cpu().numpy().astype(int), weight.cpu().numpy() > 0
        right = ((scores > 0) == present).cpu().numpy().astype(int)
        for f in range(bins.shape[1]):
            own = counts[:, f]
            np.add.at(self._counts, (there[own, f], right[own, f], f, bins[own, f]), 1)

    def _calibration(self) -> list[InnerState]:
        names, known = self._names(), self._counts.sum((0, 1, 3))
        if not known.sum():
            return []
        right = {n: float(self._counts[:, 1, f].sum() / known[f]) if known[f] else None for f, n in enumerate(names)}
        counts = {
            f"{n}, {word}": tuple(int(v) for v in self._counts[i, :, f].sum(0))
            for f, n in enumerate(names)
            for i, word in enumerate(("absent", "present"))
            if known[f]
        }
        return [
            Curve("share of findings that the classifier tells right", right),
            Mixtures("probability of a finding, by its tag", 0.0, 1.0, counts),
        ]

    # ------------------------------------------------------------ from maps to masks

    def _look(self, image: np.ndarray, present: np.ndarray, guess: slice | None = None) -> Looks:
        """The classifier's maps of a whole case. Classes in `guess` count as present where it thinks so itself."""
        slice_axis = next(a for a in range(3) if a not in self._axes) if self._slices else None
        return look(
            self._trained, image, present & self._useful, self._size, slice_axis=slice_axis, guess=guess,
            fusion=self.fusion, steps=self.steps, scales=self.scales, flip=self.flip,
        )  # fmt: skip

    def _make_masks(self, run: FoldRun) -> None:
        """Working labels from the classifier's maps, where there is no mask or given ones are not used."""
        voxels = {name: 0 for name in [*self._names(), "background", "left open"]}
        for case in run.case_ids:
            tracks = [t for t in run.tracks if self._fills(run, case, t.name)]
            if not tracks:
                continue
            found = self._look(run.image(case), self._present[case]).maps
            for track in tracks:
                made = self._pseudo_mask(found[self._columns[track.name]], case, track)
                given = np.asarray(run.labels[case][track.name])
                if track.name not in run.blank[case]:
                    made[given == IGNORE] = IGNORE
                run.working_labels[case][track.name][...] = made
                for k, name in enumerate(track.classes):
                    voxels[f"{track.name}/{name}" if k else "background"] += int((made == k).sum())
                voxels["left open"] += int((made == IGNORE).sum())
        total = sum(voxels.values())
        self._shares = {name: n / total for name, n in voxels.items()} if total else {}

    def _fills(self, run: FoldRun, case: str, track: str) -> bool:
        told = bool(self._told[case][self._columns[track]].all())
        return told and (track in run.blank[case] or self.masks == "ignore")

    def _pseudo_mask(self, activation: np.ndarray, case: str, track: Track) -> np.ndarray:
        """Classes of one case's voxels, IGNORE where the maps decide nothing."""
        columns = self._columns[track.name]
        if self.pseudo == "dense":
            made = formulas.dense(activation, self.alpha)
        else:
            made = formulas.seeds(activation, self.foreground, self.background)
        if (self._present[case][columns] & ~self._useful[columns]).any():
            made[made == 0] = IGNORE  # something is there that has no map: nothing is known to be background
        return made

    def _grow_masks(self, run: FoldRun) -> None:
        """What the network is sure of beside a seed joins it, in masks that were made here."""
        for prediction in run.predict():
            for track in run.tracks:
                if not self._fills(run, prediction.case, track.name):
                    continue
                working = run.working_labels[prediction.case][track.name]
                absent = ~self._present[prediction.case][self._columns[track.name]]
                probs = np.array(prediction.probs[track.name], np.float32)
                probs[1:][absent] = 0
                grown = formulas.grow(working, probs, self.grow_foreground, self.grow_background)
                if track.name not in run.blank[prediction.case]:
                    grown[np.asarray(run.labels[prediction.case][track.name]) == IGNORE] = IGNORE
                working[...] = grown

    def _segment(self, run: FoldRun, batch: Batch) -> Tensor | None:
        if not any(bool(batch.weight[t.name].any()) for t in run.tracks):
            return None
        logits = run.networks[0](batch.images).logits
        each = [
            segmentation_loss(logits[t.name], batch.working[t.name], batch.weight[t.name], self.dice_weight)
            for t in run.tracks
        ]
        return sum(each[1:], each[0])


# ---------------------------------------------------------------- helpers, in order of use


def _widened(present: np.ndarray, columns: slice, n: int) -> np.ndarray:
    """What one track shows, among the findings of all tracks."""
    out = np.zeros(n, bool)
    out[columns] = present
    return out


def _middle(images: Tensor, channels: int) -> Tensor:
    """The slice itself, without the neighbours that 2.5-D patches carry as further channels."""
    first = (images.shape[1] // channels // 2) * channels
    return images[:, first : first + channels]


def _in_channels(network: Classifier) -> int:
    return int(next(iter(network.parameters())).shape[1])
