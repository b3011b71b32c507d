"""What a sieve decided in evaluation passes over some cases of a fold, and how that is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from napari_noisylabel.inner import Curve, InnerState, Matrix, Mixtures, Note
from napari_noisylabel.methods.base import FoldRun
from napari_noisylabel.records import IGNORE, Track

SHOWN_CASES = 6
"""Cases that each epoch's pass looks at: the sieve's figures need no more, and a pass over all takes time."""
SAMPLES = 2000
"""Voxels per class and case whose decisions are remembered."""
LAST = 10  # epochs that the frequency of rejection is over, as in the publication's analysis
RANGE, BINS = 10.0, 40  # of the histogram of scores, in nats
EMPTIED = 0.1  # share kept under which a class counts as emptied, where the sieve lets no class pass

Score = Callable[[np.ndarray, np.ndarray, tuple[float, ...]], np.ndarray]


class SieveRecord:
    """Kept shares, histograms of the score, and how often some voxels of each class were rejected of late.

    Whole maps of counts would take as much memory as all labels of the fold: only a sample of
    voxels keeps its last ten decisions, as bits.
    """

    def __init__(self, margin: float = 0.0, keep_at_least: float = 0.0) -> None:
        self.margin, self.keep_at_least = margin, keep_at_least
        self._tracks: tuple[Track, ...] = ()
        self._samples: dict[str, dict[str, np.ndarray]] = {}
        self._decisions: dict[str, dict[str, np.ndarray]] = {}
        self._looks = 0
        self._shown: list[InnerState] = []

    def start(self, run: FoldRun) -> None:
        """Choose cases and voxels."""
        self._tracks = run.tracks
        cases = run.case_ids[:: -(-len(run.case_ids) // SHOWN_CASES)]
        rng = np.random.default_rng(0)
        for case in cases:
            self._samples[case] = {t.name: _sample(*_open(run, case, t), t.n_classes, rng) for t in run.tracks}
        self._decisions = {
            c: {t: np.zeros(len(v), np.int32) for t, v in own.items()} for c, own in self._samples.items()
        }

    def look(self, run: FoldRun, score: Score) -> None:
        """An evaluation pass over the chosen cases; what was verified has no part in the figures."""
        sums = {t.name: _Sums(t.n_classes) for t in run.tracks}
        for prediction in run.predict(list(self._samples)):
            case = prediction.case
            for track in run.tracks:
                labels, counts = _open(run, case, track)
                probs = prediction.probs[track.name]
                s = score(probs, labels, run.spacing[case])
                rejected = s > -self.margin
                sums[track.name].add(labels[counts], s[counts], rejected[counts], probs.argmax(0)[counts])
                bits = self._decisions[case][track.name]
                now = rejected.reshape(-1)[self._samples[case][track.name]]
                self._decisions[case][track.name] = ((bits << 1) | now) & ((1 << LAST) - 1)
        self._looks += 1
        self._shown = [item for t in run.tracks for item in self._describe(run, t, sums[t.name])]

    def inner(self) -> list[InnerState]:
        """Of the last pass."""
        return list(self._shown)

    def state_dict(self) -> dict[str, Any]:
        return {"decisions": self._decisions, "looks": self._looks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._decisions = {case: dict(own) for case, own in state["decisions"].items()}
        self._looks = state["looks"]

    def _describe(self, run: FoldRun, track: Track, sums: _Sums) -> list[InnerState]:
        names, given = [f"{track.name}/{c}" for c in track.classes], sums.table.sum((0, 1))
        shares = dict(zip(names, _shares(sums.table[0].sum(0), given), strict=True))
        guessed = dict(zip(names, _shares(sums.table.sum((0, 2)), np.full(len(given), given.sum())), strict=True))
        histograms = {n: tuple(int(v) for v in h) for n, h in zip(names, sums.histogram, strict=True)}
        rejected = sums.table[1].T  # given x predicted
        shown: list[InnerState] = [
            Curve(f"kept share of {track.name}", shares),
            Curve(f"share of voxels predicted of {track.name}", guessed),
            Mixtures(f"sieve score of {track.name}", -RANGE, RANGE, histograms, threshold=-self.margin, unit="nats"),
            Mixtures(f"rejected in the last {LAST} epochs of {track.name}", 0.0, 1.0, self._frequencies(run, track)),
            Matrix(
                f"rejected of {track.name}: given class by predicted class", track.classes, track.classes,
                tuple(tuple(float(v) for v in row) for row in rejected),
            ),
        ]  # fmt: skip
        return shown + [Note(f"sieve of {track.name}", text) for text in _warnings(shares, guessed, self.keep_at_least)]

    def _frequencies(self, run: FoldRun, track: Track) -> dict[str, tuple[int, ...]]:
        """Per class, sampled voxels by the share of the last passes in which they were rejected: never .. always."""
        passes = min(LAST, self._looks)
        counts = np.zeros((track.n_classes, LAST + 1), np.int64)
        for case, own in self._samples.items():
            labels = np.asarray(run.labels[case][track.name]).reshape(-1)[own[track.name]]
            bits = self._decisions[case][track.name]
            often = sum(((bits >> i) & 1 for i in range(LAST)), np.zeros(len(bits), np.int64))
            bins = np.minimum(LAST, often * (LAST + 1) // max(passes, 1))
            np.add.at(counts, (labels, bins), 1)
        return {f"{track.name}/{c}": tuple(int(v) for v in row) for c, row in zip(track.classes, counts, strict=True)}


class _Sums:
    """Over cases: table[rejected, predicted, given] of voxels, and histograms of s per given class."""

    def __init__(self, n_classes: int) -> None:
        self.table = np.zeros((2, n_classes, n_classes), np.int64)
        self.histogram = np.zeros((n_classes, BINS), np.int64)

    def add(self, labels: np.ndarray, s: np.ndarray, rejected: np.ndarray, predicted: np.ndarray) -> None:
        n = len(self.histogram)
        given = labels.astype(np.int64)
        code = (rejected * n + predicted) * n + given
        self.table += np.bincount(code, minlength=2 * n * n).reshape(2, n, n)
        bins = np.clip(((s + RANGE) * (BINS / (2 * RANGE))).astype(np.int64), 0, BINS - 1)
        self.histogram += np.bincount(given * BINS + bins, minlength=n * BINS).reshape(n, BINS)


# ---------------------------------------------------------------- helpers, in order of use


def _open(run: FoldRun, case: str, track: Track) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a case, and where they are neither ignored nor verified; (*spatial) both."""
    labels, verified = np.asarray(run.labels[case][track.name]), run.verified[case][track.name]
    known = labels != IGNORE
    return labels, known if verified is None else known & ~verified


def _sample(labels: np.ndarray, counts: np.ndarray, n_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Flat indices of up to SAMPLES voxels of each class, in order."""
    chosen = []
    for k in range(n_classes):
        flat = np.flatnonzero((labels == k) & counts)
        chosen.append(rng.choice(flat, SAMPLES, replace=False) if flat.size > SAMPLES else flat)
    return np.sort(np.concatenate(chosen))


def _shares(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
    return [float(a / b) if b else None for a, b in zip(part, whole, strict=True)]


def _warnings(kept: Mapping[str, float | None], guessed: Mapping[str, float | None], keep_at_least: float) -> list[str]:
    found = []
    least = keep_at_least or EMPTIED
    emptied = [name for name, share in kept.items() if share is not None and share < least]
    if emptied:
        then = "the sieve lets it pass for now" if keep_at_least else "a smaller beta or a later sieve may keep it"
        found.append(
            f"the network supports less than {least:.0%} of the labels of {', '.join(emptied)}, which does not mean "
            f"that they are wrong: {then}"
        )
    gone = [n for n, share in guessed.items() if share == 0 and kept[n] is not None and n not in emptied]
    if gone:
        found.append(f"the network predicts {', '.join(gone)} nowhere: a smaller or later beta may bring it back")
    return found
