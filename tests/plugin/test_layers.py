"""The session's case as layers of a viewer model: no window is needed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils._proxies import PublicOnlyProxy

from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.plugin.layers import ACTIVATION, LIKELIHOOD, SessionLayers, outline, stroke_box
from napari_noisylabel.records import Verdict


@pytest.fixture
def viewer():
    return ViewerModel()


@pytest.fixture
def layers(viewer, workbench):
    return SessionLayers(viewer, workbench.session)


def test_layers_lie_in_the_order_of_the_design_on_one_grid(viewer, layers, workbench, fake):
    layers.go_to(workbench.session.current)

    names = [layer.name for layer in viewer.layers]
    assert names == ["image", "given labels", "corrected labels", "noise likelihood", "region"]
    assert all(np.allclose(layer.scale, fake.SPACING) for layer in viewer.layers)
    assert {str(unit) for layer in viewer.layers for unit in layer.units} == {"millimeter"}


def test_layers_are_views_of_the_session_and_only_corrected_can_be_painted(layers, workbench):
    view = workbench.session.view

    layers.corrected.data_setitem((np.array([3]), np.array([4]), np.array([5])), 2)

    assert view.corrected["labels"][3, 4, 5] == 2
    assert np.may_share_memory(layers.viewer.layers["image"].data, view.images[0])
    assert not layers.viewer.layers["given labels"].editable


def test_the_overlay_hides_what_is_below_the_threshold(layers, workbench):
    layers.set_threshold(0.9)

    assert layers.likelihood.contrast_limits == pytest.approx([229.5, 255])
    assert layers.likelihood.colormap.map(np.array([0.0]))[0, 3] == 0


def test_going_to_a_region_moves_the_slice_and_keeps_zoom_and_contrast(viewer, layers, workbench):
    viewer.scene.camera.zoom = 7.5
    layers.viewer.layers["image"].contrast_limits = (10, 99)
    region = next(r for r in workbench.session.queue if r.case == "case-1" and r.from_class == 2)

    layers.go_to(region)

    assert viewer.dims.current_step[0] == 6
    assert viewer.scene.camera.zoom == 7.5
    assert layers.viewer.layers["image"].contrast_limits == [10, 99]


def test_the_box_frames_the_region_on_each_of_its_slices(layers, workbench):
    region = workbench.session.current

    layers.go_to(region)

    lines = layers.viewer.layers["region"].data
    ends = np.concatenate([lines[:, 0], lines.sum(axis=1)])
    assert set(lines[:, 0, 0]) == set(range(region.start[0], region.stop[0]))
    assert np.allclose(ends.min(0)[1:], np.array(region.start[1:]) - 0.5)
    assert np.allclose(ends.max(0)[1:], np.array(region.stop[1:]) - 0.5)


def test_another_case_takes_the_same_layers(viewer, layers, workbench):
    before = list(viewer.layers)

    workbench.show(workbench.load("case-2"))

    assert list(viewer.layers) == before
    assert np.may_share_memory(layers.corrected.data, workbench.session.view.corrected["labels"])


@pytest.fixture
def other_grid(workbench):
    """The second case with half as many slices, thicker ones, and fewer columns."""
    view = workbench.load("case-2")
    spacing = (5.0, 1.0, 0.8)
    affine = ((0.0, 0.0, -0.8, 20.0), (0.0, -1.0, 0.0, 15.0), (5.0, 0.0, 0.0, -10.0), (0.0, 0.0, 0.0, 1.0))

    def cut(arrays):
        return {name: array[::2, :, :40].copy() for name, array in arrays.items()}

    return spacing, dataclasses.replace(
        view,
        case=dataclasses.replace(view.case, geometry=Geometry((6, 40, 40), affine)),
        images=tuple(image[::2, :, :40].copy() for image in view.images),
        **{name: cut(getattr(view, name)) for name in ("given", "corrected", "decided", "likelihood", "proposal")},
    )


@pytest.mark.parametrize("from_slice", [2, 11])
def test_a_case_on_another_grid_is_looked_up_once_and_shown_whole(viewer, layers, workbench, other_grid, from_slice):
    layers.go_to(workbench.session.current)
    viewer.dims.set_current_step(0, from_slice)
    drawn = []
    for layer in viewer.layers:
        layer.events.set_data.connect(lambda event: drawn.append(event.source.name))
    spacing, view = other_grid

    workbench.session.view = view

    assert sorted(drawn) == sorted(layer.name for layer in viewer.layers)
    assert all(np.allclose(layer.scale, spacing) for layer in viewer.layers)
    assert viewer.dims.nsteps[0] == 6
    at = viewer.dims.current_step[0]
    np.testing.assert_array_equal(viewer.layers["image"]._slice.image.raw, view.images[0][at])
    np.testing.assert_array_equal(layers.corrected._slice.image.raw, view.corrected["labels"][at])


def test_layers_follow_the_session_through_the_proxy_that_napari_hands_to_plugins(viewer, workbench, recwarn):
    layers = SessionLayers(PublicOnlyProxy(viewer), workbench.session)

    workbench.show(workbench.load("case-2"))
    layers.go_to(workbench.session.current)

    assert np.may_share_memory(layers.corrected.data, workbench.session.view.corrected["labels"])
    assert not [w for w in recwarn if "Private attribute" in str(w.message)]


def test_an_undo_cannot_bring_back_voxels_of_before_a_decision(layers, workbench):
    layers.corrected.data_setitem((np.array([3]), np.array([4]), np.array([5])), 2)
    workbench.review(Verdict.ACCEPTED)
    layers.refresh()
    after = workbench.session.view.corrected["labels"].copy()

    layers.corrected.undo()

    assert np.array_equal(workbench.session.view.corrected["labels"], after)


def test_a_stroke_is_told_with_its_box_in_array_indices(viewer, workbench):
    told = []
    layers = SessionLayers(viewer, workbench.session, lambda *box: told.append(box))

    layers.corrected.data_setitem((np.array([3, 4]), np.array([4, 9]), np.array([5, 6])), 2)
    layers.corrected.brush_size = 3
    layers.corrected.paint((2, 20, 30), 1)

    assert told[0] == ((3, 4, 5), (5, 10, 7))
    assert told[1][0] == (2, 19, 29)


def test_a_sagittal_volume_is_shown_upright_and_painted_in_its_own_order(viewer, fake):
    affine = ((3.0, 0.0, 0.0, -40.0), (0.0, 0.0, 1.2, -90.0), (0.0, -0.9, 0.0, 60.0), (0.0, 0.0, 0.0, 1.0))
    workbench = fake.FakeWorkbench(affine=affine)
    workbench.open("/data/project")
    workbench.show(workbench.load("case-1"))
    layers = SessionLayers(viewer, workbench.session)

    at = tuple(np.array([int(i)]) for i in layers.shown.from_array((3, 4, 5)))
    layers.corrected.data_setitem(at, 2)

    assert layers.corrected.data.shape == (40, 56, 12)
    assert workbench.session.view.corrected["labels"][3, 4, 5] == 2


def test_affinity_lies_on_the_slice_that_was_clicked(viewer, layers, fake):
    layers.show_affinity(np.ones((40, 56), np.float32), (5, 10, 20), axis=0)

    layer = viewer.layers["affinity"]
    assert layer.translate[0] == pytest.approx(5 * fake.SPACING[0])
    assert [layer.name for layer in viewer.layers].index("affinity") > 3


def test_class_activation_is_a_hidden_layer_below_the_likelihood_and_goes_with_its_run(viewer, layers, workbench):
    view = workbench.session.view
    track = workbench.session.track
    shown = np.full(view.given[track].shape, 7, np.uint8)
    workbench.session.view = dataclasses.replace(view, activation={track: shown})
    names = [layer.name for layer in viewer.layers]
    assert names.index(ACTIVATION) == names.index(LIKELIHOOD) - 1
    assert not viewer.layers[ACTIVATION].visible
    workbench.session.view = view
    assert ACTIVATION not in viewer.layers


def test_a_case_without_a_run_has_no_overlay(viewer, layers, workbench):
    workbench.show(dataclasses.replace(workbench.session.view, likelihood={}))

    assert "noise likelihood" not in viewer.layers


def test_the_status_line_knows_patient_slice_and_plane(viewer, layers, fake):
    said = layers.status((6 * 3.0, 15.0, 16.0))

    assert said == "R 4.0  A 0.0  S 8.0 mm  ·  axial 7 of 12  ·  R–L  A–P"


def test_a_layer_that_the_person_removed_comes_back_with_the_next_case(viewer, layers, workbench):
    viewer.layers.remove("given labels")

    workbench.show(workbench.load("case-2"))

    assert [layer.name for layer in viewer.layers][:3] == ["image", "given labels", "corrected labels"]


def test_closing_lets_go_of_the_session(viewer, layers, workbench):
    layers.close()
    data = layers.corrected.data

    workbench.show(workbench.load("case-2"))

    assert layers.corrected.data is data


def test_a_box_in_2d_has_four_sides_that_meet():
    lines = outline((2, 3), (5, 9), (0, 1))

    ends = sorted(map(tuple, np.concatenate([lines[:, 0], lines.sum(axis=1)]).tolist()))
    assert ends == sorted([(1.5, 2.5), (1.5, 8.5), (4.5, 2.5), (4.5, 8.5)] * 2)


def test_the_box_of_a_stroke_spans_all_its_atoms():
    atoms = [((np.array([1]), np.array([5])), 0, 1), ((np.array([3]), np.array([2])), 0, 1)]

    assert stroke_box(atoms, (9, 9)) == ((1, 2), (4, 6))
