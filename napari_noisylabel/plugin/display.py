"""How one case lies on the screen: array indices, display indices, world and millimetres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_noisylabel.arrays.geometry import (
    Geometry,
    display_axes,
    display_letters,
    display_spacing,
    index_from_display,
    index_to_display,
    position_mm,
    to_display,
)

PLANES = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "L": "sagittal", "R": "sagittal"}


class Shown:
    """One case's grid as napari shows it: axis order and flips by views, spacing as scale.

    World coordinates are display indices times `scale`; they are not the patient's, whose
    millimetres come from `position`.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.axes = display_axes(geometry)
        self.scale = display_spacing(geometry, self.axes)
        self.letters = display_letters(geometry, self.axes)
        self.shape = tuple(geometry.shape[axis] for axis in self.axes.order)
        self.names = tuple(
            PLANES.get(last, name) for (_, last), name in zip(self.letters, "zyx"[-geometry.ndim :], strict=True)
        )
        self.units = ("mm" if geometry.unit == "mm" else "pixel",) * geometry.ndim

    def view(self, array: np.ndarray) -> np.ndarray:
        """`array` (*spatial) as it is shown; no copy, so writing to one writes to the other."""
        return to_display(array, self.axes)

    def from_array(self, index: Sequence[float]) -> tuple[float, ...]:
        """Display index of an array index."""
        return index_to_display(index, self.axes, self.geometry.shape)

    def to_array(self, index: Sequence[float] | np.ndarray) -> tuple[int, ...]:
        """Array index of the voxel that holds a display index."""
        voxel = index_from_display([round(float(x)) for x in index], self.axes, self.geometry.shape)
        return tuple(int(i) for i in voxel)

    def box(self, start: Sequence[int], stop: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A half-open box of the array as a half-open box of the display."""
        return half_open(self.from_array(start), self.from_array([n - 1 for n in stop]))

    def array_box(self, low: Sequence[int], high: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A half-open box of the display as a half-open box of the array."""
        return half_open(self.to_array(low), self.to_array([n - 1 for n in high]))

    def contains(self, index: Sequence[float] | np.ndarray) -> bool:
        """True for a display index inside the volume."""
        return all(-0.5 <= x < n - 0.5 for x, n in zip(index, self.shape, strict=True))

    def plane(self, slice_axis: int) -> str:
        """ "axial", "coronal" or "sagittal" when napari steps through display axis `slice_axis`."""
        return PLANES.get(self.letters[slice_axis][1], "slice")

    def edges(self, rows: int, columns: int) -> str:
        """The orientation letters at the edges of the screen: "R–L  A–P"."""
        pairs = [self.letters[axis] for axis in (columns, rows)]
        return "  ".join(f"{first}–{last}" for first, last in pairs if first)

    def position(self, index: Sequence[float] | np.ndarray) -> str:
        """Where a display index is in the patient, RAS: "R 12.3  A −40.1  S 8.0 mm"."""
        voxel = self.to_array(index)
        if self.geometry.unit != "mm":
            return "  ".join(f"{axis} {i}" for axis, i in zip("zyx"[-len(voxel) :], voxel, strict=True)) + " px"
        mm = position_mm(self.geometry, voxel)
        return "  ".join(f"{letter} {signed(x)}" for letter, x in zip("RAS", mm, strict=True)) + " mm"


def signed(value: float) -> str:
    """One decimal, with a real minus sign and no negative zero."""
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def half_open(a: Sequence[float], b: Sequence[float]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The half-open box between two opposite corner voxels, in whichever order they come."""
    pairs = [(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    return tuple(min(pair) for pair in pairs), tuple(max(pair) + 1 for pair in pairs)
