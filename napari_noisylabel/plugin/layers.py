"""The session's case as napari layers, and the way from a region to the place on the screen.

Bottom to top: image (one per channel), given labels, corrected labels, class activation (of methods
that learn from tags; hidden), noise likelihood, affinity of the clicked voxel, region box. All share
one grid. Arrays are views of the session's: painting on the corrected layer writes into
`session.view.corrected`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import numpy as np
from napari import Viewer
from napari.layers import Image, Labels, Layer, Vectors

from napari_noisylabel.plugin.colours import (
    BOX_COLOUR,
    affinity_colormap,
    label_colormap,
    likelihood_colormap,
)
from napari_noisylabel.plugin.contrast import contrast_limits, default_preset
from napari_noisylabel.plugin.display import Shown
from napari_noisylabel.records import CaseView, Region
from napari_noisylabel.session import ReviewSession

GIVEN, CORRECTED, LIKELIHOOD = "given labels", "corrected labels", "noise likelihood"
ACTIVATION = "class activation (weak)"
AFFINITY, BOX = "affinity", "region"
DEFAULT_THRESHOLD = 0.5
BOX_WIDTH = 0.35  # voxels


class SessionLayers:
    """Keeps the viewer's layers equal to `session.view` and `session.track`.

    `on_stroke(low, high)` is called at the end of each brush stroke with the stroke's
    half-open box in array indices.
    """

    def __init__(
        self,
        viewer: Viewer,
        session: ReviewSession,
        on_stroke: Callable[[tuple[int, ...], tuple[int, ...]], Any] | None = None,
    ) -> None:
        self.viewer = viewer
        self.session = session
        self.shown: Shown | None = None
        self.preset = ""
        self.threshold = DEFAULT_THRESHOLD
        self._on_stroke = on_stroke
        self._layers: dict[str, Layer] = {}
        self._images: list[str] = []
        self._track = ""
        self._n_classes = 0  # that the label layers have colours for
        session.events.view.connect(self.show)
        session.events.track.connect(self.show)
        session.events.filter.connect(self._follow_filter)
        self._follow_filter()
        self.show()

    # ------------------------------------------------------------ what the session has

    def close(self) -> None:
        """Stop following the session. The layers stay, as anything else the user made would."""
        self.session.events.view.disconnect(self.show)
        self.session.events.track.disconnect(self.show)
        self.session.events.filter.disconnect(self._follow_filter)
        if self.corrected is not None:
            self.corrected.events.paint.disconnect(self._painted)

    @property
    def corrected(self) -> Labels | None:
        """The editable layer, while it is in the viewer."""
        return self._layer(CORRECTED)

    @property
    def likelihood(self) -> Image | None:
        """The overlay of the noise likelihood, while it is in the viewer."""
        return self._layer(LIKELIHOOD)

    def show(self) -> None:
        """Put the session's case on the screen, in the layers that are there already."""
        view = self.session.view
        if view is None:
            return
        track = self.session.track if self.session.track in view.corrected else next(iter(view.corrected), "")
        new_grid = self.shown is None or self.shown.geometry != view.case.geometry
        if new_grid:
            self.shown = Shown(view.case.geometry)
        self._drop(AFFINITY)
        with self._sliced_once():
            self._show_images(view)
            self._show_labels(view, track)
            self._show_likelihood(view, track)
            self._show_activation(view, track)
            self._place_box(None)
        self._track = track
        if self.corrected is not None:
            self.viewer.layers.selection.active = self.corrected

    def _show_images(self, view: CaseView) -> None:
        names = image_names(len(view.images))
        for gone in set(self._images) - set(names):
            self._drop(gone)
        self._images = names
        self.preset = self.preset or default_preset(view.images[0])
        for name, array in zip(names, view.images, strict=True):
            layer = self._layer(name)
            if layer is not None and same_memory(layer.data, array):
                continue
            limits = contrast_limits(array, self.preset)
            if layer is None:
                self._add(name, Image(self._view(array), name=name, contrast_limits=limits, **self._grid))
            else:
                self._replace(layer, self._view(array))
                set_limits(layer, limits)

    def _show_labels(self, view: CaseView, track: str) -> None:
        if track not in view.corrected:
            self._drop(GIVEN)
            self._drop(CORRECTED)
            return
        n_classes = next((t.n_classes for t in self.session.tracks if t.name == track), 2)
        self._show_label(view, GIVEN, view.given[track], n_classes, pale=True)
        self._show_label(view, CORRECTED, view.corrected[track], n_classes, pale=False)
        self._n_classes = n_classes

    def _show_label(self, view: CaseView, name: str, array: np.ndarray, n_classes: int, *, pale: bool) -> None:
        layer = self._layer(name)
        if layer is None:
            layer = self._add(
                name,
                Labels(
                    self._view(array),
                    name=name,
                    colormap=label_colormap(n_classes, pale=pale),
                    opacity=0.9 if pale else 0.4,
                    **self._grid,
                ),
            )
            if pale:
                layer.contour = 1
                layer.editable = False
            else:
                layer.events.paint.connect(self._painted)
        elif not same_memory(layer.data, array):
            self._replace(layer, self._view(array))
            if n_classes != self._n_classes:  # setting it draws the layer once more
                layer.colormap = label_colormap(n_classes, pale=pale)
        if not pale:
            layer.metadata = {"noisylabel": self._origin(view)}
            self.end_undo()

    def _show_likelihood(self, view: CaseView, track: str) -> None:
        array = view.likelihood.get(track)
        if array is None:
            self._drop(LIKELIHOOD)
            return
        layer = self._layer(LIKELIHOOD)
        if layer is not None:
            self._replace(layer, self._view(array))
            return
        self._add(
            LIKELIHOOD,
            Image(
                self._view(array),
                name=LIKELIHOOD,
                colormap=likelihood_colormap(),
                opacity=0.75,
                blending="translucent",
                contrast_limits=(255 * self.threshold, 255),
                interpolation2d="nearest",
                **self._grid,
            ),
        )

    def _show_activation(self, view: CaseView, track: str) -> None:
        """Where a classifier that only knows tags sees a finding; hidden until somebody wants to see it."""
        array = view.activation.get(track)
        if array is None:
            self._drop(ACTIVATION)
            return
        layer = self._layer(ACTIVATION)
        if layer is not None:
            self._replace(layer, self._view(array))
            return
        shown = Image(
            self._view(array), name=ACTIVATION, colormap=affinity_colormap(), opacity=0.6, visible=False,
            blending="translucent", contrast_limits=(0, 255), **self._grid,
        )  # fmt: skip
        self._add(ACTIVATION, shown)

    # ------------------------------------------------------------ what the panels ask for

    def refresh(self) -> None:
        """The corrected labels changed in place: draw them, and forget napari's undo history."""
        if self.corrected is not None:
            self.end_undo()
            self.corrected.refresh()

    def end_undo(self) -> None:
        """Forget strokes: an undo would write voxels of before a decision into the labels.

        napari offers no public way, and assigning `data` keeps the history.
        """
        if self.corrected is not None:
            self.corrected._reset_history()

    def set_threshold(self, threshold: float) -> None:
        """Hide likelihood below `threshold`, in [0, 1]."""
        self.threshold = min(max(threshold, 0.0), 0.996)
        if self.likelihood is not None:
            self.likelihood.contrast_limits = (255 * self.threshold, 255)

    def set_preset(self, preset: str) -> None:
        """Contrast of all image channels."""
        self.preset = preset
        view = self.session.view
        if view is None or not preset:
            return
        for name, array in zip(self._images, view.images, strict=True):
            layer = self._layer(name)
            if layer is not None:
                set_limits(layer, contrast_limits(array, preset))

    def toggle_overlays(self) -> None:
        """Hide labels, likelihood and box, to see what is under them; or show them again."""
        layers = [layer for name in (GIVEN, CORRECTED, LIKELIHOOD, BOX) if (layer := self._layer(name))]
        visible = not any(layer.visible for layer in layers)
        for layer in layers:
            layer.visible = visible

    def start_painting(self, to_class: int) -> None:
        """Brush of class `to_class` on the corrected labels."""
        layer = self.corrected
        if layer is None:
            return
        layer.selected_label = to_class
        layer.visible = True
        layer.mode = "paint"
        self.viewer.layers.selection.active = layer

    def stop_painting(self) -> None:
        """Back to pan and zoom."""
        if self.corrected is not None:
            self.corrected.mode = "pan_zoom"

    def go_to(self, region: Region) -> None:
        """Slices and box to `region`; zoom and contrast stay, the picture moves only if it must."""
        if self.shown is None or self.session.view is None or self.session.view.case.id != region.case:
            return
        low, high = self.shown.box(region.start, region.stop)
        center = np.asarray(self.shown.from_array(best_voxel(self.session.view, region)))
        for axis in self.viewer.dims.not_displayed:
            self.viewer.dims.set_point(axis, float(center[axis] * self.shown.scale[axis]))
        if not self._in_sight(low, high):
            self.viewer.scene.camera.center = tuple(np.pad(center * self.shown.scale, (3 - len(center), 0)))
        self._place_box(region)

    @property
    def slice_axis(self) -> int:
        """The array axis that the slider steps through (0 in 2-D)."""
        if self.shown is None or len(self.shown.shape) < 3:
            return 0
        return self.shown.axes.order[self.viewer.dims.order[-3]]

    def show_affinity(self, values: np.ndarray, index: Sequence[int], axis: int = 0) -> None:
        """Show an affinity map in [-1, 1]: the array's slice through `index` across `axis`, or all of 2-D."""
        if self.shown is None:
            return
        translate = [0.0] * len(self.shown.scale)
        if values.ndim < len(index):
            values = np.expand_dims(values, axis)
            place = self.shown.axes.order.index(axis)
            translate[place] = self.shown.from_array(index)[place] * self.shown.scale[place]
        self._drop(AFFINITY)
        layer = Image(
            self._view(values),
            name=AFFINITY,
            colormap=affinity_colormap(),
            opacity=0.7,
            blending="translucent",
            contrast_limits=(0.5, 1.0),
            translate=translate,
            **self._grid,
        )
        self._add(AFFINITY, layer)
        if self.corrected is not None:
            self.viewer.layers.selection.active = self.corrected

    def hide_affinity(self) -> None:
        """Take the affinity map away."""
        self._drop(AFFINITY)

    def voxel_at(self, world: Sequence[float]) -> tuple[int, ...] | None:
        """Array index under a world position of the viewer, None outside the volume."""
        if self.shown is None or len(world) < len(self.shown.scale):
            return None
        index = np.asarray(world[-len(self.shown.scale) :]) / self.shown.scale
        return self.shown.to_array(index) if self.shown.contains(index) else None

    def status(self, world: Sequence[float]) -> str:
        """Position, slice and plane: "R 12.3  A −40.1  S 8.0 mm  ·  axial 14 of 40"."""
        if self.shown is None or len(world) < len(self.shown.scale):
            return ""
        index = np.asarray(world[-len(self.shown.scale) :]) / self.shown.scale
        parts = [self.shown.position(index)] if self.shown.contains(index) else []
        if len(index) > 2 and self.viewer.dims.ndisplay == 2:
            axis = self.viewer.dims.order[-3]
            step = int(np.clip(round(index[axis]), 0, self.shown.shape[axis] - 1))
            parts.append(f"{self.shown.plane(axis)} {step + 1} of {self.shown.shape[axis]}")
        if self.viewer.dims.ndisplay == 2:
            parts.append(self.shown.edges(*self.viewer.dims.order[-2:]))
        return "  ·  ".join(part for part in parts if part)

    # ------------------------------------------------------------ helpers

    @property
    def _placed(self) -> Shown:
        """The grid of the case shown; helpers are only called when there is one."""
        return cast(Shown, self.shown)

    @property
    def _grid(self) -> dict[str, Any]:
        return {"scale": self._placed.scale, "units": self._placed.units, "axis_labels": self._placed.names}

    def _view(self, array: np.ndarray) -> np.ndarray:
        return self._placed.view(array)

    def _origin(self, view: CaseView) -> dict[str, Any]:
        track = self.session.track if self.session.track in view.corrected else next(iter(view.corrected))
        source = view.case.labels.get(track)
        return {
            "case": view.case.id,
            "track": next((t for t in self.session.tracks if t.name == track), None),
            "source": str(source.path) if source is not None else "",
            "axes": self._placed.axes,
            "session": self.session,
        }

    def _layer(self, name: str) -> Any:
        layer = self._layers.get(name)
        return layer if layer is not None and layer in self.viewer.layers else None

    def _add(self, name: str, layer: Layer) -> Any:
        order = [*self._images, GIVEN, CORRECTED, ACTIVATION, LIKELIHOOD, AFFINITY, BOX]
        below = [n for n in order[: order.index(name)] if self._layer(n) is not None]
        place = self.viewer.layers.index(self._layer(below[-1])) + 1 if below else 0
        self.viewer.layers.insert(place, layer)
        self._layers[name] = layer
        return layer

    @contextmanager
    def _sliced_once(self) -> Iterator[None]:
        """Layers take new arrays, then the viewer fits its sliders and looks the layers up, once.

        Left to itself napari does both after each layer, between the grids of two cases: of a large
        case that is 100 ms instead of 30.
        """
        layers = [layer for name in self._layers if (layer := self._layer(name)) is not None]
        with ExitStack() as held:
            for layer in layers:
                held.enter_context(layer._block_refresh())
                held.enter_context(layer.events.data.blocker(self._fit_sliders))
            yield
            point = self.viewer.dims.point
            self._fit_sliders()
        if self.viewer.dims.point == point:  # else the sliders moved, and all were looked up
            for layer in layers:
                if layer in self.viewer.layers:
                    layer.refresh()

    @property
    def _fit_sliders(self) -> Callable[[], None]:
        """What the viewer does when a layer's extent changes. napari hands plugins a proxy, which has no public way."""
        return getattr(self.viewer, "__wrapped__", self.viewer)._on_layers_change

    def _replace(self, layer: Layer, data: np.ndarray) -> None:
        """Other data, on the grid of the case shown."""
        with layer.events.scale.blocker():  # the viewer fits its sliders when all have their data
            layer.scale = self._placed.scale
        layer.data = data

    def _drop(self, name: str) -> None:
        layer = self._layer(name)
        if layer is not None:
            self.viewer.layers.remove(layer)
        self._layers.pop(name, None)

    def _place_box(self, region: Region | None) -> None:
        box, ndim = self._layer(BOX), len(self._placed.scale)
        if region is None:
            if box is not None:
                self._replace(box, np.zeros((0, 2, ndim)))
            return
        low, high = self._placed.box(region.start, region.stop)
        lines = outline(low, high, self.viewer.dims.order[-ndim:])
        if box is None:
            look = {"edge_color": BOX_COLOUR, "edge_width": BOX_WIDTH, "vector_style": "line", "opacity": 0.9}
            self._add(BOX, Vectors(lines, name=BOX, **look, **self._grid))
            self.viewer.layers.selection.active = self.corrected
            return
        with box.events.data.blocker(self._fit_sliders):  # it lies on the grid of the others
            box.data = lines

    def _in_sight(self, low: Sequence[int], high: Sequence[int]) -> bool:
        image = self._layer(self._images[0]) if self._images else None
        if image is None or self.viewer.dims.ndisplay != 2:
            return True
        corners = np.asarray(image.corner_pixels)
        shown = list(self.viewer.dims.displayed)
        inside = (np.asarray(low)[shown] >= corners[0][shown]) & (np.asarray(high)[shown] <= corners[1][shown] + 1)
        return bool(inside.all()) or not np.ptp(corners[:, shown], axis=0).all()

    def _follow_filter(self) -> None:
        if self.session.filter is not None:
            self.set_threshold(self.session.filter.threshold)

    def _painted(self, event: Any) -> None:
        if self._on_stroke is None or self.shown is None:
            return
        self._on_stroke(*self._placed.array_box(*stroke_box(event.value, self._placed.shape)))


