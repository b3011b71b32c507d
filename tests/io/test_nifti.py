from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from napari_noisylabel.arrays.geometry import Geometry, position_mm
from napari_noisylabel.errors import BadImage, BadLabels, ExportRefused, UnreadableFile
from napari_noisylabel.io import nifti


@st.composite
def nifti_volumes(draw):
    """A nibabel image whose axes are oblique, flipped, swapped and of different lengths."""
    shape = draw(st.tuples(*[st.integers(2, 6)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.3, 6.0)] * 3))
    angles = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    flips = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * flips * spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    dtype = draw(st.sampled_from([np.int16, np.uint8, np.float32]))
    labels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 5, shape).astype(dtype)
    picture = nib.Nifti1Image(labels, affine)
    codes = draw(st.sampled_from([(1, 1), (0, 1), (2, 0)]))  # of sform and qform
    picture.set_sform(affine, codes[0])
    picture.set_qform(affine, codes[1])
    picture.header.set_xyzt_units("mm")
    picture.header["descrip"] = b"kept as it is"
    picture.header["cal_max"] = 4
    return picture, draw(st.sampled_from([".nii", ".nii.gz"]))


@settings(max_examples=40, deadline=None)
@given(nifti_volumes())
def test_written_labels_have_the_grid_and_values_of_the_source_for_nibabel_and_simpleitk(drawn):
    picture, extension = drawn
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / f"source{extension}", Path(folder) / f"out{extension}"
        nib.save(picture, source)
        values = (nifti.read_labels(source).array + 1) % 5
        nifti.write_labels(source, values, out)

        ours, theirs = nib.load(out), nib.load(source)
        assert head_bytes(out) == head_bytes(source)
        assert np.array_equal(ours.affine, theirs.affine)
        assert ours.get_data_dtype() == theirs.get_data_dtype()
        assert np.array_equal(np.asarray(ours.dataobj).T, values)
        itk_out, itk_source = sitk.ReadImage(out), sitk.ReadImage(source)
        assert np.array_equal(sitk.GetArrayFromImage(itk_out), values)
        for fact in ("GetOrigin", "GetSpacing", "GetDirection", "GetPixelIDValue"):
            assert getattr(itk_out, fact)() == getattr(itk_source, fact)()


@settings(max_examples=40, deadline=None)
@given(nifti_volumes(), st.tuples(*[st.integers(0, 5)] * 3))
def test_the_position_in_millimetres_agrees_with_nibabel_and_simpleitk(drawn, index):
    picture, extension = drawn
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"case{extension}"
        nib.save(picture, path)

        found = position_mm(nifti.read_header(path).geometry, index)

        by_nibabel = nib.load(path).affine @ [*index[::-1], 1]
        by_itk = sitk.ReadImage(path).TransformContinuousIndexToPhysicalPoint([float(i) for i in index[::-1]])
        assert np.allclose(found, by_nibabel[:3], atol=1e-9)
        assert np.allclose(found, np.multiply(by_itk, (-1, -1, 1)), atol=1e-3)


def head_bytes(path):
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        return file.read(352)


def test_an_array_comes_in_the_order_z_y_x_without_a_copy_of_its_axes(save_nifti):
    array = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    volume = nifti.read_image(save_nifti("case.nii.gz", array))
    assert np.array_equal(volume.array, array[None])
    assert volume.array.flags.c_contiguous and volume.dtype == "int16"


def test_sform_wins_over_a_different_qform(tmp_path):
    picture = nib.Nifti1Image(np.zeros((4, 3, 2), np.uint8), None)
    picture.set_qform(np.diag([1, 1, 1, 1]), 1)
    picture.set_sform(np.diag([2, 3, 5, 1]), 1)
    nib.save(picture, tmp_path / "case.nii")
    assert nifti.read_header(tmp_path / "case.nii").geometry.spacing == (5, 3, 2)


def test_a_file_without_orientation_codes_has_pixels_and_no_millimetres(tmp_path):
    picture = nib.Nifti1Image(np.zeros((4, 3, 2), np.uint8), None)
    picture.header.set_zooms((0.5, 0.5, 4))
    nib.save(picture, tmp_path / "case.nii.gz")
    geometry = nifti.read_header(tmp_path / "case.nii.gz").geometry
    assert (geometry.unit, geometry.spacing) == ("px", (4, 0.5, 0.5))


