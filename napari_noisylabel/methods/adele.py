"""ADELE: each class is corrected by the network from the epoch on in which its errors begin to be learnt.

S. Liu, K. Liu, W. Zhu, Y. Shen, C. Fernandez-Granda, "Adaptive Early-Learning Correction for
Segmentation from Noisy Annotations", CVPR 2022 (arXiv 2110.03740). Formulas: `adele_formulas`
(consistency of scales, correction) and `learning_curve` (when); `memorisation` watches a class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from napari_noisylabel.inner import Curve, InnerState, Matrix, Mixtures, Note
from napari_noisylabel.methods import adele_formulas as formulas
from napari_noisylabel.methods.adele_formulas import Correction, Opinion, Rule
from napari_noisylabel.methods.base import Batch, Evidence, FoldRun, Method, Output
from napari_noisylabel.methods.losses import segmentation_loss, weighted_mean
from napari_noisylabel.methods.memorisation import Detector, Watch
from napari_noisylabel.records import Track

POINTS = 30  # of the IoU curve at least: in 10 epochs, a slope seldom falls to a tenth of what it was in the first
SCALE_LR = 1e-3  # of the weights of the scales, where they are learnt
BINS = 20  # of the histogram of probabilities


class Adele(Method):
    """Learn at three scales that must agree; once a class is learnt, overwrite its labels where that is sure."""

    name = "adele"
    title = "Adaptive early-learning correction (ADELE)"
    source = "Liu et al., CVPR 2022, arXiv 2110.03740"

    def __init__(
        self,
        dice_weight: float = 1.0,
        scales: Sequence[float] = (0.7, 1.0, 1.5),
        rescale: str = "in-plane",
        enlarged: float = 0.5,
        consistency_weight: float = 1.0,
        gate: str = "image",
        gate_above: float = 0.8,
        temperature: float = 1.0,
        learned_scales: bool = False,
        total: str = "mean",
        save_memory: bool = False,
        change: float = 0.9,
        skip: str = "level",
        skip_below: float = 0.05,
        min_points: int = 4,
        earliest: float = 0.3,
        least_steps: int = 120,
        points: int = 0,
        unit: str = "point",
        trigger: str = "class",
        predictions: str = "pass",
        correction_scales: Sequence[float] = (0.7, 1.0, 1.5),
        flips: bool = False,
        correction_temperature: float = 1.0,
        interval: int = 2,
        start_from: str = "given",
        tau_foreground: float = 0.7,
        tau_background: float = 0.7,
        concerns: str = "both",
        constraint: str = "case",
        guard: bool = True,
    ) -> None:
        self.dice_weight, self.scales, self.rescale = dice_weight, tuple(scales), rescale
        self.enlarged = enlarged
        self.consistency_weight, self.gate, self.gate_above = consistency_weight, gate, gate_above
        self.temperature, self.learned_scales, self.total = temperature, learned_scales, total
        self.save_memory = save_memory
        self.change, self.skip, self.skip_below = change, skip, skip_below
        self.min_points, self.earliest, self.least_steps = min_points, earliest, least_steps
        self.points, self.unit, self.trigger = points, unit, trigger
        self.predictions, self.correction_scales, self.flips = predictions, tuple(correction_scales), flips
        self.correction_temperature, self.interval, self.start_from = correction_temperature, interval, start_from
        self.tau_foreground, self.tau_background = tau_foreground, tau_background
        self.concerns, self.constraint, self.guard = concerns, constraint, guard
        self._detector = Detector(change, skip, skip_below, min_points, earliest)
        self._tracks: tuple[Track, ...] = ()
        self._epochs = 0
        self._axes: tuple[int, ...] = ()
        self._n_dims = self._slice_axis = 0
        self._scale_weights = nn.Parameter(torch.ones(len(self.scales)))
        self._watches: dict[str, list[Watch]] = {}
        self._counts: dict[str, list[Tensor]] = {}
        self._found: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, dict[str, Opinion]] = {}
        self._measured: dict[str, dict[str, list[Tensor]]] = {}
        self._correcting = False

    # ------------------------------------------------------------ the moments

    def on_run_start(self, run: FoldRun) -> None:
        self._tracks, self._epochs = run.tracks, run.epochs
        earliest = max(self.earliest, self.least_steps / (run.epochs * run.steps))
        self._detector = replace(self._detector, earliest=earliest)
        self._watches = {t.name: [Watch() for _ in t.classes] for t in run.tracks}
        if self.learned_scales:
            run.add_parameters([self._scale_weights], lr=SCALE_LR)

    def on_epoch_start(self, run: FoldRun) -> None:
        self._measured, self._seen, self._counts = {}, {}, {t.name: [] for t in run.tracks}

    def loss(self, run: FoldRun, batch: Batch) -> Tensor:
        self._look_at(run, batch)
        each = self._at_scales(run.networks[0], batch.images)
        losses = [self._track_loss(batch, t.name, {s: z[t.name] for s, z in each.items()}) for t in run.tracks]
        for track in run.tracks:
            counts = formulas.overlap_counts(each[1.0][track.name], batch.working[track.name])
            self._counts[track.name].append(counts)
            if self.predictions == "training":
                self._keep_opinions(run, batch, track.name, each[1.0][track.name].detach())
        return sum(losses[1:], losses[0])

    def on_epoch_end(self, run: FoldRun) -> None:
        self._add_points()
        fresh = self._decide(run)
        finished = run.epoch + 1
        due = finished % self.interval == 0
        if finished < run.epochs and self._any_on() and (fresh or due):
            self._correct(run, None if due or self.start_from == "given" else finished)

    def state_dict(self) -> dict[str, Any]:
        return {
            "watches": {t: [w.state_dict() for w in watches] for t, watches in self._watches.items()},
            "axes": list(self._axes),
            "n_dims": self._n_dims,
            "slice_axis": self._slice_axis,
            "found": dict(self._found),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._watches = {t: [Watch.from_state(w) for w in watches] for t, watches in state["watches"].items()}
        self._axes, self._n_dims, self._slice_axis = tuple(state["axes"]), state["n_dims"], state["slice_axis"]
        self._found = dict(state["found"])

    def probabilities(self, output: Output) -> dict[str, Tensor]:
        """The softmax at the temperature it was trained at, or, in a correction pass, at that one's."""
        sharp = 1 / self.correction_temperature if self._correcting else float(self._sharpness(1.0))
        return {track: (logits.float() * sharp).softmax(1) for track, logits in output.logits.items()}

    def maps(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """The probability with which this fold's rule would overwrite the label, 0 where it would not."""
        watches = self._watches[evidence.track.name]
        said = formulas.opinion(evidence.probs, self.tau_foreground, self.tau_background)
        found = formulas.correct(evidence.labels, said, [w.on is not None for w in watches], self._rule())
        return {"correction": np.where(found.changed, said.probability, 0).astype(np.float32)}

    def inner(self) -> list[InnerState]:
        means = {
            name: Curve(name, {t: float(torch.stack(values).mean()) for t, values in series.items()})
            for name, series in self._measured.items()
        }
        shown: list[InnerState] = list(means.values())
        if self.learned_scales:
            weights = self._scale_weights.detach().softmax(0).tolist()
            shown.append(Curve("weight of each scale", dict(zip(map(str, self.scales), weights, strict=True))))
        for track in self._tracks:
            for name, watch in zip(track.classes[1:], self._watches[track.name][1:], strict=True):
                shown += watch.shown(f"{track.name}/{name}", self._detector, self._epochs, 1 / self._per_epoch())
        return [*shown, *self._corrections()]

    # ------------------------------------------------------------ one step

    def _look_at(self, run: FoldRun, batch: Batch) -> None:
        """Which axes a patch has, and which of them are rescaled. The same for all batches of a run."""
        if self._axes:
            return
        self._n_dims = n_dims = batch.images.ndim - 2
        sides = (batch.index[0, 3:] - batch.index[0, :3]).tolist()
        spacing = np.median([(1.0,) * (3 - len(s)) + tuple(s) for s in run.spacing.values()], axis=0)
        flat = next((a for a in range(3) if sides[a] == 1), 0) if n_dims == 2 else int(spacing.argmax())
        own = [float(v) for a, v in enumerate(spacing) if n_dims == 3 or a != flat]
        self._slice_axis = flat
        self._axes = formulas.rescaled_axes(own, self.rescale)

    def _at_scales(self, network: Any, images: Tensor) -> dict[float, Mapping[str, Tensor]]:
        """Logits per track on the grid of the patch, by scale; a scale that rounding makes 1 is left out.

        Enlarged images cost most: of those, only the first patches of the batch.
        """
        size, few = tuple(images.shape[2:]), max(1, round(self.enlarged * len(images)))
        found: dict[float, Mapping[str, Tensor]] = {}
        for scale in self.scales:
            own = formulas.scaled_size(size, scale, network.factor, self._axes)
            if scale == 1 or own != size:
                rescaled = formulas.resized(images[:few] if scale > 1 else images, own)
                keep = not self.save_memory or scale == 1
                output = network(rescaled) if keep else checkpoint(network, rescaled, use_reentrant=False)
                found[scale] = {t: formulas.resized(z.float(), size) for t, z in output.logits.items()}
        return found

    def _track_loss(self, batch: Batch, track: str, logits: Mapping[float, Tensor]) -> Tensor:
        labels, weight = batch.working[track], batch.weight[track]
        each = [
            segmentation_loss(z * self._sharpness(s), labels[: len(z)], weight[: len(z)], self.dice_weight)
            for s, z in logits.items()
        ]
        loss = sum(each[1:], each[0])
        self._note("class loss", track, loss / len(each))
        if self.consistency_weight and len(each) > 1:
            apart, mean = formulas.scale_divergence(list(logits.values()))
            gate = formulas.confidence_gate(mean, weight > 0, self.gate_above, self.gate)
            consistency = weighted_mean(apart * gate, weight)
            self._note("consistency of scales", track, consistency)
            self._note("share of voxels whose consistency counts", track, weighted_mean(gate, weight))
            loss = loss + self.consistency_weight * consistency
        return loss / len(each) if self.total == "mean" else loss

    def _sharpness(self, scale: float) -> Tensor | float:
        """What logits are multiplied by: 1 / temperature, and the scale's learnt weight where there is one."""
        if not self.learned_scales:
            return 1 / self.temperature
        weights = len(self.scales) * self._scale_weights.softmax(0)
        return weights[self.scales.index(scale)] / self.temperature

    def _keep_opinions(self, run: FoldRun, batch: Batch, track: str, logits: Tensor) -> None:
        """As the released code: what the network says of its training patches while it learns from them."""
        probs = (logits / self.correction_temperature).softmax(1).half().cpu().numpy()
        for patch, case, index, view in zip(probs, batch.case_ids, batch.index.tolist(), batch.views, strict=True):
            kept = self._seen.setdefault(case, {})
            if track not in kept:
                shape = run.labels[case][track].shape
                kept[track] = Opinion(np.zeros(shape, np.uint8), np.zeros(shape, bool), np.zeros(shape, np.float16))
            said = formulas.opinion(patch, self.tau_foreground, self.tau_background)
            for into, values in zip(kept[track], said, strict=True):
                formulas.put_back(into.reshape((1,) * (3 - into.ndim) + into.shape), values, index, view)

    # ------------------------------------------------------------ the end of an epoch

    def _per_epoch(self) -> int:
        """Points of the IoU curve per epoch."""
        return self.points or -(-POINTS // self._epochs)

    def _add_points(self) -> None:
        """The points of this epoch: IoU over equal parts of its steps."""
        for track, counts in self._counts.items():
            for part in np.array_split(torch.stack(counts).cpu().numpy(), self._per_epoch()):
                for watch, own in zip(self._watches[track], part.sum(0).T.tolist(), strict=True):
                    watch.add(*own)

    def _decide(self, run: FoldRun) -> bool:
        """Switch on the classes that begin to be memorised; True if there is one."""
        finished, per_epoch = run.epoch + 1, 1 if self.unit == "epoch" else self._per_epoch()
        time = finished * per_epoch, run.epochs * per_epoch, per_epoch / self._per_epoch()
        watches = [w for each in self._watches.values() for w in each[1:]]
        fresh = [w for w in watches if w.decide(self._detector, *time)]
        if fresh and self.trigger == "first":
            fresh = [w for w in watches if w.seen and w.on is None]
        for watch in fresh:
            watch.on = finished
        return bool(fresh)

    def _any_on(self) -> bool:
        return any(w.on is not None for each in self._watches.values() for w in each)

    def _rule(self) -> Rule:
        return Rule(self.concerns, self.constraint, self.guard, self._slice_axis)

    def _correct(self, run: FoldRun, since: int | None) -> None:
        """Correct every case of the fold; with `since`, only the classes that were switched on then."""
        self._found = {t.name: _nothing_found(t.n_classes) for t in run.tracks}
        for case, said in self._opinions(run):
            for track in run.tracks:
                if track.name not in said:  # no batch showed the case in this epoch
                    continue
                given, current = run.labels[case][track.name], run.working_labels[case][track.name]
                before = np.asarray(given if self.start_from == "given" else current)
                on = [w.on is not None and since in (None, w.on) for w in self._watches[track.name]]
                fixed = run.verified[case][track.name]
                made = formulas.correct(before, said[track.name], on, self._rule(), fixed)
                run.working_labels[case][track.name] = made.labels
                self._sum_up(track, np.asarray(given), made, said[track.name])

    def _opinions(self, run: FoldRun) -> Iterable[tuple[str, Mapping[str, Opinion]]]:
        """What the network says of each case: in a pass of its own, or said while it trained."""
        if self.predictions == "training":
            yield from self._seen.items()
            return
        self._correcting = True
        try:
            for p in run.predict(views=self._views()):
                limits = self.tau_foreground, self.tau_background
                yield p.case, {t: formulas.opinion(probs, *limits) for t, probs in p.probs.items()}
        finally:
            self._correcting = False

    def _views(self) -> list[str]:
        """All scales, each as it is and, where anatomy allows it, with the last axis mirrored."""
        only = "" if len(self._axes) == self._n_dims else "/" + "".join(map(str, self._axes))
        views = ["" if s == 1 else f"scale{s:g}{only}" for s in self.correction_scales]
        mirrored = [f"flip{self._n_dims - 1}" + (f"+{v}" if v else "") for v in views]
        return views + mirrored if self.flips else views

    def _sum_up(self, track: Track, given: np.ndarray, made: Correction, said: Opinion) -> None:
        """Add one case to what is shown of this round of corrections."""
        found, n = self._found[track.name], track.n_classes
        found["voxels"] += np.bincount(given[given < n], minlength=n)
        found["moves"] += formulas.moves(given, made.labels, n)
        found["histogram"] += np.histogram(said.probability[made.changed], BINS, (0, 1))[0]
        for name, count in (("waiting", made.waiting), ("absent", made.absent), ("guarded", made.guarded)):
            found[name] += count

    # ------------------------------------------------------------ inner state

    def _note(self, curve: str, series: str, value: Tensor) -> None:
        self._measured.setdefault(curve, {}).setdefault(series, []).append(value.detach().float())

    def _corrections(self) -> list[InnerState]:
        """What the last round of corrections did, and what it held back."""
        shown: list[InnerState] = []
        shares: dict[str, dict[str, float]] = {"added to": {}, "removed from": {}}
        for track in self._tracks:
            found = self._found.get(track.name) or _nothing_found(track.n_classes)
            moved, voxels = found["moves"], found["voxels"]
            for k, name in list(enumerate(track.classes))[1:]:
                for way, count in (("added to", moved[:, k].sum()), ("removed from", moved[k].sum())):
                    shares[way][f"{track.name}/{name}"] = float(count / voxels[k]) if voxels[k] else 0.0
            if track.name not in self._found:
                continue
            classes = track.classes
            rows = tuple(tuple(float(v) for v in row) for row in moved)
            counts = {track.name: tuple(int(v) for v in found["histogram"])}
            shown += [
                Matrix(f"corrected voxels of {track.name}, from row to column", classes, classes, rows),
                Mixtures(f"probability of corrections in {track.name}", 0.0, 1.0, counts),
                Note(f"held back in {track.name}", _held_back(found)),
            ]
        both = {name: shares["added to"][name] + shares["removed from"][name] for name in shares["added to"]}
        each = [Curve(f"share of voxels {way} a class", values) for way, values in shares.items()]
        return [Curve("share of labels corrected", both), *each, *shown]


# ---------------------------------------------------------------- helpers, in order of use


def _nothing_found(n_classes: int) -> dict[str, Any]:
    """The sums of a round of corrections, before its first case."""
    square = np.zeros((n_classes, n_classes), np.int64)
    counts = {"voxels": np.zeros(n_classes, np.int64), "moves": square, "histogram": np.zeros(BINS, np.int64)}
    return {**counts, "waiting": 0, "absent": 0, "guarded": 0}


def _held_back(found: Mapping[str, Any]) -> str:
    return (
        f"voxels that the network surely sees otherwise and that were left: {found['waiting']} for classes not "
        f"corrected yet, {found['absent']} by the class constraint, {found['guarded']} in cases that would have lost "
        "most of their foreground"
    )
