"""What self-cleansing shows of itself: its mixtures, its most suspicious objects, what it changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np

from napari_noisylabel.arrays.mixture import Mixture
from napari_noisylabel.inner import Curve, InnerState, Matrix, Mixtures, Note
from napari_noisylabel.methods.cleansing import POOLED, FilterResult, threshold_of
from napari_noisylabel.records import IGNORE, MixtureFit, Track

BINS = 40
LISTED = 10


def shown_filter(
    track: Track, what: str, scores: np.ndarray, classes: np.ndarray, result: FilterResult, tau: float
) -> list[InnerState]:
    """A histogram with its fit per class (and of all classes, where they were pooled), clean shares, gaps, reasons.

    `what` the samples are ("objects", "pieces"); scores, classes (N,).
    """
    shown: list[InnerState] = []
    for name, fit in result.fits.items():
        own = scores if name == POOLED else scores[classes == int(name)]
        series = name if name == POOLED else track.classes[int(name)]
        low, high = float(own.min()), float(own.max())
        high = high if high > low else low + 1.0
        counts = np.histogram(own, BINS, (low, high))[0]
        shown.append(
            Mixtures(
                f"scores of {what}, {track.name}/{series}", low, high, {series: tuple(int(c) for c in counts)},
                {series: as_record(fit)}, threshold_of(fit, tau),
            )
        )  # fmt: skip
    names = {k: f"{track.name}/{track.classes[k]}" for k in range(1, track.n_classes)}
    clean = {n: float((result.noisy[classes == k] <= 1 - tau).mean()) for k, n in names.items() if (classes == k).any()}
    gaps = {f"{track.name}/{n if n == POOLED else track.classes[int(n)]}": gap(fit) for n, fit in result.fits.items()}
    return [
        *shown,
        Curve(f"share of {what} called clean", clean),
        Curve(f"gap between the two humps of {what}", gaps, "sd"),
        Note(f"filter of {what}, {track.name}", "; ".join(result.reasons[1:])),
    ]


def gap(fit: Mixture) -> float | None:
    """How far apart the two means are, in pooled standard deviations, split or not; None where nothing was fitted."""
    spread = float(np.sqrt(np.mean(np.square(fit.sds))))
    return (fit.means[1] - fit.means[0]) / spread if spread > 0 else None


def shown_ranking(
    track: Track, cases: Sequence[str], classes: np.ndarray, kinds: Sequence[str], noisy: np.ndarray,
    scores: np.ndarray, mm3: np.ndarray,
) -> Matrix:  # fmt: skip
    """The most suspicious objects first. One entry per object in each argument."""
    order = np.lexsort((-scores, -noisy))[:LISTED]
    return Matrix(
        f"most suspicious objects, {track.name}",
        tuple(f"{cases[i]}, {track.classes[classes[i]]} ({kinds[i]})" for i in order),
        ("P(noisy)", "score", "ml"),
        tuple((float(noisy[i]), float(scores[i]), float(mm3[i] / 1000)) for i in order),
    )


def shown_changes(
    track: Track, labels: Sequence[np.ndarray], pseudo: Sequence[np.ndarray], voxels_mm3: Sequence[float]
) -> list[InnerState]:
    """How many ml each class won and lost by cleansing over all cases, and which share of voxels is left out."""
    ml: dict[str, float] = {}
    for k in range(1, track.n_classes):
        pairs = list(zip(labels, pseudo, voxels_mm3, strict=True))
        added = sum(float(((b == k) & (a != k)).sum()) * v for a, b, v in pairs)
        removed = sum(float(((a == k) & (b != k) & (b != IGNORE)).sum()) * v for a, b, v in pairs)
        ml |= {f"{track.classes[k]} added": added / 1000, f"{track.classes[k]} removed": removed / 1000}
    left_out = sum(int(((b == IGNORE) & (a != IGNORE)).sum()) for a, b in zip(labels, pseudo, strict=True))
    share = left_out / max(1, sum(a.size for a in labels))
    return [
        Curve(f"changed by cleansing, {track.name}", ml, "ml"),
        Curve("share of voxels left out", {track.name: share}),
    ]


def shown_losses(track: Track, deleted: Sequence[tuple[str, int, float]], spared: int) -> list[Note]:
    """A sentence on the labelled objects (case, class, mm3) that pseudo labels delete, and on those over the cap."""
    if not deleted and not spared:
        return []
    listed = [f"{track.classes[k]} of {mm3 / 1000:.2g} ml in {case}" for case, k, mm3 in deleted[:LISTED]]
    more = f" and {len(deleted) - LISTED} more" if len(deleted) > LISTED else ""
    text = f"pseudo labels delete {', '.join(listed) or 'no object'}{more}"
    text += f"; {spared} further ones are left out of the training instead" if spared else ""
    return [Note(f"objects deleted, {track.name}", f"{text}. Look at these cases.")]


def as_record(fit: Mixture) -> MixtureFit:
    """The part of a mixture that is drawn."""
    values: Mapping[str, object] = vars(fit)
    return MixtureFit(**{f.name: values[f.name] for f in fields(MixtureFit)})  # type: ignore[arg-type]
