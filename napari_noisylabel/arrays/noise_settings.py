"""What may be asked of each noise model: its parameters, their defaults and ranges, and the errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_noisylabel.arrays.noise_flips import check_shares
from napari_noisylabel.arrays.noise_models import BY_CLASS
from napari_noisylabel.arrays.noise_published import PUBLISHED
from napari_noisylabel.errors import BadSetting, UnknownName

Number = int | float | np.integer | np.floating

NOISES: Mapping[str, Mapping[str, Any]] = {
    "markov": {"theta1": None, "theta2": 0.05, "theta3": 0.0, "steps": None, "spread": 0.0},
    "one-sided": {"direction": "grow", "theta2": 0.05, "spread": 0.0},
    "boundary": {"grow": 0.5, "roughness": 0.75, "wave": 0.5, "spread": 0.5},
    "dilation-erosion": {"grow": 0.5, "least": None, "most": None, "spread": 0.5},
    "ellipse": {"exact": False, "spread": 0.5},
    "under-over": {"grow": 0.5, "least": None, "most": None, "spill": False, "order": None, "spread": 0.5},
    "missing": {"ball": 0.5, "spread": 0.5},
    "false-object": {"spread": 0.5},
    "class-swap": {"ball": 0.5, "spread": 0.5},
    "shift": {"spread": 0.5},
    "symmetric": {"rate": None},
    "asymmetric": {"rate": None, "to_background": 0.4, "to_previous": 0.4},
    "instance": {
        "eta": None, "sd": 0.1, "features": "local", "standardise": True, "shared": False, "ranked": True,
        "reach": None, "cell": 0.25, "w_seed": 0,
    },
    "mixed": {"kinds": ("markov", "boundary", "missing", "false-object")},
}  # fmt: skip
"""The noise models with their parameters and defaults; `RANGES` and `CHOICES` say what they may be."""

RANGES: Mapping[str, tuple[float, float]] = {
    "theta1": (0, 1),  # preference for growth; None: 0.8 or 0.2, the expansion and shrinkage of the paper
    "theta2": (0.001, 1),  # share of the ring that a step flips
    "theta3": (0, 1),  # share of all voxels flipped at the end; the paper has 0.2 in 2-D, 0 in 3-D
    "steps": (0, 10000),  # T; None: by the object's size
    "grow": (0, 1),  # probability that an object (boundary), a case, a slice is dilated
    "roughness": (0, 10),  # standard deviation of the wave, relative to the dilation
    "wave": (0.01, 10),  # length of the wave, in radii of the object
    "ball": (0, 1),  # probability that a piece is bitten off by a ball, not cut off by a plane
    "spread": (0, 1),  # the loss of Dice varies from class to class by this share, up and down
    "least": (0, 1000),  # radius in voxels (dilation-erosion), erosions (under-over); None: by the Dice aimed at
    "most": (0, 1000),
    "rate": (0, 1),  # share of wrong voxels; None: 0.4 severity
    "to_background": (0, 1),  # of the wrong voxels of a class, the share that becomes background
    "to_previous": (0, 1),  # and the share that becomes the class before it
    "eta": (0, 0.9),  # mean rate of wrong examples; None: 0.4 severity
    "sd": (0, 0.3),  # its standard deviation over examples
    "reach": (0, 10),  # errors lie so near to a contour, in radii; 0: everywhere; None: by the Dice aimed at
    "cell": (0, 10),  # radius of an example, in radii of the object; 0: one voxel
    "w_seed": (0, 2**31),  # of W, the same for all cases
}

CHOICES: Mapping[str, tuple[Any, ...]] = {
    "direction": ("grow", "shrink"),  # all masks too large, or all too small
    "features": ("local", "window"),  # intensity, mean, deviation, distance; or the intensities of a window
    "exact": (True, False),  # the ellipse itself, whatever the severity
    "spill": (True, False),  # a class that shrinks may take voxels beside it, as released
    "standardise": (True, False),  # features of mean 0 and deviation 1
    "shared": (True, False),  # one W for all true classes
    "ranked": (True, False),  # the largest rates where it is hardest to tell
}

WHOLE = {("markov", "steps"), ("under-over", "least"), ("under-over", "most"), ("instance", "w_seed")}
"""Parameters that are whole numbers."""


@dataclass(frozen=True)
class Asked:
    """A noise model with all its parameters. `slices` is None where the spacing decides."""

    model: str
    severity: float | None
    settings: dict[str, Any]
    slices: bool | None = None
    note: str = ""

    @property
    def changes_nothing(self) -> bool:
        return self.severity == 0


def asked_for(name: str, severity: float | None, parameters: Mapping[str, Any]) -> Asked:
    """What a name, a severity and some parameters mean.

    Raises
    ------
    UnknownName : no such noise model. BadSetting : a severity or a parameter that cannot be.
    """
    published = PUBLISHED.get(name)
    if published is None:
        if not isinstance(severity, Number) or isinstance(severity, bool) or not 0 <= severity <= 1:
            raise BadSetting(f"severity must be a number in [0, 1], got {severity!r}.")
        return Asked(name, float(severity), settings_of(name, parameters))
    if severity is not None:
        raise BadSetting(
            f"{name} has the severity of its paper, got severity {severity!r}. "
            f"Leave it out, or choose the noise model {published.model}."
        )
    fixed = [key for key in parameters if key not in published.free]
    if fixed:
        raise BadSetting(
            f"{name} has the parameters of its paper, got {fixed[0]!r}. "
            f"Leave it out, or choose the noise model {published.model}."
        )
    settings = settings_of(published.model, {**published.settings, **parameters})
    return Asked(published.model, None, settings, published.slices, published.note)


def settings_of(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a noise model with `parameters` in their place, or an error that says what there is."""
    check_name(name)
    unknown = [key for key in parameters if key not in NOISES[name]]
    if unknown:
        raise BadSetting(f"noise model {name} has no parameter {unknown[0]!r}. It has: {', '.join(NOISES[name])}.")
    settings = {**NOISES[name], **{key: _value(name, key, value) for key, value in parameters.items()}}
    if settings.get("theta3") and settings["steps"] is None:
        raise BadSetting("theta3 belongs to the process as published: set steps too, or leave theta3 at 0.")
    if "least" in settings:
        _check_bounds(name, settings["least"], settings["most"])
    if "to_background" in settings:
        check_shares(name, settings)
    return settings


