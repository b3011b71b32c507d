"""Reader, writer and sample of the manifest."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_noisylabel.errors import ExportRefused
from napari_noisylabel.io.volumes import read_labels
from napari_noisylabel.plugin.layers import SessionLayers
from napari_noisylabel.plugin.readers import get_project_reader, layer_data
from napari_noisylabel.plugin.samples import open_hippocampus
from napari_noisylabel.plugin.writers import write_labels


def test_only_project_folders_are_read(tmp_path):
    assert get_project_reader(str(tmp_path)) is None
    (tmp_path / "project.json").write_text("{}")

    assert get_project_reader(str(tmp_path)) is not None
    assert get_project_reader(str(tmp_path / "project.json")) is not None


def test_a_case_becomes_layer_tuples_that_napari_takes(workbench):
    viewer = ViewerModel()

    for data in layer_data(workbench.session.view, workbench.session.tracks):
        viewer._add_layer_from_data(*data)

    assert [layer.name for layer in viewer.layers] == ["image", "given labels", "corrected labels"]


def test_the_sample_opens_as_image_and_labels_on_one_grid():
    image, labels = open_hippocampus()

    assert (image[2], labels[2]) == ("image", "labels")
    assert image[0].shape == labels[0].shape
    assert set(np.unique(labels[0])) == {0, 1, 2}


@pytest.fixture
def saved(workbench, tmp_path):
    """Layers whose case comes from a real file, and where to write them."""
    import dataclasses

    nib = pytest.importorskip("nibabel")
    view = workbench.session.view
    source = tmp_path / "given" / "case-1.nii.gz"
    source.parent.mkdir()
    affine = view.case.geometry.matrix[:, [2, 1, 0, 3]]
    nib.save(nib.Nifti1Image(view.given["labels"].T.astype(np.uint8), affine), source)
    file = dataclasses.replace(view.case.labels["labels"], path=source)
    workbench.show(dataclasses.replace(view, case=dataclasses.replace(view.case, labels={"labels": file})))
    return SessionLayers(ViewerModel(), workbench.session), tmp_path / "out.nii.gz"


def test_saving_the_corrected_layer_keeps_the_grid_of_its_source(saved, workbench):
    layers, out = saved
    data, meta, _ = layers.corrected.as_layer_data_tuple()

    assert write_labels(str(out), data, meta) == [str(out)]

    assert np.array_equal(read_labels(out).array, workbench.session.view.corrected["labels"])


def test_strokes_that_are_not_applied_do_not_leave(saved, workbench):
    layers, out = saved
    workbench.session.draft = True
    data, meta, _ = layers.corrected.as_layer_data_tuple()

    with pytest.raises(ExportRefused, match="not applied"):
        write_labels(str(out), data, meta)
    assert not out.exists()


def test_labels_from_elsewhere_are_left_to_napari(tmp_path):
    with pytest.raises(ExportRefused, match="not the corrected labels of a project"):
        write_labels(str(tmp_path / "x.nii.gz"), np.zeros((4, 5), np.uint8), {"name": "mine", "metadata": {}})
