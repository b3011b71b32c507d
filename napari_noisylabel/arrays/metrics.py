"""How well two label maps agree, and how well a score finds the wrong voxels.

Every measure is NaN where it is undefined; nothing is made up for a class that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from napari_noisylabel.arrays.distance import check_spacing, distance
from napari_noisylabel.arrays.labels import BLOCK, bounding_box
from napari_noisylabel.errors import InputError, ShapeMismatch

IGNORE = 255  # `records.IGNORE`, which this room may not import

# ---------------------------------------------------------------- overlap


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Twice the intersection over the sum of both sizes, in [0, 1].

    `a`, `b` are (*spatial) bool. Both empty gives NaN.

    Raises
    ------
    ShapeMismatch : `a` and `b` differ in shape.

    Source: Dice, "Measures of the Amount of Ecologic Association Between Species", 1945.
    """
    both, in_a, in_b = _overlap(a, b)
    return _ratio(2 * both, in_a + in_b)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union, in [0, 1].

    `a`, `b` are (*spatial) bool. Both empty gives NaN.

    Raises
    ------
    ShapeMismatch : `a` and `b` differ in shape.

    Source: Jaccard, "The Distribution of the Flora in the Alpine Zone", 1912.
    """
    both, in_a, in_b = _overlap(a, b)
    return _ratio(both, in_a + in_b - both)


def confusion_matrix(labels: np.ndarray, truth: np.ndarray, n_classes: int) -> np.ndarray:
    """How often class i in `labels` is class j in `truth`.

    Parameters
    ----------
    labels, truth : (*spatial) integer class indices. Voxels where either is `n_classes` or more,
        which includes those without annotation, are left out.

    Returns
    -------
    (K, K) int64.

    Raises
    ------
    ShapeMismatch : `labels` and `truth` differ in shape.
    """
    _check_shapes(labels, truth, "labels", "truth")
    counts = np.zeros(n_classes * n_classes, dtype=np.int64)
    for given, true in _blocks(labels, truth):
        known = (given < n_classes) & (true < n_classes)
        pairs = given[known].astype(np.int64) * n_classes + true[known]
        counts += np.bincount(pairs, minlength=counts.size)
    return counts.reshape(n_classes, n_classes)


def dice_per_class(labels: np.ndarray, truth: np.ndarray, n_classes: int) -> np.ndarray:
    """(K,) float64: Dice of each class, background first; NaN for a class that is in neither.

    Arguments and exceptions are those of `confusion_matrix`.
    """
    matrix = confusion_matrix(labels, truth, n_classes)
    return _ratios(2 * np.diag(matrix), matrix.sum(0) + matrix.sum(1))


def iou_per_class(labels: np.ndarray, truth: np.ndarray, n_classes: int) -> np.ndarray:
    """(K,) float64: IoU of each class, background first; NaN for a class that is in neither.

    Arguments and exceptions are those of `confusion_matrix`.
    """
    matrix = confusion_matrix(labels, truth, n_classes)
    return _ratios(np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix))


def error_rate(labels: np.ndarray, truth: np.ndarray, ignore: int = IGNORE) -> float:
    """Share of voxels whose label is wrong, in [0, 1]: the average precision of a blind score.

    `labels`, `truth` are (*spatial) class indices; voxels where either is `ignore` do not count.
    Without any voxel that counts: NaN.

    Raises
    ------
    ShapeMismatch : `labels` and `truth` differ in shape.
    """
    _check_shapes(labels, truth, "labels", "truth")
    known = wrong = 0
    for given, true in _blocks(labels, truth):
        counts = (given != ignore) & (true != ignore)
        known += int(np.count_nonzero(counts))
        wrong += int(np.count_nonzero(counts & (given != true)))
    return _ratio(wrong, known)


# ---------------------------------------------------------------- distance


def signed_distance(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance of every voxel to the boundary of `mask`, negative inside.

    Parameters
    ----------
    mask : (*spatial) bool
    spacing : mm per voxel, one value per axis of `mask`, in array order.

    Returns
    -------
    (*spatial) float32, in mm. No voxel is 0: distances run between voxel centres.
    An empty mask gives +inf everywhere, a full one -inf.

    Raises
    ------
    ShapeMismatch : `spacing` does not have one value per axis.

    Source: sign as in Yao et al., "A Spatial Correction Approach", ICLR 2023.
    """
    return distance(np.logical_not(mask), spacing) - distance(mask, spacing)