def check_name(name: str) -> None:
    """Refuse a name that is neither a noise model nor a published setting of one."""
    if name not in NOISES and name not in PUBLISHED:
        raise UnknownName(
            f"there is no noise model {name!r}. Choose one of: {', '.join(NOISES)}; or with published parameters "
            f"one of: {', '.join(PUBLISHED)}."
        )


def _check_bounds(name: str, least: float | None, most: float | None) -> None:
    if (least is None) != (most is None) or (least is not None and most is not None and least > most):
        raise BadSetting(
            f"least and most of {name} noise are two bounds, the lower one first, got {least!r} and {most!r}. Set both."
        )


def _value(name: str, key: str, value: Any) -> Any:
    if key == "kinds":
        return _names(name, value)
    if value is None and NOISES[name][key] is None:
        return None
    if key == "order":
        return _order(name, value)
    if key in CHOICES:
        if value not in CHOICES[key] or isinstance(value, bool) is not isinstance(CHOICES[key][0], bool):
            raise BadSetting(f"{key} of {name} noise must be one of {_listed(CHOICES[key])}, got {value!r}.")
        return value
    low, high = RANGES[key]
    if not isinstance(value, Number) or isinstance(value, bool) or not low <= value <= high:
        raise BadSetting(f"{key} of {name} noise must be a number in [{low}, {high}], got {value!r}.")
    if (name, key) not in WHOLE:
        return float(value)
    if value != int(value):
        raise BadSetting(f"{key} of {name} noise must be a whole number, got {value!r}.")
    return int(value)


def _names(name: str, value: Any) -> tuple[str, ...]:
    kinds = tuple(value.split(",")) if isinstance(value, str) else value
    if not isinstance(kinds, list | tuple) or not kinds or not set(kinds) <= set(BY_CLASS):
        raise BadSetting(f"kinds of {name} noise must be some of {', '.join(BY_CLASS)}, got {value!r}.")
    return tuple(kinds)


def _order(name: str, value: Any) -> tuple[int, ...]:
    parts: Sequence[Any] = value.split(",") if isinstance(value, str) else value
    parts = [parts] if isinstance(parts, int) else parts
    if not isinstance(parts, list | tuple) or not all(str(p).strip().isdigit() for p in parts):
        raise BadSetting(f"order of {name} noise must be label values like 1,3,2, got {value!r}.")
    return tuple(int(p) for p in parts)


def _listed(choices: Sequence[Any]) -> str:
    return ", ".join(str(c).lower() if isinstance(c, bool) else str(c) for c in choices)
