"""Wrong labels made on purpose, to measure what a method wins back.

    corrupted = corrupt(labels, "boundary", severity=0.5, rng=np.random.default_rng(0))

| name | what goes wrong |
|---|---|
| markov | the contour grows or shrinks by a random front (Yao et al., ICLR 2023), one direction per case |
| one-sided | the same, but all cases and classes grow, or all shrink |
| boundary | each object is dilated or eroded, and its contour waves |
| dilation-erosion | a case is dilated or eroded by one radius per class, without raggedness |
| ellipse | each object is redrawn as an ellipse |
| under-over | all classes of a slice or case too small, or too large, by steps relative to their size |
| missing | whole objects, or a piece of an object, are not drawn |
| false-object | each object has a false companion in the background near it |
| class-swap | objects or pieces carry the name of another class |
| shift | the whole label map has moved |
| symmetric, asymmetric | single voxels carry the name of another class |
| instance | places that look difficult carry the name of a class that depends on their look: needs the image |
| mixed | every class of a case draws one of markov, boundary, missing, false-object |

Severity 0 changes nothing; a severity s aims at a mean Dice of 1 - 0.4 s between spoiled and true labels,
whatever the size of the objects; for symmetric and asymmetric it is the share of wrong voxels, 0.4 s, and
the Dice is what comes of it. The loss of Dice varies from class to class by half of that, up and down
(`spread`). Classes are spoiled one by one and painted in class order. `as-published-NAME` has the parameters
of a paper and no severity (`PUBLISHED`). Measured mean Dice (over cases, then classes) on the training labels
of three data sets, ACDC slice by slice; one-sided while it grows:

| severity | hippocampus .25 .50 .75 | ACDC .25 .50 .75 | BU-BIL cells .25 .50 .75 |
|---|---|---|---|
| markov | 0.89 0.81 0.71 | 0.89 0.79 0.65 | 0.90 0.81 0.70 |
| boundary | 0.91 0.81 0.71 | 0.89 0.77 0.66 | 0.90 0.80 0.70 |
| missing | 0.90 0.80 0.70 | 0.90 0.80 0.70 | 0.90 0.80 0.70 |
| false-object | 0.90 0.80 0.71 | 0.91 0.81 0.71 | 0.90 0.81 0.70 |
| class-swap | 0.90 0.79 0.69 | 0.90 0.80 0.71 | one class |
| shift | 0.91 0.79 0.70 | 0.90 0.80 0.70 | 0.90 0.80 0.70 |
| one-sided | 0.91 0.82 0.71 | 0.87 0.76 0.59 | 0.90 0.80 0.70 |
| dilation-erosion | 0.90 0.80 0.69 | 0.89 0.76 0.63 | 0.90 0.80 0.71 |
| ellipse | 0.90 0.80 0.69 | 0.90 0.79 0.69 | 0.90 0.80 0.71 |
| under-over | 0.89 0.80 0.70 | 0.92 0.81 0.69 | 0.89 0.80 0.70 |
| instance | 0.89 0.81 0.72 | 0.86 0.78 0.67 | 0.86 0.77 0.68 |
| symmetric, asymmetric | 0.48 0.29 0.20 | 0.39 0.23 0.15 | 0.71 0.52 0.39 |
| mixed | 0.89 0.80 0.70 | 0.90 0.78 0.67 | 0.90 0.80 0.70 |

Where Dice stays lower, a growing structure covers a thin neighbour: the myocardium of ACDC (0.55 for
markov and 0.42 for one-sided growth at 0.75). A shift is by whole voxels, so at 0.25 every third hippocampus
stays where it is.

"boundary" and "missing" stand for the two kinds of error that Dong et al., "Deep self-cleansing for
medical image segmentation with noisy labels", Medical Physics 2025, name; they are not its simulators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_noisylabel.arrays.markov import markov
from napari_noisylabel.arrays.noise_case import Case, ClassJob, Grid
from napari_noisylabel.arrays.noise_models import AT_ONCE, BY_CLASS, FLIPS, TO_OTHER_CLASSES, WITH_IMAGE
from napari_noisylabel.arrays.noise_published import PREFIX, PUBLISHED
from napari_noisylabel.arrays.noise_settings import CHOICES, NOISES, RANGES, asked_for, check_name
from napari_noisylabel.errors import BadLabels, BadSetting, ShapeMismatch

__all__ = [
    "CHOICES",
    "NOISES",
    "PREFIX",
    "PUBLISHED",
    "RANGES",
    "Corrupted",
    "check_name",
    "corrupt",
    "markov",
    "needs_all_classes",
    "needs_image",
]


@dataclass(frozen=True, eq=False)
class Corrupted:
    """Spoiled labels, like those that came in, and how they were made (values fit for JSON).

    `errors` is (*spatial) bool: where they differ from the labels that came in.
    """

    labels: np.ndarray
    errors: np.ndarray
    parameters: dict[str, Any]


def corrupt(
    labels: np.ndarray,
    name: str,
    severity: float | None,
    rng: np.random.Generator,
    spacing: Sequence[float] | None = None,
    *,
    image: np.ndarray | None = None,
    per_slice: bool | None = None,
    classes: Sequence[int] | None = None,
    ignore: int | None = None,
    **parameters: Any,
) -> Corrupted:
    """The labels of one case with synthetic noise.

    Parameters
    ----------
    labels : (*spatial) integer, 2-D or 3-D, 0 = background. Not changed.
    name : a noise model, see `NOISES`, or one with the parameters of its paper, see `PUBLISHED`.
    severity : in [0, 1]. 0 changes nothing; s aims at a mean Dice of 1 - 0.4 s, whatever the size
        of the objects; single flips make 0.4 s of the voxels wrong. A case without any labelled voxel
        stays as it is, unless single voxels of the background are flipped. None, and only None, for a
        published setting.
    spacing : mm per voxel, in array order; 1 where it is not known.
    image : (C, *spatial), for models that look at it (`needs_image`).
    per_slice : spoil each slice on its own, across the axis of the largest spacing (the first
        of equals). By default so where spacings differ by a factor of 3 or more, and where the
        published process is one of pictures.
    classes : all classes of the track, for models that give voxels to other classes
        (`needs_all_classes`) and a case that lacks some.
    ignore : value of voxels without annotation; they keep it.
    parameters : of this noise model, see `NOISES`, `RANGES` and `CHOICES`.

    Returns
    -------
    Labels of the same shape and type. Classes are painted in their order, so a class that
    grows covers those before it and is covered by those after it.

    Raises
    ------
    UnknownName : no such noise model.
    BadSetting : severity or a parameter out of range or unknown; class-swap with a single class; a
        model that looks at the image, without one.
    BadLabels, ShapeMismatch : labels that are no label map, spacing or image of another shape.
    """
    check_name(name)
    asked = asked_for(name, severity, parameters)
    _check(labels, spacing, rng)
    _check_image(labels, name, image)
    slices = asked.slices if per_slice is None else per_slice
    grid = Grid.of(labels.shape, spacing, slices)
    present = [int(c) for c in np.unique(labels) if c != 0 and c != ignore]
    known = sorted({0, *present, *(int(c) for c in classes or ())} - {ignore})
    record = {"noise": name, "severity": asked.severity, "per_slice": grid.axis is not None, **asked.settings}
    if asked.note:
        record["note"] = asked.note
    if asked.changes_nothing or not (present or asked.model in FLIPS):
        return Corrupted(labels.copy(), np.zeros(labels.shape, bool), record)
    fixed = np.zeros(labels.shape, bool) if ignore is None else labels == ignore
    case = Case(asked.model, labels, fixed, present, known, image, asked.severity or 0.0, asked.settings, grid, rng)
    out, details = AT_ONCE[asked.model](case) if asked.model in AT_ONCE else _class_by_class(case)
    out[fixed] = labels[fixed]
    return Corrupted(out, out != labels, record | details)


def needs_image(name: str) -> bool:
    """Whether a noise model looks at the image."""
    return _model(name) in WITH_IMAGE


def needs_all_classes(name: str) -> bool:
    """Whether a noise model gives voxels to classes that a case may lack."""
    return _model(name) in TO_OTHER_CLASSES


def _model(name: str) -> str:
    return PUBLISHED[name].model if name in PUBLISHED else name


def _class_by_class(case: Case) -> tuple[np.ndarray, dict[str, Any]]:
    """Spoil the classes from last to first: the last is painted on top, so each knows what covers it."""
    coin = float(case.rng.random())  # one direction per case
    out, covered, details = np.zeros_like(case.labels), case.fixed.copy(), {}
    for c in reversed(case.present):
        kind, settings = case.name, case.settings
        if kind == "mixed":
            kind = str(case.rng.choice(settings["kinds"]))
            settings = NOISES[kind]
        settings = _directed(kind, settings, coin)
        dice = case.dice(settings)
        job = ClassJob(case.labels == c, covered, case.labels == 0, dice, settings, case.grid, case.rng)
        spoiled, extra = BY_CLASS[kind](job)
        spoiled &= ~covered
        out[spoiled] = c
        covered |= spoiled
        aimed = {"dice_aimed": round(dice, 4)} if case.severity else {}
        details[str(c)] = {"noise": kind, **aimed, **extra}
    return out, {"classes": dict(reversed(details.items()))}


def _directed(kind: str, settings: Mapping[str, Any], coin: float) -> Mapping[str, Any]:
    """The settings of a model with the direction that one coin per case decides."""
    if kind == "one-sided":
        return {**settings, "theta1": 0.8 if settings["direction"] == "grow" else 0.2, "steps": None}
    if kind == "markov" and settings["theta1"] is None:
        return {**settings, "theta1": 0.8 if coin < 0.5 else 0.2}  # S_E and S_S of the paper
    if kind == "dilation-erosion":
        return {**settings, "grows": coin < settings["grow"]}
    return settings


# ---------------------------------------------------------------- what may be asked for


def _check(labels: np.ndarray, spacing: Sequence[float] | None, rng: np.random.Generator) -> None:
    if not isinstance(rng, np.random.Generator):
        raise BadSetting(f"rng must be a numpy Generator, got {type(rng).__name__}. Make one from a seed.")
    if labels.dtype.kind not in "bui" or labels.ndim not in (2, 3):
        raise BadLabels(
            "noise models need labels of whole numbers in 2-D or 3-D, "
            f"got {labels.dtype} of shape {labels.shape}. Turn them into classes first."
        )
    if spacing is not None and (len(spacing) != labels.ndim or min(spacing) <= 0):
        raise ShapeMismatch(
            f"spacing must have one positive value per axis, got {tuple(spacing)} "
            f"for labels of shape {labels.shape}. Hand it over in array order."
        )


def _check_image(labels: np.ndarray, name: str, image: np.ndarray | None) -> None:
    if not needs_image(name):
        return
    if image is None:
        raise BadSetting(f"{name} noise looks at the images, and none was given. Give their folder with --images DIR.")
    if image.ndim != labels.ndim + 1 or image.shape[1:] != labels.shape:
        raise ShapeMismatch(
            f"image and labels differ in shape: image {image.shape}, labels {labels.shape}. "
            "Hand the image over as (channels, *labels.shape)."
        )