def test_a_grid_in_microns_is_turned_into_millimetres_as_itk_does(tmp_path):
    picture = nib.Nifti1Image(np.zeros((4, 3, 2), np.uint8), np.diag([250, 500, 2000, 1]))
    picture.header.set_xyzt_units("micron")
    nib.save(picture, tmp_path / "case.nii")
    ours = nifti.read_header(tmp_path / "case.nii").geometry.spacing
    assert ours == pytest.approx(sitk.ReadImage(tmp_path / "case.nii").GetSpacing()[::-1])


def test_scaled_intensities_are_scaled(save_nifti):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = save_nifti("ct.nii.gz", array, scl_slope=0.5, scl_inter=-1000)
    assert np.array_equal(nifti.read_image(path).array[0], np.asarray(nib.load(path).dataobj).T)


@pytest.mark.parametrize(("slope", "inter"), [(2.0, 0.0), (0.1, -1.0)])
def test_scaled_labels_come_back_with_their_scaling(tmp_path, slope, inter):
    header = nib.Nifti1Header()
    header.set_data_shape((4, 3, 2))
    header["scl_slope"], header["scl_inter"] = slope, inter
    stored = np.rint((np.arange(24).reshape(2, 3, 4) // 6 * 2 - inter) / slope).astype("<i2")
    header.set_data_dtype(np.int16)
    (tmp_path / "in.nii").write_bytes(_single(header) + stored.tobytes())

    values = nifti.read_labels(tmp_path / "in.nii").array
    nifti.write_labels(tmp_path / "in.nii", values, tmp_path / "out.nii")

    assert sorted(set(values.flat)) == [0, 2, 4, 6]
    assert (tmp_path / "out.nii").read_bytes() == (tmp_path / "in.nii").read_bytes()


def test_a_big_endian_nifti_2_with_an_extension_comes_back_bit_for_bit(tmp_path):
    labels = np.arange(24, dtype=np.int16).reshape(4, 3, 2) % 3
    picture = nib.Nifti2Image(labels, np.diag([1, 2, 3, 1]), nib.Nifti2Header(endianness=">"))
    picture.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"drawn by a reader"))
    nib.save(picture, tmp_path / "in.nii")

    values = nifti.read_labels(tmp_path / "in.nii").array
    nifti.write_labels(tmp_path / "in.nii", values, tmp_path / "out.nii")

    assert np.array_equal(values, labels.T)
    assert (tmp_path / "out.nii").read_bytes() == (tmp_path / "in.nii").read_bytes()


def test_a_volume_with_a_fourth_axis_of_one_is_three_dimensional(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((4, 3, 2, 1), np.uint8), np.eye(4)), tmp_path / "in.nii.gz")
    values = nifti.read_labels(tmp_path / "in.nii.gz").array
    nifti.write_labels(tmp_path / "in.nii.gz", values, tmp_path / "out.nii.gz")
    assert values.shape == (2, 3, 4)
    assert nib.load(tmp_path / "out.nii.gz").shape == (4, 3, 2, 1)


def test_a_two_dimensional_nifti_has_two_axes_and_a_place(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((4, 3), np.int16), np.diag([0.5, 2, 1, 1])), tmp_path / "in.nii")
    geometry = nifti.read_header(tmp_path / "in.nii").geometry
    assert (geometry.shape, geometry.spacing) == ((3, 4), (2, 0.5))
    assert position_mm(geometry, (2, 3)) == (1.5, 4, 0)


def test_colours_become_channels(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (4, 3, 2, 3)).astype(np.uint8)
    rgb = colours.copy().view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "in.nii.gz")
    assert np.array_equal(nifti.read_image(tmp_path / "in.nii.gz").array, colours.T)
    with pytest.raises(BadLabels, match="one value per voxel"):
        nifti.read_labels(tmp_path / "in.nii.gz")


def test_a_map_has_the_grid_of_its_source_and_its_own_type(save_nifti, tmp_path):
    source = save_nifti("labels.nii.gz", np.ones((2, 3, 4), np.uint8))
    likelihood = np.random.default_rng(0).random((2, 3, 4), dtype=np.float32)
    nifti.write_like(source, likelihood, tmp_path / "map.nii.gz")
    ours, theirs = nib.load(tmp_path / "map.nii.gz"), nib.load(source)
    assert ours.get_data_dtype() == np.float32 and np.array_equal(ours.affine, theirs.affine)
    assert np.array_equal(np.asarray(ours.dataobj).T, likelihood)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "map.nii.gz")), likelihood)


