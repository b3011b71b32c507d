"""Spatial Correction: boundaries that all annotators shift the same way are measured and moved back.

J. Yao, Y. Zhang, S. Zheng, M. Goswami, P. Prasanna, C. Chen, "Learning to segment from noisy
annotations: a spatial correction approach", ICLR 2023 (arXiv 2308.02498), and its released code. A
network learns the noisy labels, and their bias with them. How far its boundaries lie from the true
ones is measured on verified cases that train in no fold (`boundary_bias`); its predictions of the
training cases are moved back by as much (`boundary_shift`) and become the labels that a new network
starts from. What bias is left in the end is taken out of the opinions that cases are scored with.
How far the given labels lie from these, on the average, is the displacement that labels share
(`label_habit`): an error that no single label has to prove.

By default boundaries are moved by exactly the bias. The published bump on the logits, which moves
less and moves nothing where they are saturated, is `move="logits"` and part of the presets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from napari_noisylabel.arrays.labels import bounding_box
from napari_noisylabel.arrays.metrics import dice_per_class, hd95
from napari_noisylabel.inner import Curve, InnerState, Matrix, Mixtures, Note
from napari_noisylabel.methods.base import Batch, Evidence, FoldRun, Method, Stage
from napari_noisylabel.methods.boundary_bias import border_bias, class_bias, thick_axis, voxel_size
from napari_noisylabel.methods.boundary_shift import bumped_probs, capped, carried, kept
from napari_noisylabel.methods.label_habit import Habit, as_pairs, follows, label_displacement, shared_habit
from napari_noisylabel.methods.losses import segmentation_loss
from napari_noisylabel.records import IGNORE, Track

CURVE_CASES = 4  # verified cases that each epoch's curves are measured on; cleaning looks at all
HISTOGRAM = (-8.0, 8.0, 64)  # voxels, bins
FEW_CASES = 3
"""Verified cases from which the border of two foreground classes may be moved. It is often a convention that
each case draws elsewhere: on hippocampi its place varied by 1 to 1.5 voxels between cases, that of the border
with background by 0.2."""
SURE = 2.0  # standard errors over the verified cases, two or more, that a bias must be away from 0
LISTED = 30  # training cases in the table of what a cleaning changed


@dataclass(frozen=True, eq=False)
class Measured:
    """What verified cases say of one track's boundaries, mean over cases. NaN: not measured.

    `classes` (K,) and `borders` (K, K) in mm, the latter with their standard `errors`, 0 from one
    case; `n_cases` (K, K) that show a border; `voxel` in mm; `counts` (K, bins) of moves over the
    true outer ring; `dice` (K,) of the predictions with the true labels.
    """

    classes: np.ndarray
    borders: np.ndarray
    errors: np.ndarray
    n_cases: np.ndarray
    voxel: float
    counts: np.ndarray
    dice: np.ndarray


def measured(
    guesses: Sequence[np.ndarray], truths: Sequence[np.ndarray], spacings: Sequence[Sequence[float]],
    n_classes: int, thick: float, halved: bool,
) -> Measured:  # fmt: skip
    """The bias of one track over cases: per class and per border.

    guesses, truths : (*spatial) class indices per case, the latter with IGNORE. `halved` as in
    `boundary_bias.ring_moves`.
    """
    low, high, bins = HISTOGRAM
    counts = np.zeros((n_classes, bins), np.int64)
    classes, borders, voxels, dices = [], [], [], []
    for guess, truth, spacing in zip(guesses, truths, spacings, strict=True):
        axis = thick_axis(spacing, thick)
        voxel = voxel_size(spacing, axis)
        known = np.where(truth == IGNORE, IGNORE, guess)
        dices.append(dice_per_class(known, truth, n_classes))
        box = _with_room((guess > 0) | ((truth > 0) & (truth != IGNORE)))
        own = np.full(n_classes, np.nan)
        for k in range(1, n_classes):
            own[k], moves = class_bias(guess[box], truth[box], k, spacing, axis, halved)
            counts[k] += np.histogram(np.clip(moves / voxel, low, high), bins, (low, high))[0]
        classes.append(own)
        borders.append(border_bias(guess[box], truth[box], n_classes, spacing, axis))
        voxels.append(voxel)
    mean, table = _mean(borders), np.array(borders)
    n = np.isfinite(table).sum(0)
    spread = np.sqrt(np.nansum((table - mean) ** 2, 0) / np.maximum(n - 1, 1))
    errors = spread / np.sqrt(np.maximum(n, 1))
    return Measured(_mean(classes), mean, errors, n, float(np.mean(voxels)), counts, _mean(dices))


def cleaned_labels(labels: np.ndarray, moved: np.ndarray, concerned: np.ndarray, self_training: bool) -> np.ndarray:
    """The labels that the next network starts from: the predictions, moved.

    Parameters
    ----------
    labels : (*spatial) as the run started from, with IGNORE, which stays.
    moved : (K, *spatial) probabilities after correction.
    concerned : (K,) bool, classes whose boundaries were moved.
    self_training : True, as published, for the prediction in all classes; False to leave the labels
        where neither they nor the prediction show a class that was moved.
    """
    new = moved.argmax(0).astype(labels.dtype)
    if not self_training:
        flags = np.append(concerned, np.zeros(IGNORE + 1 - len(concerned), bool))
        new = np.where(flags[labels] | flags[new], new, labels)
    new[labels == IGNORE] = IGNORE
    return new


class SpatialCorrection(Method):
    """Learn, measure the bias on verified cases, move the labels back by it, start again."""

    name = "spatial-correction"
    title = "Boundaries moved back by their measured bias (Spatial Correction)"
    source = "Yao et al., ICLR 2023"
    needs_reference = True

    def __init__(
        self,
        dice_weight: float = 1.0,
        gamma: float = 1.0,
        class_gamma: Mapping[str, float] = MappingProxyType({}),
        cleanings: int = 3,
        first: float = 0.4,
        period: float = 0.2,
        guard: float = 1.0,
        least: float = 0.4,
        until_unbiased: bool = True,
        move: str = "boundary",
        peak: float = 100.0,
        cap: float = 0.5,
        keep_components: bool = True,
        self_training: bool = True,
        shared_divisor: bool = False,
        thick: float = 3.0,
        shared_errors: bool = True,
    ) -> None:
        self.dice_weight, self.gamma, self.class_gamma = dice_weight, gamma, class_gamma
        self.cleanings, self.first, self.period = cleanings, first, period
        self.guard, self.least, self.until_unbiased = guard, least, until_unbiased
        self.move, self.peak, self.cap, self.keep_components = move, peak, cap, keep_components
        self.self_training, self.shared_divisor, self.thick = self_training, shared_divisor, thick
        self.shared_errors = shared_errors
        self.looks_at_labels = shared_errors and move == "boundary"
        self._found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._habits: dict[str, Habit] = {}
        self._measured: dict[str, Measured] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._dice_moved: dict[str, np.ndarray] = {}
        self._cleaned = 0
        self._changed: dict[str, float] = {}
        self._tables: dict[str, list[Any]] = {}

    def stages(self, epochs: int) -> tuple[Stage, ...]:
        """A stretch before each cleaning that there may be, and what is left of the epochs after the last."""
        lengths = [max(1, round(share * epochs)) for share in (self.first, *[self.period] * (self.cleanings - 1))]
        while sum(lengths) >= epochs:
            lengths.pop()
        names = [f"until cleaning {i + 1}" for i in range(len(lengths))] + ["last"]
        return tuple(Stage(name, n) for name, n in zip(names, [*lengths, epochs - sum(lengths)], strict=True))

    def on_run_start(self, run: FoldRun) -> None:
        self._names = {t.name: t.classes for t in run.tracks}

    def on_epoch_start(self, run: FoldRun) -> None:
        if run.first_epoch_of_stage and run.epoch:
            self._measure(run, run.reference_ids)
            if not self.until_unbiased or any(self._is_far_off(t.name) for t in run.tracks):
                self._clean(run)
                run.restart()

    def loss(self, run: FoldRun, batch: Batch) -> Tensor:
        logits = run.networks[0](batch.images).logits
        losses = [
            segmentation_loss(logits[t.name], batch.working[t.name], batch.weight[t.name], self.dice_weight)
            for t in run.tracks
        ]
        return sum(losses[1:], losses[0])

    def on_epoch_end(self, run: FoldRun) -> None:
        last = run.epoch == run.epochs - 1
        self._measure(run, run.reference_ids if last else run.reference_ids[:CURVE_CASES])
        if last and self.looks_at_labels and any(found.any() for found, _ in self._found.values()):
            self._look_at_labels(run)

    def state_dict(self) -> dict[str, Any]:
        return {
            "measured": {track: asdict(m) for track, m in self._measured.items()},
            "dice_moved": dict(self._dice_moved),
            "found": {track: list(found) for track, found in self._found.items()},
            "habits": {track: asdict(habit) for track, habit in self._habits.items()},
            "cleaned": self._cleaned,
            "changed": dict(self._changed),
            "tables": dict(self._tables),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._measured = {track: Measured(**m) for track, m in state["measured"].items()}
        self._dice_moved, self._cleaned = dict(state["dice_moved"]), state["cleaned"]
        self._changed, self._tables = dict(state["changed"]), dict(state["tables"])
        self._found = {track: (found[0], found[1]) for track, found in state["found"].items()}
        self._habits = {track: Habit(**habit) for track, habit in state["habits"].items()}

    def corrected(self, evidence: Evidence) -> np.ndarray:
        """Without the bias that the last network still has."""
        moved, concerned = self._moved(evidence.track.name, evidence.probs, evidence.spacing)
        return moved if concerned.any() else evidence.probs

    def systematic(self, evidence: Evidence) -> np.ndarray | None:
        """Of what labels share, as much as this label shows; `evidence` has the corrected probabilities."""
        habit = self._habits.get(evidence.track.name)
        if habit is None or not habit.shared.any():
            return None
        return as_pairs(habit, follows(habit, self._displacement(evidence.labels, evidence.probs, evidence.spacing)))

    def inner(self) -> list[InnerState]:
        shown = [s for track in self._measured for s in self._shown(track)]
        done = Curve("cleanings", {"cleanings": float(self._cleaned)})
        return [*shown, done, Curve("share of voxels changed by the last cleaning", dict(self._changed))]

    # ------------------------------------------------------------ measuring and cleaning

    def _measure(self, run: FoldRun, cases: Sequence[str]) -> None:
        predictions = list(run.predict(cases=cases))
        spacings = [run.spacing[p.case] for p in predictions]
        for track in run.tracks:
            probs = [p.probs[track.name] for p in predictions]
            truths = [np.asarray(run.labels[p.case][track.name]) for p in predictions]
            guesses = [p.argmax(0).astype(np.uint8) for p in probs]
            halved = self.move == "boundary"
            self._measured[track.name] = measured(guesses, truths, spacings, track.n_classes, self.thick, halved)
            after = [self._moved(track.name, p, s)[0].argmax(0) for p, s in zip(probs, spacings, strict=True)]
            self._dice_moved[track.name] = _mean(
                dice_per_class(np.where(t == IGNORE, IGNORE, a), t, track.n_classes)
                for a, t in zip(after, truths, strict=True)
            )
            if halved and not self._cleaned:  # of networks that know the labels as they were given
                self._found[track.name] = self._shifts(track.name)[:, 0], self._measured[track.name].n_cases[:, 0]

    def _look_at_labels(self, run: FoldRun) -> None:
        """What the labels of the training cases share, seen from the last network without its bias."""
        rows: dict[str, list[np.ndarray]] = {t.name: [] for t in run.tracks}
        for p in run.predict():
            for track in run.tracks:
                moved, _ = self._moved(track.name, p.probs[track.name], run.spacing[p.case])
                labels = np.asarray(run.labels[p.case][track.name])
                rows[track.name].append(self._displacement(labels, moved, run.spacing[p.case]))
        for name, own in rows.items():
            self._habits[name] = shared_habit(np.array(own), *self._found[name], self._measured[name].voxel)

    def _displacement(self, labels: np.ndarray, probs: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        opinion = probs.argmax(0).astype(np.uint8)
        box = _with_room((opinion > 0) | ((labels > 0) & (labels != IGNORE)))
        axis = thick_axis(spacing, self.thick)
        return label_displacement(labels[box], opinion[box], len(probs), spacing, axis)

    def _clean(self, run: FoldRun) -> None:
        """Replace the working labels of all training cases by their predictions, moved."""
        rows: dict[str, list[Any]] = {t.name: [] for t in run.tracks}
        voxels = dict.fromkeys(rows, 0)
        changed = dict.fromkeys(rows, 0)
        for p in run.predict():
            spacing = run.spacing[p.case]
            for track in run.tracks:
                labels, old = np.asarray(run.labels[p.case][track.name]), run.working_labels[p.case][track.name]
                moved, concerned = self._moved(track.name, p.probs[track.name], spacing)
                new = cleaned_labels(labels, moved, concerned, self.self_training)
                rows[track.name].append([p.case, *_changes(labels, new, track, spacing)])
                voxels[track.name] += new.size
                changed[track.name] += int((new != old).sum())
                run.working_labels[p.case][track.name] = new
        self._cleaned += 1
        self._changed = {track: changed[track] / voxels[track] for track in rows}
        self._tables = {t: sorted(r, key=lambda row: -max(map(abs, row[1::2])))[:LISTED] for t, r in rows.items()}

    def _is_far_off(self, track: str) -> bool:
        """True where a boundary is off by the guard or more: worth a new start."""
        return bool((np.abs(self._shifts(track)) >= self.guard * self._measured[track].voxel).any())

    def _shifts(self, track: str) -> np.ndarray:
        """What is to be taken back, in mm: (K, K) per border or (K,) per class; 0 for what is off by too little."""
        m, gammas = self._measured[track], self._gamma(track)
        if self.move == "boundary":
            pairs = 0.5 * (gammas + gammas[:, None])
            pairs[0], pairs[:, 0] = gammas, gammas  # a border with background is that of the other class
            sure = np.abs(m.borders) >= SURE * m.errors
            sure[1:, 1:] &= m.n_cases[1:, 1:] >= FEW_CASES
            bias = np.where(sure, pairs * m.borders, 0)
        else:
            bias = gammas * m.classes / (len(m.classes) - 1 if self.shared_divisor else 1)
        bias = np.nan_to_num(bias)
        return np.where(np.abs(bias) >= self.least * m.voxel, bias, 0)

    def _moved(self, track: str, probs: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """The probabilities after correction, and (K,) which classes it concerns."""
        shifts = self._shifts(track) if track in self._measured else np.zeros(len(probs))
        axis = thick_axis(spacing, self.thick)
        shifts = np.where(np.abs(shifts) >= self.least * voxel_size(spacing, axis), shifts, 0)
        if self.cap:
            shifts = capped(shifts, probs.argmax(0), spacing, axis, self.cap)
        concerned: np.ndarray = np.any(shifts.reshape(len(probs), -1), axis=1)
        concerned[0] = False
        if not concerned.any():
            return probs, concerned
        if self.move == "boundary":
            moved = carried(probs, shifts, spacing, axis)
        else:
            moved = bumped_probs(probs, shifts, spacing, axis, self.peak)
        return (kept(probs, moved) if self.keep_components else moved), concerned

    def _gamma(self, track: str) -> np.ndarray:
        """(K,) gamma of each class; "TRACK/CLASS" before "CLASS" before the one for all."""
        own = (self.class_gamma.get(f"{track}/{c}", self.class_gamma.get(c, self.gamma)) for c in self._names[track])
        return np.array(list(own))

    # ------------------------------------------------------------ what is shown

    def _shown(self, track: str) -> Iterable[InnerState]:
        m, names = self._measured[track], self._names[track]
        bias = self._series(track)
        low, high, _ = HISTOGRAM
        yield Curve(f"boundary bias of {track}", {k: _or_none(v) for k, (v, _) in bias.items()}, "mm")
        in_voxels = {k: _or_none(v / m.voxel) for k, (v, _) in bias.items()}
        yield Curve(f"boundary bias of {track}, in voxels", in_voxels, "voxels")
        dice = {f"{n}, predicted": _or_none(m.dice[k]) for k, n in enumerate(names) if k}
        moved = {f"{n}, corrected": _or_none(self._dice_moved[track][k]) for k, n in enumerate(names) if k}
        yield Curve(f"Dice of verified cases, {track}", dice | moved)
        for k, name in enumerate(names):
            if k and m.counts[k].any():
                counts = {f"{track}/{name}": tuple(int(n) for n in m.counts[k])}
                mark = _or_none(m.classes[k])
                yield Mixtures(
                    f"predicted boundary over the true outer ring, {track}/{name}", low * m.voxel, high * m.voxel,
                    counts, {}, mark, "mm",
                )  # fmt: skip
        if self._tables.get(track):
            rows = self._tables[track]
            columns = tuple(f"{name} {what}" for name in names[1:] for what in ("volume %", "hd95 mm"))
            cells = tuple(tuple(float(v) for v in row[1:]) for row in rows)
            yield Matrix(f"largest changes of the last cleaning, {track}", tuple(r[0] for r in rows), columns, cells)
        if track in self._habits:
            shared = self._habits[track].shared / m.voxel
            values = {name: float(shared[k]) for k, name in enumerate(names) if k}
            yield Curve(f"displacement that labels of {track} share, in voxels", values, "voxels")
        yield Note(f"correction of {track}", self._sentence(track))

    def _series(self, track: str) -> dict[str, tuple[float, float]]:
        """By name, in mm: the bias that was measured, and what of it is taken back.

        Of each class, with background where borders are moved; then of the borders between classes.
        """
        m, names, shifts = self._measured[track], self._names[track], self._shifts(track)
        own = range(1, len(names))
        if self.move != "boundary":
            return {names[k]: (m.classes[k], shifts[k]) for k in own}
        found = {names[k]: (m.borders[k, 0], shifts[k, 0]) for k in own}
        pairs = [(c, k) for c in own for k in own if c < k and np.isfinite(m.borders[c, k])]
        return found | {f"{names[c]} | {names[k]}": (m.borders[c, k], shifts[c, k]) for c, k in pairs}

    def _sentence(self, track: str) -> str:
        series, voxel = self._series(track), self._measured[track].voxel
        moved = [f"{name} {shift / voxel:+.1f}" for name, (_, shift) in series.items() if shift]
        unseen = [name for name, (bias, _) in series.items() if not np.isfinite(bias)]
        said = f"{self._cleaned} cleanings; " + (
            f"boundaries off by, in voxels (minus: too large): {', '.join(moved)}"
            if moved
            else f"no boundary is surely off by {self.least:g} voxels or more"
        )
        habit = self._habits.get(track)
        shared = {} if habit is None else dict(zip(self._names[track], habit.shared / voxel, strict=True))
        common = [f"{name} {s:+.1f}" for name, s in shared.items() if s]
        said += f"; labels share, in voxels (minus: too large): {', '.join(common)}" if common else ""
        return said + (f"; not measured, and left alone: {', '.join(unseen)}" if unseen else "")


# ---------------------------------------------------------------- helpers, in order of use


def _with_room(mask: np.ndarray) -> tuple[slice, ...]:
    """The bounding box of `mask`, wide enough that no distance across a boundary in it changes."""
    if not mask.any():
        return (slice(None),) * mask.ndim
    return tuple(slice(max(0, b.start - 2), b.stop + 2) for b in bounding_box(mask))


def _mean(rows: Iterable[np.ndarray]) -> np.ndarray:
    """Mean over the first axis without NaN; NaN where there is nothing else."""
    table = np.array(list(rows), float)
    known = np.isfinite(table)
    total = np.where(known, table, 0).sum(0)
    return np.divide(total, known.sum(0), out=np.full(table.shape[1:], np.nan), where=known.any(0))


def _changes(labels: np.ndarray, new: np.ndarray, track: Track, spacing: Sequence[float]) -> list[float]:
    """Per foreground class: change of volume in percent (-100: it vanished), hd95 in mm; 0 where undefined."""
    out = []
    for k in range(1, track.n_classes):
        before, after = labels == k, new == k
        n = int(before.sum())
        out += [100 * (int(after.sum()) - n) / n if n else 0.0, float(np.nan_to_num(hd95(before, after, spacing)))]
    return out


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