def hd95(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> float:
    """The distance in mm within which 95 % of each surface lies to the other one.

    Surfaces are the voxels with a face neighbour outside, and the border of the array is
    outside. Of the two directions the larger percentile counts. One or both empty: NaN.

    Raises
    ------
    ShapeMismatch : `a` and `b` differ in shape, or `spacing` does not fit them.

    Source: Huttenlocher et al., TPAMI 1993; 95th percentile per direction as in MONAI.
    """
    to_b, to_a = surface_distances(a, b, spacing)
    if not to_b.size or not to_a.size:
        return float("nan")
    return float(max(np.percentile(to_b, 95), np.percentile(to_a, 95)))


def assd(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> float:
    """Mean distance in mm from each surface to the other, over the voxels of both surfaces.

    Surfaces as in `hd95`. One or both empty: NaN.

    Raises
    ------
    ShapeMismatch : `a` and `b` differ in shape, or `spacing` does not fit them.

    Source: Heimann et al., "Comparison and Evaluation of Methods for Liver Segmentation", 2009.
    """
    to_b, to_a = surface_distances(a, b, spacing)
    if not to_b.size or not to_a.size:
        return float("nan")
    return float(np.concatenate([to_b, to_a]).mean(dtype=np.float64))


def surface_distances(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """From every surface voxel of `a` to the surface of `b`, and the other way round.

    Two float32 arrays in mm, in C order; both without elements where `a` or `b` is empty.

    Raises
    ------
    ShapeMismatch : `a` and `b` differ in shape, or `spacing` does not fit them.
    """
    _check_shapes(a, b, "one mask", "the other")
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    check_spacing(a, spacing)
    box = bounding_box(a | b)
    surface_a, surface_b = surface(a[box]), surface(b[box])
    if not surface_a.any() or not surface_b.any():
        return np.empty(0, np.float32), np.empty(0, np.float32)
    return distance(~surface_b, spacing)[surface_a], distance(~surface_a, spacing)[surface_b]


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of `mask` (*spatial) bool with a face neighbour outside it or outside the array."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        along, inside = np.moveaxis(mask, axis, 0), np.moveaxis(inner, axis, 0)
        inside[1:] &= along[:-1]
        inside[:-1] &= along[1:]
        inside[:1] = inside[-1:] = False
    return mask & ~inner


def per_class(
    measure: Callable[..., float], labels: np.ndarray, truth: np.ndarray, n_classes: int, *arguments: object
) -> np.ndarray:
    """(K,) float64: `measure(labels == k, truth == k, *arguments)` of each class k.

    `per_class(hd95, labels, truth, track.n_classes, spacing)`. Voxels without annotation
    (`IGNORE`) in either belong to no class in both. Background comes first.

    Raises
    ------
    ShapeMismatch : `labels` and `truth` differ in shape.
    """
    _check_shapes(labels, truth, "labels", "truth")
    known = (labels != IGNORE) & (truth != IGNORE)
    pairs = (((labels == k) & known, (truth == k) & known) for k in range(n_classes))
    return np.array([measure(a, b, *arguments) for a, b in pairs], dtype=np.float64)


# ---------------------------------------------------------------- ranking


def average_precision(score: np.ndarray, wrong: np.ndarray) -> float:
    """Mean precision over the wrong voxels, going down from the highest score, in [0, 1].

    Parameters
    ----------
    score : any shape, high = suspicious. Whole numbers up to uint16 are counted, others sorted;
        both are exact. Equal scores are taken together.
    wrong : bool, same shape: True where the label is wrong.

    Returns
    -------
    The area under the precision-recall steps, without interpolation; NaN if nothing is wrong.
    A score that knows nothing has the share of wrong voxels.

    Raises
    ------
    ShapeMismatch : `score` and `wrong` differ in shape.
    InputError : a score is NaN.

    Source: Davis and Goadrich, ICML 2006; steps as in scikit-learn.
    """
    return precision_over_counts(*count_scores(score, wrong))


def precision_over_counts(hits: np.ndarray, misses: np.ndarray) -> float:
    """`average_precision` from wrong and right voxels per distinct score, ascending.

    Counts of several cases can be added up first (`count_scores`).
    """
    found = np.cumsum(hits[::-1])
    seen = found + np.cumsum(misses[::-1])
    precision = np.divide(found, seen, out=np.zeros(seen.size), where=seen > 0)
    return _ratio(float(precision @ hits[::-1]), float(hits.sum()))


def auroc(score: np.ndarray, wrong: np.ndarray) -> float:
    """Chance that a wrong voxel has a higher score than a right one; equal scores count half.

    Arguments and exceptions are those of `average_precision`. NaN where all voxels are wrong,
    or none.

    Source: Hanley and McNeil, Radiology 1982.
    """
    return area_under_roc(*count_scores(score, wrong))


def area_under_roc(hits: np.ndarray, misses: np.ndarray) -> float:
    """`auroc` from wrong and right voxels per distinct score, ascending."""
    below = np.cumsum(misses) - misses / 2
    return _ratio(float(below @ hits), float(hits.sum()) * float(misses.sum()))


def count_scores(score: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wrong and right voxels per distinct score, ascending; some counts may be 0 and 0.

    Of bool, uint8 and uint16 scores there is one count per value of the type: those of several
    cases can be added up. Arguments and exceptions are those of `average_precision`.
    """
    score, wrong = np.asarray(score), np.asarray(wrong, dtype=bool)
    _check_shapes(score, wrong, "score", "wrong voxels")
    if score.dtype in (np.bool_, np.uint8, np.uint16):
        return _counted(score, wrong)
    return _sorted(score[wrong], score[~wrong])


# ---------------------------------------------------------------- helpers


def _overlap(a: np.ndarray, b: np.ndarray) -> tuple[int, int, int]:
    _check_shapes(a, b, "one mask", "the other")
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    return int(np.count_nonzero(a & b)), int(np.count_nonzero(a)), int(np.count_nonzero(b))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _ratios(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    return np.divide(parts, wholes, out=np.full(parts.shape, np.nan), where=wholes > 0)


def _blocks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """The same stretch of each array, flat, `BLOCK` elements at a time."""
    flat = [array.reshape(-1) for array in arrays]
    for a in range(0, flat[0].size, BLOCK):
        yield tuple(array[a : a + BLOCK] for array in flat)


def _counted(score: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = np.zeros((2, 1 << 8 * score.itemsize), dtype=np.int64)
    for values, is_wrong in _blocks(score, wrong):
        hits = np.bincount(values[is_wrong], minlength=counts.shape[1])
        counts += hits, np.bincount(values, minlength=counts.shape[1]) - hits
    return counts[0], counts[1]


def _sorted(hits: np.ndarray, misses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Only the scores of wrong voxels are steps; the right ones are counted at and between steps."""
    if np.isnan(hits).any() or np.isnan(misses).any():
        raise InputError("scores must be numbers to be ranked, but some are NaN. Leave those voxels out.")
    steps, counts = np.unique(hits, return_counts=True)
    misses = np.sort(misses)
    at_steps = [np.searchsorted(misses, steps, side=side) for side in ("left", "right")]
    hits_per_score = np.zeros(2 * steps.size + 1, dtype=np.int64)
    hits_per_score[1::2] = counts
    return hits_per_score, np.diff(np.stack(at_steps, axis=1).ravel(), prepend=0, append=misses.size)


def _check_shapes(a: np.ndarray, b: np.ndarray, a_name: str, b_name: str) -> None:
    if a.shape != b.shape:
        raise ShapeMismatch(
            f"{a_name} and {b_name} differ in shape: {a.shape} and {b.shape}. "
            "Compare arrays of the same case and track."
        )
