"""Where the voxels of an array are in the patient, and how to show them upright."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from napari_noisylabel.errors import ShapeMismatch


@dataclass(frozen=True)
class Geometry:
    """The grid of an array: shape (*spatial) = (Z, Y, X) or (Y, X), and where it lies.

    `affine` takes an array index (z, y, x, 1) to RAS+ millimetres (4 x 4, nested tuples); for a
    2-D array z is 0. `unit` is "mm", or "px" where the file does not know its size.
    """

    shape: tuple[int, ...]
    affine: tuple[tuple[float, ...], ...]
    unit: str = "mm"

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def matrix(self) -> np.ndarray:
        """`affine` as a (4, 4) float64 array."""
        return np.asarray(self.affine, dtype=np.float64)

    @property
    def spacing(self) -> tuple[float, ...]:
        """mm per voxel, one value per array axis."""
        return tuple(float(s) for s in np.linalg.norm(self.matrix[:3, :3], axis=0)[3 - self.ndim :])


@dataclass(frozen=True)
class DisplayAxes:
    """How an array is turned upright without copying: `order` first, then `flips`.

    `order[i]` is the array axis shown as display axis i; `flips[i]` says whether display axis i
    runs backwards.
    """

    order: tuple[int, ...]
    flips: tuple[bool, ...]


# ---------------------------------------------------------------- upright on the screen


def display_axes(geometry: Geometry) -> DisplayAxes:
    """The axis order and flips that show the array closest to upright, as radiologists look at it.

    3-D: axial slices from the feet up (display axis 0 towards superior, 1 towards posterior, 2
    towards the patient's left, so the patient's right is on the left of the screen). 2-D: the
    head or the front at the top, the patient's right or front on the left. Where nobody knows
    where the array lies (`unit` "px"), it stays as it is.
    """
    if geometry.unit != "mm":
        return DisplayAxes(tuple(range(geometry.ndim)), (False,) * geometry.ndim)
    world, signs = _closest_world_axes(geometry)
    order = tuple(sorted(range(geometry.ndim), key=lambda axis: -world[axis]))  # S, then A, then R
    towards = (-1, -1, 1 if geometry.ndim == 3 else -1)  # a slider goes up, an image row goes down
    return DisplayAxes(order, tuple(signs[axis] != towards[world[axis]] for axis in order))


def to_display(array: np.ndarray, axes: DisplayAxes) -> np.ndarray:
    """`array` (*spatial) as it is shown: a view, so writing to one writes to the other.

    Raises
    ------
    ShapeMismatch : `array` has another number of axes; take channels apart first.
    """
    _check_axes(array, axes)
    return array.transpose(axes.order)[_backwards(axes.flips)]


def to_array(view: np.ndarray, axes: DisplayAxes) -> np.ndarray:
    """The inverse of `to_display`, a view as well.

    Raises
    ------
    ShapeMismatch : `view` has another number of axes; take channels apart first.
    """
    _check_axes(view, axes)
    return view[_backwards(axes.flips)].transpose(np.argsort(axes.order))


def display_spacing(geometry: Geometry, axes: DisplayAxes) -> tuple[float, ...]:
    """mm per voxel, one value per display axis."""
    return tuple(geometry.spacing[axis] for axis in axes.order)


def index_from_display(index: Sequence[float], axes: DisplayAxes, shape: Sequence[int]) -> tuple[float, ...]:
    """The array index of a display index; `shape` is the array's. Whole numbers stay whole."""
    found = dict(zip(axes.order, zip(index, axes.flips, strict=True), strict=True))
    return tuple(n - 1 - found[axis][0] if found[axis][1] else found[axis][0] for axis, n in enumerate(shape))


def index_to_display(index: Sequence[float], axes: DisplayAxes, shape: Sequence[int]) -> tuple[float, ...]:
    """The display index of an array index; `shape` is the array's. Whole numbers stay whole."""
    turned = zip(axes.order, axes.flips, strict=True)
    return tuple(shape[axis] - 1 - index[axis] if flip else index[axis] for axis, flip in turned)


# ---------------------------------------------------------------- in the patient


def position_mm(geometry: Geometry, index: Sequence[float]) -> tuple[float, float, float]:
    """Where the centre of the voxel at array `index` (ndim values) is: right, anterior, superior, in mm."""
    padded = (0.0,) * (3 - geometry.ndim) + tuple(index) + (1.0,)
    x, y, z = (geometry.matrix @ padded)[:3]
    return float(x), float(y), float(z)


