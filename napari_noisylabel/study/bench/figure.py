"""The table as a picture: Dice of given and corrected labels beside the upper bound, a panel per data set."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import Any

ROW_IN = 0.28
WIDTH_IN = 8.0
COLOURS = {"given": "#999999", "corrected": "#0072B2", "upper": "#D55E00"}
"""Okabe and Ito's, which people with a colour vision deficiency can tell apart."""


def has_matplotlib() -> bool:
    """True where the figure can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG of the rows of `make_table`; bars are the spread over seeds."""
    figures = importlib.import_module("matplotlib.figure")
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        panels.setdefault(row["data"], []).append(row)
    heights = [len(own) for own in panels.values()]
    figure = figures.Figure(figsize=(WIDTH_IN, 1.2 + sum(ROW_IN * h + 0.6 for h in heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": [h + 1 for h in heights]})
    for axis, (name, own) in zip(axes[:, 0], panels.items(), strict=True):
        _panel(axis, name, own)
    axes[-1, 0].set_xlabel("mean Dice with the true labels")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150, metadata={"Software": None})
    return picture.getvalue()


def _panel(axis: Any, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    places = list(range(len(rows)))
    for what, marker in (("given", "o"), ("corrected", "D"), ("upper", "|")):
        found = [row["figures"][what] or {"mean": float("nan"), "sd": None} for row in rows]
        axis.errorbar(
            [f["mean"] for f in found], places, xerr=[f["sd"] or 0.0 for f in found], fmt=marker, label=what,
            color=COLOURS[what], markersize=5 if what != "upper" else 12, markeredgewidth=1.5, linewidth=1,
        )  # fmt: skip
    axis.set_yticks(places, [f"{row['noise']} {row['share']:g}, {row['method']}" for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_title(name, loc="left", fontsize=10)
    axis.grid(axis="x", linewidth=0.4, alpha=0.5)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
