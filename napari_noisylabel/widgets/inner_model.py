"""What a method shows of itself while it trains, as cells and lines to draw. Pure functions of the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_noisylabel.inner import Curve, Fit, InnerState, Matrix, Mixtures, from_json
from napari_noisylabel.records import Report
from napari_noisylabel.widgets import words
from napari_noisylabel.widgets.plots import normal

NOTHING = "–"
PLUS_MINUS = " ± "
LARGEST_SHARE = 1.5
"""Matrices up to this value are taken for shares, whose digits behind the point count."""


@dataclass(frozen=True)
class Line:
    """One line of a plot; lines that belong together have one colour."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Drawing:
    """Lines, and what the axes stand for."""

    bottom: str
    left: str
    lines: tuple[Line, ...]


def last_report(reports: Sequence[Report], fold: int) -> Report | None:
    """The latest report of a fold in which its method shows something."""
    return next((r for r in reversed(reports) if r.fold == fold and r.inner), None)


def states(report: Report) -> list[InnerState]:
    """What the method shows there. Raises UnreadableFile."""
    return from_json(report.inner)


# ---------------------------------------------------------------- matrices


def cells(matrix: Matrix) -> list[list[str]]:
    """The text of each cell: the value, with its standard error where one was measured, as in "0.92 ± 0.03"."""
    known = [abs(v) for row in matrix.values for v in row if v is not None]
    errors = [e for row in matrix.spread for e in row if e is not None]
    shares = max(known, default=0.0) <= LARGEST_SHARE
    decimals = None if not shares else 2 if max(errors, default=0.0) >= 0.01 else 3
    spread: Sequence[Sequence[float | None]] = matrix.spread or [[None] * len(row) for row in matrix.values]
    return [
        [_cell(v, e, decimals) for v, e in zip(values, own, strict=True)]
        for values, own in zip(matrix.values, spread, strict=True)
    ]


def _cell(value: float | None, error: float | None, decimals: int | None) -> str:
    """A journal has no NaN: what is none was not measured."""
    if value is None:
        return NOTHING
    return _number(value, decimals) + ("" if error is None else PLUS_MINUS + _number(error, decimals))


def _number(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return words.count(round(value)) if abs(value) >= 1000 else f"{value:.3g}"


def heat(matrix: Matrix) -> np.ndarray | None:
    """How strongly each cell is coloured, in [0, 1]; None unless rows and columns are the same classes."""
    if matrix.rows != matrix.columns:
        return None
    values = np.array([[0.0 if v is None else max(v, 0.0) for v in row] for row in matrix.values])
    return values / max(float(values.max(initial=0.0)), 1e-9)


# ---------------------------------------------------------------- lines


def drawing(state: Curve | Mixtures | Fit, reports: Sequence[Report], fold: int) -> Drawing:
    """The lines of a state of one fold; a curve takes its earlier values from the earlier reports."""
    if isinstance(state, Curve):
        return Drawing("epoch", state.unit, tuple(_curve_lines(state, reports, fold)))
    if isinstance(state, Mixtures):
        return Drawing(state.unit or "score", "density", tuple(_mixture_lines(state)))
    return Drawing("epoch", "", tuple(_fit_lines(state)))


def _curve_lines(state: Curve, reports: Sequence[Report], fold: int) -> list[Line]:
    told = [(r.epoch + 1, _values(r, state.name)) for r in reports if r.fold == fold]
    names = dict.fromkeys(name for _, values in told for name in values)
    lines = []
    for colour, name in enumerate(names):
        points = [(x, values[name]) for x, values in told if values.get(name) is not None]
        x, y = zip(*points, strict=True) if points else ((), ())
        lines.append(Line(name, x, y, colour))
    return lines


def _values(report: Report, name: str) -> Mapping[str, Any]:
    """The values of the curve `name` in one report; read without building the other states."""
    found = (s for s in report.inner if s.get("kind") == "curve" and s.get("name") == name)
    return next((s["values"] for s in found), {})


def _mixture_lines(state: Mixtures) -> list[Line]:
    lines, top = [], 0.0
    for colour, (series, counts) in enumerate(state.counts.items()):
        edges = np.linspace(state.low, state.high, len(counts) + 1)
        centres, density = (edges[1:] + edges[:-1]) / 2, np.array(counts) / max(1, sum(counts)) / np.diff(edges)
        top = max(top, float(density.max(initial=0.0)))
        lines.append(Line(series, centres.tolist(), density.tolist(), colour))
        fit = state.fits.get(series)
        if fit is not None and fit.split:
            parts = zip(fit.weights, fit.means, fit.sds, strict=True)
            fitted = np.sum([w * normal(centres, mean, sd) for w, mean, sd in parts], axis=0)
            lines.append(Line(f"{series}, fitted", centres.tolist(), fitted.tolist(), colour, dashed=True))
    if state.threshold is not None:
        lines.append(Line("threshold", (state.threshold,) * 2, (0.0, top), len(state.counts), dashed=True))
    return lines


def _fit_lines(state: Fit) -> list[Line]:
    lines = [Line("measured", state.x, state.y, 0)]
    if state.fitted:
        lines.append(Line("fitted", state.x, state.fitted, 1, dashed=True))
    if state.mark is not None:
        seen = [v for v in state.y if v is not None] or [0.0]
        lines.append(Line("decided", (state.mark,) * 2, (min(seen), max(seen)), 2, dashed=True))
    return lines
