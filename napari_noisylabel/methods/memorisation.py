"""Watches one class while it is learnt, and says when it begins to be memorised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_noisylabel.inner import Fit
from napari_noisylabel.methods.learning_curve import (
    LearningCurve,
    fit_curve,
    late_start,
    places,
    slope_change,
    trigger_epoch,
)


@dataclass(frozen=True)
class Detector:
    """How memorisation is detected: see `learning_curve` for `change`, `skip` and `skip_below`.

    No class is switched on before the share `earliest` of the run is over, over 1: in no epoch. A
    curve that rests on its way up looks learnt.
    """

    change: float = 0.9
    skip: str = "level"
    skip_below: float = 0.05
    min_points: int = 4
    earliest: float = 0.0


class Watch:
    """The IoU curve of one class, its fit, and since when the class is switched on (for good).

    Time is counted in units, which the caller chooses. `points` are in order, `per_point` units
    apart; `due` is the fitted t*: on once t* + 1 units are over; `on` the number of epochs that
    were finished then.
    """

    def __init__(self) -> None:
        self.points: list[float] = []
        self.per_point = 1.0
        self.seen = False
        self.skipped = self.fitted_points = 0
        self.fit: LearningCurve | None = None
        self.due: float | None = None
        self.on: int | None = None

    def add(self, both: int, predicted: int, labelled: int) -> None:
        """One more point, from voxel counts. Without a labelled voxel, the last value holds."""
        self.seen = self.seen or labelled > 0
        known = labelled > 0
        self.points.append(both / (predicted + labelled - both) if known else self.points[-1] if self.points else 0.0)

    def decide(self, detector: Detector, finished: float, total: int, per_point: float = 1.0) -> bool:
        """Fit again; True if the class is to be switched on now. A class that is on is not fitted any more.

        finished : units of time that are over, of `total` in the run.
        """
        if self.on is not None or not self.seen:
            return False
        self.per_point, self.fit, self.due = per_point, None, None
        self.skipped = late_start(self.points, detector.skip, detector.skip_below)
        left = self.points[self.skipped :]
        self.fitted_points = len(left)
        if len(left) >= detector.min_points:
            self.fit = fit_curve(left, per_point)
        if self.fit is None:
            return False
        self.due = trigger_epoch(self.fit, total, detector.change, self.skipped * per_point)
        return finished - 1 >= self.due and finished >= detector.earliest * total

    def shown(self, name: str, detector: Detector, epochs: int, epochs_per_point: float = 1.0) -> list[Fit]:
        """The IoU with its curve, and the change of slope with the limit it must pass; x in epochs."""
        x = tuple((i + 1) * epochs_per_point for i in range(len(self.points)))
        mark = None if self.on is None else float(self.on)
        unit = epochs_per_point / self.per_point
        why = self._why(detector, epochs, unit)
        if self.fit is None or self.due is None:
            return [Fit(f"IoU of {name}", x, tuple(self.points), mark=mark, note=why)]
        step = places(self.fitted_points, self.per_point)[-1] / max(1, self.fitted_points - 1)
        at = (np.arange(len(self.points)) - self.skipped) * step
        fitted = np.where(at >= 0, self.fit.at(np.maximum(at, 0)), 0.0)
        known = {**self.fit._asdict(), "points left out": float(self.skipped), "t*": self.due * unit}
        change = slope_change(self.fit, round(epochs / unit))
        t = tuple((i + 1 + self.skipped * self.per_point) * unit for i in range(len(change)))
        limit = (detector.change,) * len(t)
        return [
            Fit(f"IoU of {name}", x, tuple(self.points), tuple(float(v) for v in fitted), mark, known, why),
            Fit(f"slope change of {name}", t, tuple(float(v) for v in change), limit, mark, {}, why),
        ]

    def _why(self, detector: Detector, epochs: int, unit: float) -> str:
        """In words, why the class is on or not."""
        if self.on is not None:
            return f"corrected since {self.on} epochs were finished"
        if not self.seen:
            return "no voxel of this class in the labels of this fold"
        if self.fit is not None and self.due is not None:
            needed = max((self.due + 1) * unit, detector.earliest * epochs)
            late = ", which is after the last" if needed > epochs else ""
            return f"not corrected yet: the curve says after {needed:.3g} epochs{late}"
        if self.fitted_points >= detector.min_points:
            return "not corrected yet: no curve could be fitted"
        return f"not corrected yet: {self.fitted_points} points since it is learnt, {detector.min_points} needed"

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**vars(self), "points": list(self.points), "fit": None if self.fit is None else list(self.fit)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Watch:
        """What `state_dict` gave."""
        watch = cls()
        vars(watch).update(state)
        watch.points = list(state["points"])
        watch.fit = None if state["fit"] is None else LearningCurve(*state["fit"])
        return watch
