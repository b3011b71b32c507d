"""Wrong labels made on purpose, to measure what a method wins back.

    corrupted = corrupt(labels, "boundary", severity=0.5, rng=np.random.default_rng(0))

| name | what goes wrong |
|---|---|
| markov | the contour grows or shrinks by a random front (Yao et al., ICLR 2023), one direction per case |
| boundary | each object is dilated or eroded, and its contour waves |
| missing | whole objects, or a piece of an object, are not drawn |
| false-object | each object has a false companion in the background near it |
| class-swap | objects or pieces carry the name of another class |
| shift | the whole label map has moved |
| mixed | every class of a case draws one of markov, boundary, missing, false-object |

Severity 0 changes nothing; a severity s aims at a mean Dice of 1 - 0.4 s between spoiled and true labels,
whatever the size of the objects. The loss of Dice varies from class to class by half of that, up and
down (`spread`). Classes are spoiled one by one and painted in class order. Measured mean Dice (over
cases, then classes) on the training labels of three data sets, ACDC slice by slice:

| severity | hippocampus .25 .50 .75 | ACDC .25 .50 .75 | BU-BIL cells .25 .50 .75 |
|---|---|---|---|
| markov | 0.89 0.81 0.71 | 0.89 0.79 0.65 | 0.90 0.81 0.70 |
| boundary | 0.91 0.81 0.71 | 0.89 0.77 0.66 | 0.90 0.80 0.70 |
| missing | 0.90 0.80 0.70 | 0.90 0.80 0.70 | 0.90 0.80 0.70 |
| false-object | 0.90 0.80 0.71 | 0.91 0.81 0.71 | 0.90 0.81 0.70 |
| class-swap | 0.90 0.79 0.69 | 0.90 0.80 0.71 | one class |
| shift | 0.91 0.79 0.70 | 0.90 0.80 0.70 | 0.90 0.80 0.70 |
| mixed | 0.89 0.80 0.70 | 0.90 0.78 0.67 | 0.90 0.80 0.70 |

Where Dice stays lower, a growing structure covers a thin neighbour: the myocardium of ACDC (0.55 for
markov at 0.75). A shift is by whole voxels, so at 0.25 every third hippocampus stays where it is.

"boundary" and "missing" stand for the two kinds of error that Dong et al., "Deep self-cleansing for
medical image segmentation with noisy labels", Medical Physics 2025, name; they are not its simulators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_noisylabel.arrays.markov import markov
from napari_noisylabel.arrays.noise_models import BY_CLASS, Case, ClassJob, Grid, shift, swap
from napari_noisylabel.errors import BadLabels, BadSetting, ShapeMismatch, UnknownName

Number = int | float | np.integer | np.floating

__all__ = ["NOISES", "RANGES", "Corrupted", "corrupt", "markov"]

NOISES: Mapping[str, Mapping[str, Any]] = {
    "markov": {"theta1": None, "theta2": 0.05, "theta3": 0.0, "steps": None, "spread": 0.0},
    "boundary": {"grow": 0.5, "roughness": 0.75, "wave": 0.5, "spread": 0.5},
    "missing": {"ball": 0.5, "spread": 0.5},
    "false-object": {"spread": 0.5},
    "class-swap": {"ball": 0.5, "spread": 0.5},
    "shift": {"spread": 0.5},
    "mixed": {"kinds": ("markov", "boundary", "missing", "false-object")},
}
"""The noise models with their parameters and defaults; `RANGES` says what they may be."""

RANGES: Mapping[str, tuple[float, float]] = {
    "theta1": (0, 1),  # preference for growth; None: 0.8 or 0.2, the expansion and shrinkage of the paper
    "theta2": (0.001, 1),  # share of the ring that a step flips
    "theta3": (0, 1),  # share of all voxels flipped at the end; the paper has 0.2 in 2-D, 0 in 3-D
    "steps": (0, 10000),  # T; None: by the object's size
    "grow": (0, 1),  # probability that an object is dilated
    "roughness": (0, 10),  # standard deviation of the wave, relative to the dilation
    "wave": (0.01, 10),  # length of the wave, in radii of the object
    "ball": (0, 1),  # probability that a piece is bitten off by a ball, not cut off by a plane
    "spread": (0, 1),  # the loss of Dice varies from class to class by this share, up and down
}


@dataclass(frozen=True, eq=False)
class Corrupted:
    """Spoiled labels, like those that came in, and how they were made (values fit for JSON)."""

    labels: np.ndarray
    parameters: dict[str, Any]


def corrupt(
    labels: np.ndarray,
    name: str,
    severity: float,
    rng: np.random.Generator,
    spacing: Sequence[float] | None = None,
    *,
    per_slice: bool | None = None,
    classes: Sequence[int] | None = None,
    ignore: int | None = None,
    **parameters: Any,
) -> Corrupted:
    """The labels of one case with synthetic noise.

    Parameters
    ----------
    labels : (*spatial) integer, 2-D or 3-D, 0 = background. Not changed.
    name : a noise model, see `NOISES`.
    severity : in [0, 1]. 0 changes nothing; s aims at a mean Dice of 1 - 0.4 s, whatever the size
        of the objects. A case without any labelled voxel stays as it is.
    spacing : mm per voxel, in array order; 1 where it is not known.
    per_slice : spoil each slice on its own, across the axis of the largest spacing (the first
        of equals). By default so where spacings differ by a factor of 3 or more.
    classes : all classes of the track. Only class-swap needs them, for a case that lacks some.
    ignore : value of voxels without annotation; they keep it.
    parameters : of this noise model, see `NOISES` and `RANGES`.

    Returns
    -------
    Labels of the same shape and type. Classes are painted in their order, so a class that
    grows covers those before it and is covered by those after it.

    Raises
    ------
    UnknownName : no such noise model.
    BadSetting : severity or a parameter out of range or unknown; class-swap with a single class.
    BadLabels, ShapeMismatch : labels that are no label map, spacing of another length.
    """
    settings = _settings(name, parameters)
    _check(labels, severity, spacing, rng)
    grid = Grid.of(labels.shape, spacing, per_slice)
    present = [int(c) for c in np.unique(labels) if c != 0 and c != ignore]
    record = {"noise": name, "severity": float(severity), "per_slice": grid.axis is not None, **settings}
    if severity == 0 or not present:
        return Corrupted(labels.copy(), record)
    fixed = np.zeros(labels.shape, bool) if ignore is None else labels == ignore
    case = Case(name, labels, fixed, present, float(severity), settings, grid, rng)
    if name == "class-swap":
        out, details = swap(case, sorted({*present, *(int(c) for c in classes or ())} - {0, ignore}))
    else:
        out, details = (shift if name == "shift" else _class_by_class)(case)
    out[fixed] = labels[fixed]
    return Corrupted(out, record | details)


def _class_by_class(case: Case) -> tuple[np.ndarray, dict[str, Any]]:
    """Spoil the classes from last to first: the last is painted on top, so each knows what covers it."""
    theta1 = 0.8 if case.rng.random() < 0.5 else 0.2  # S_E and S_S of the paper
    out, covered, details = np.zeros_like(case.labels), case.fixed.copy(), {}
    for c in reversed(case.present):
        kind, settings = case.name, case.settings
        if kind == "mixed":
            kind = str(case.rng.choice(settings["kinds"]))
            settings = NOISES[kind]
        if kind == "markov" and settings["theta1"] is None:
            settings = {**settings, "theta1": theta1}
        dice = case.dice(settings)
        job = ClassJob(case.labels == c, covered, case.labels == 0, dice, settings, case.grid, case.rng)
        spoiled, extra = BY_CLASS[kind](job)
        spoiled &= ~covered
        out[spoiled] = c
        covered |= spoiled
        details[str(c)] = {"noise": kind, "dice_aimed": round(dice, 4), **extra}
    return out, {"classes": dict(reversed(details.items()))}


# ---------------------------------------------------------------- what may be asked for


def _settings(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a noise model with `parameters` in their place, or an error that says what there is."""
    if name not in NOISES:
        raise UnknownName(f"there is no noise model {name!r}. Choose one of: {', '.join(NOISES)}.")
    unknown = [key for key in parameters if key not in NOISES[name]]
    if unknown:
        raise BadSetting(
            f"noise model {name} has no parameter {unknown[0]!r}. It has: {', '.join(NOISES[name])}."
        )
    settings = {**NOISES[name], **{key: _value(name, key, value) for key, value in parameters.items()}}
    if settings.get("theta3") and settings["steps"] is None:
        raise BadSetting("theta3 belongs to the process as published: set steps too, or leave theta3 at 0.")
    return settings


def _value(name: str, key: str, value: Any) -> Any:
    if key == "kinds":
        kinds = tuple(value.split(",")) if isinstance(value, str) else value
        if not isinstance(kinds, list | tuple) or not kinds or not set(kinds) <= set(BY_CLASS):
            raise BadSetting(f"kinds of {name} noise must be some of {', '.join(BY_CLASS)}, got {value!r}.")
        return tuple(kinds)
    if value is None and NOISES[name][key] is None:
        return None
    low, high = RANGES[key]
    if not isinstance(value, Number) or isinstance(value, bool) or not low <= value <= high:
        raise BadSetting(f"{key} of {name} noise must be a number in [{low}, {high}], got {value!r}.")
    if key == "steps" and value != int(value):
        raise BadSetting(f"steps of {name} noise must be a whole number, got {value!r}.")
    return int(value) if key == "steps" else float(value)


def _check(
    labels: np.ndarray, severity: float, spacing: Sequence[float] | None, rng: np.random.Generator
) -> None:
    if not isinstance(severity, Number) or not 0 <= severity <= 1:
        raise BadSetting(f"severity must be a number in [0, 1], got {severity!r}.")
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