def image_names(n: int) -> list[str]:
    """ "image", or "image 1", "image 2" ... with several channels."""
    return ["image"] if n == 1 else [f"image {i}" for i in range(1, n + 1)]


def same_memory(a: np.ndarray, b: np.ndarray) -> bool:
    """True where one array is a view of the other's voxels."""
    return a.size == b.size and np.may_share_memory(a, b)


def set_limits(layer: Image, limits: tuple[float, float]) -> None:
    """Contrast limits, and a slider range that holds them."""
    low, high = layer.contrast_limits_range
    layer.contrast_limits_range = (min(low, limits[0]), max(high, limits[1]))
    layer.contrast_limits = limits


def stroke_box(atoms: Sequence[Any], shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Half-open box, in display indices, of the voxels in napari's history of one stroke.

    The first item of an atom has, per axis, indices (single voxels) or a slice (a brush's disc).
    """
    spans = [[span(axis, n) for axis, n in zip(atom[0], shape, strict=True)] for atom in atoms]
    low = tuple(min(first for first, _ in axis) for axis in zip(*spans, strict=True))
    high = tuple(max(last for _, last in axis) for axis in zip(*spans, strict=True))
    return low, high


def span(where: Any, n: int) -> tuple[int, int]:
    """First index and one past the last, of a slice or of indices on an axis of `n` voxels."""
    if isinstance(where, slice):
        first, last, _ = where.indices(n)
        return first, last
    return int(np.min(where)), int(np.max(where)) + 1


def outline(low: Sequence[int], high: Sequence[int], order: Sequence[int]) -> np.ndarray:
    """The outline of a half-open box on each slice it meets, as vectors (N, 2, ndim): start, direction.

    `order` is the viewer's order of axes. Lines run along the outer edges of voxels. Vectors, for
    as many shapes would take napari a tenth of a second.
    """
    *steps, rows, columns = order
    first, last = np.asarray(low, dtype=float) - 0.5, np.asarray(high, dtype=float) - 0.5
    size = last - first
    sides = np.zeros((4, 2, len(low)))
    sides[:, 0, rows], sides[:, 0, columns] = first[rows], first[columns]
    sides[1, 0, rows], sides[3, 0, columns] = last[rows], last[columns]
    sides[:2, 1, columns], sides[2:, 1, rows] = size[columns], size[rows]
    if not steps:
        return sides
    slices = np.repeat(sides[None], high[steps[0]] - low[steps[0]], axis=0)
    slices[:, :, 0, steps[0]] = np.arange(low[steps[0]], high[steps[0]])[:, None]
    return slices.reshape(-1, 2, len(low))


def best_voxel(view: CaseView, region: Region) -> tuple[int, ...]:
    """A voxel in the slice (first axis) that shows most of `region`, near its middle.

    Where the proposal is at hand, the box's voxels that it would change are counted; a thin
    shell may have none in the middle of its box.
    """
    proposal, labels = view.proposal.get(region.track), view.corrected.get(region.track)
    if proposal is None or labels is None:
        return region.center
    box = tuple(slice(a, b) for a, b in zip(region.start, region.stop, strict=True))
    mask = np.asarray(proposal[box]) == region.to_class
    mask &= np.asarray(labels[box]) == region.from_class
    if not mask.any():
        return region.center
    found = [int(mask.sum(axis=tuple(a for a in range(mask.ndim) if a != axis)).argmax()) for axis in range(mask.ndim)]
    return tuple(start + at for start, at in zip(region.start, found, strict=True))