def test_a_new_file_lies_where_its_geometry_says(tmp_path):
    rows = ((0.0, 0.0, -2.0, 9.0), (0.0, 1.5, 0.0, -4.0), (4.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0))
    geometry = Geometry((2, 3, 4), rows)
    nifti.write_new(np.ones((2, 3, 4), bool), geometry, tmp_path / "new.nii.gz")
    assert nifti.read_header(tmp_path / "new.nii.gz").geometry == geometry
    assert nib.load(tmp_path / "new.nii.gz").get_data_dtype() == np.uint8


@pytest.mark.parametrize("labels", [np.full((2, 3, 4), 300), np.full((2, 3, 4), -1), np.full((2, 3, 5), 1)])
def test_labels_that_the_source_cannot_hold_are_refused_and_nothing_is_written(save_nifti, tmp_path, labels):
    source = save_nifti("in.nii", np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(ExportRefused, match=r"do not fit|must have the grid"):
        nifti.write_labels(source, labels, tmp_path / "out.nii")
    assert not (tmp_path / "out.nii").exists()


def test_a_four_dimensional_file_is_refused_where_three_axes_are_meant(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((4, 3, 2, 5), np.int16), np.eye(4)), tmp_path / "series.nii.gz")
    with pytest.raises(BadImage, match=r"must be 2-D or 3-D, but .*series.nii.gz is 4-D"):
        nifti.read_image(tmp_path / "series.nii.gz")
    with pytest.raises(BadLabels, match="labels must be 2-D or 3-D"):
        nifti.read_labels(tmp_path / "series.nii.gz")


def test_labels_that_are_no_whole_numbers_are_refused(save_nifti):
    path = save_nifti("soft.nii.gz", np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4))
    with pytest.raises(BadLabels, match=r"whole numbers, but .*soft.nii.gz holds 0.04"):
        nifti.read_labels(path)


@pytest.mark.parametrize("name", ["case.nii", "case.nii.gz"])
@pytest.mark.parametrize("left", [0, 1, 200, 700, -5])
def test_a_truncated_file_is_refused_with_its_name(save_nifti, name, left):
    path = save_nifti(name, np.random.default_rng(0).integers(0, 999, (4, 9, 11)).astype(np.int16))
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UnreadableFile, match=rf"{name} is not a whole NIfTI file"):
        nifti.read_image(path)


def test_a_flipped_bit_in_a_gzipped_file_is_noticed(save_nifti):
    path = save_nifti("case.nii.gz", np.random.default_rng(0).integers(0, 99, (4, 9, 11)).astype(np.int16))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(UnreadableFile, match="not a whole NIfTI file"):
        nifti.read_image(path)


def test_a_header_that_claims_more_than_the_file_can_hold_takes_no_memory(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((30000, 30000, 30000))
    for name, pack in (("huge.nii", bytes), ("huge.nii.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack(_single(header) + bytes(1000)))
        with pytest.raises(UnreadableFile, match="can hold at most"):
            nifti.read_image(tmp_path / name)


def test_another_kind_of_file_with_the_extension_is_refused(tmp_path):
    (tmp_path / "case.nii.gz").write_bytes(gzip.compress(b"<html>" * 500))
    with pytest.raises(UnreadableFile, match="its header is missing"):
        nifti.read_header(tmp_path / "case.nii.gz")


def test_an_affine_without_volume_is_refused(tmp_path):
    picture = nib.Nifti1Image(np.ones((4, 3, 2), np.uint8), None)
    picture.header["sform_code"], picture.header["srow_x"] = 1, [1, 0, 0, 5]
    (tmp_path / "flat.nii").write_bytes(_single(picture.header) + bytes(24))
    with pytest.raises(UnreadableFile, match="affine is no grid"):
        nifti.read_header(tmp_path / "flat.nii")


def _single(header: nib.Nifti1Header) -> bytes:
    header["vox_offset"] = 352
    return header.binaryblock + bytes(4)