def orientation_letters(geometry: Geometry) -> str:
    """One letter per array axis: where it leads to, of R/L, A/P, S/I. An axial (Z, Y, X) array is "SPL".

    Oblique axes get the closest letters, each direction once. Means nothing where `unit` is "px".
    """
    world, signs = _closest_world_axes(geometry)
    return "".join(_letter(axis, sign) for axis, sign in zip(world, signs, strict=True))


def display_letters(geometry: Geometry, axes: DisplayAxes) -> tuple[tuple[str, str], ...]:
    """Per display axis, the letters of its two ends: at index 0 and at the last index.

    The last pair is the left and the right edge of the screen, the one before the top and the
    bottom. Empty letters where nobody knows where the array lies (`unit` "px").
    """
    if geometry.unit != "mm":
        return (("", ""),) * geometry.ndim
    world, signs = _closest_world_axes(geometry)
    ends = [(_letter(world[a], -signs[a]), _letter(world[a], signs[a])) for a in axes.order]
    return tuple(pair[::-1] if flip else pair for pair, flip in zip(ends, axes.flips, strict=True))


def same_grid(a: Geometry, b: Geometry, atol_mm: float = 1e-3) -> str:
    """Nothing ("") where two arrays lie on one grid, else words that say what differs.

    The grids are one where shapes are equal and no corner voxel is more than `atol_mm` from its
    partner. A grid that does not know where it lies (`unit` "px") is compared by shape only.
    """
    if a.shape != b.shape:
        return f"shape {_times(a.shape)} against {_times(b.shape)}"
    if "px" in (a.unit, b.unit):
        return ""
    apart = max(math.dist(position_mm(a, corner), position_mm(b, corner)) for corner in _corners(a.shape))
    if apart <= atol_mm:
        return ""
    return "; ".join(_differences(a, b)) or f"corners up to {apart:.3g} mm apart"


# ---------------------------------------------------------------- helpers


def _directions(geometry: Geometry) -> np.ndarray:
    """(3, ndim): the unit vector in RAS along which each array axis leads."""
    columns = geometry.matrix[:3, 3 - geometry.ndim : 3]
    return columns / np.maximum(np.linalg.norm(columns, axis=0), np.finfo(float).tiny)


def _closest_world_axes(geometry: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Per array axis the world axis (0 R, 1 A, 2 S) it is closest to, each at most once, and its sign."""
    cosines = _directions(geometry)
    array_axes = range(geometry.ndim)
    world = max(permutations(range(3), geometry.ndim), key=lambda w: np.abs(cosines[w, array_axes]).sum())
    return world, tuple(1 if cosines[w, axis] >= 0 else -1 for axis, w in enumerate(world))


def _letter(world_axis: int, sign: int) -> str:
    return ("RAS" if sign > 0 else "LPI")[world_axis]


def _backwards(flips: Sequence[bool]) -> tuple[slice, ...]:
    return tuple(slice(None, None, -1 if flip else 1) for flip in flips)


def _corners(shape: Sequence[int]) -> Iterable[tuple[int, ...]]:
    return product(*((0, n - 1) for n in shape))


def _differences(a: Geometry, b: Geometry) -> Iterator[str]:
    if not np.allclose(a.spacing, b.spacing, rtol=1e-5, atol=0):
        yield f"voxel size {_times(a.spacing)} mm against {_times(b.spacing)} mm"
    cosines = np.clip((_directions(a) * _directions(b)).sum(axis=0), -1, 1)
    turned = float(np.degrees(np.arccos(cosines)).max())
    if turned > 0.01:
        letters = f"{orientation_letters(a)} against {orientation_letters(b)}"
        yield f"axes {letters}, turned by up to {turned:.3g} degrees"
    zero = (0,) * a.ndim
    shift = math.dist(position_mm(a, zero), position_mm(b, zero))
    if shift > 1e-3:
        yield f"first voxels {shift:.3g} mm apart"


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{n:g}" for n in numbers)


def _check_axes(array: np.ndarray, axes: DisplayAxes) -> None:
    if array.ndim != len(axes.order):
        raise ShapeMismatch(
            f"array and display must have as many axes: shape {array.shape}, {len(axes.order)} display axes. "
            "Turn each channel on its own."
        )
