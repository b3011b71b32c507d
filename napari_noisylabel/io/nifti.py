"""NIfTI-1 and NIfTI-2, `.nii` and `.nii.gz`, with nibabel's reading of the header.

NIfTI stores (X, Y, Z) with X running fastest, so its bytes are a C-contiguous (Z, Y, X) array as
they lie. Voxels are therefore mapped onto the file's bytes instead of going through nibabel's
`dataobj`, and an export copies the source's header bytes as they are: extensions, orientation,
scaling and whatever the standard does not know stay bit for bit.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.errors import BadImage, BadLabels, ExportRefused
from napari_noisylabel.io import gzipped
from napari_noisylabel.io.files import damaged, reading, write_whole
from napari_noisylabel.io.format import Format, Header, Volume
from napari_noisylabel.io.values import check_fits, whole_numbers

KIND = "NIfTI"
MM = {1: 1000.0, 2: 1.0, 3: 0.001}  # metre, mm, micron; as ITK does, nibabel leaves it to its caller
RGB = {128: 3, 2304: 4}  # datatype codes of RGB24 and RGBA32: uint8 channels side by side
PIECE = 1 << 24  # bytes that are compressed at a time


def read_header(path: Path) -> Header:
    """Grid and type of a NIfTI file; reads no voxels."""
    head = _read_head(path)
    return Header(head.geometry, head.dtype.name, head.n_channels)


def read_image(path: Path) -> Volume:
    """The voxels as (C, *spatial): the stored type, or float32 where the header scales values."""
    head = _read_head(path)
    if head.dtype.kind not in "iuf":
        raise BadImage(f"an image must hold real numbers, but {path} holds {head.dtype.name}. Convert it.")
    array = _read_voxels(path, head)
    if head.n_channels > 1:
        return Volume(_channels_first(array, head), head.geometry, head.dtype.name)
    if head.is_scaled:
        array = array.astype(np.float32) * np.float32(head.slope) + np.float32(head.inter)
    return Volume(array[None], head.geometry, head.dtype.name)


def read_labels(path: Path) -> Volume:
    """The values as (*spatial) integers; whole-number floats and scaled integers are turned back."""
    head = _read_head(path, "labels")
    if head.n_channels > 1:
        raise BadLabels(f"labels must have one value per voxel, but {path} holds colours.")
    array = _read_voxels(path, head)
    if head.is_scaled:
        array = _snap(array.astype(np.float64) * head.slope + head.inter)
    return Volume(whole_numbers(array, str(path)), head.geometry, head.dtype.name)


def write_labels(source: Path, values: np.ndarray, out: Path) -> None:
    """Write `values`, (*spatial), with the header, type and scaling of `source`, bit for bit."""
    head = _read_head(source, "labels")
    if head.n_channels > 1:
        raise ExportRefused(f"labels cannot take the type of {source}, which holds colours. Export as NIfTI.")
    _check_shape(values, head, source)
    stored = values
    if head.is_scaled:
        stored = np.rint((values.astype(np.float64) - head.inter) / head.slope)
        if not np.array_equal(_snap(stored * head.slope + head.inter), values):
            raise ExportRefused(
                f"the scaling of {source} (slope {head.slope:g}, intercept {head.inter:g}) cannot hold the "
                "labels exactly. Export to a format without scaling."
            )
    _write(out, head.prefix, check_fits(stored, head.dtype.newbyteorder("="), str(source)), head.dtype)


def write_like(grid: Path, array: np.ndarray, out: Path) -> None:
    """Write `array`, (*spatial), in its own type on the grid of the NIfTI file `grid`."""
    head = _read_head(grid)
    _check_shape(array, head, grid)
    header = head.header.copy()
    array = _plain(array)
    _describe(header, array.dtype)
    prefix = header.binaryblock + head.prefix[len(header.binaryblock) :]
    _write(out, prefix, array, array.dtype.newbyteorder(header.endianness))


def write_new(array: np.ndarray, geometry: Geometry, out: Path) -> None:
    """Write `array`, (*spatial), to a new NIfTI-1 file that lies as `geometry` says."""
    if array.shape != geometry.shape:
        raise ExportRefused(f"array {array.shape} and geometry {geometry.shape} differ in shape, for {out}.")
    array = _plain(array)
    header = nib.Nifti1Header()
    header.set_data_shape(array.shape[::-1])
    _describe(header, array.dtype)
    if geometry.unit == "mm":
        world = geometry.matrix[:, [2, 1, 0, 3]]
        header.set_sform(world, 1)
        header.set_qform(world, 1, strip_shears=True)
        header.set_xyzt_units("mm")
    else:
        header["pixdim"][1 : 1 + array.ndim] = geometry.spacing[::-1]
    _write(out, header.binaryblock + bytes(4), array, array.dtype)


# ---------------------------------------------------------------- the header


@dataclass(frozen=True, eq=False)
class _Head:
    header: nib.Nifti1Header
    prefix: bytes  # everything before the voxels, as it is in the file
    geometry: Geometry
    dtype: np.dtype
    slope: float
    inter: float
    n_channels: int

    @property
    def is_scaled(self) -> bool:
        return (self.slope, self.inter) != (1.0, 0.0)

    @property
    def n_bytes(self) -> int:
        return math.prod(self.geometry.shape) * self.n_channels * self.dtype.itemsize


def _read_head(path: Path, what: str = "an image") -> _Head:
    with reading(path, KIND, zlib.error, HeaderDataError, KeyError), gzipped.open_plain(path) as file:
        block = file.read(540)
        kinds = [k for k in (nib.Nifti1Header, nib.Nifti2Header) if k.may_contain_header(block)]
        if not kinds:
            raise damaged(path, KIND, "its header is missing" if block else "it is empty")
        header = kinds[0](block[: kinds[0].sizeof_hdr])
        if bytes(header["magic"].item())[:2] == b"ni":
            raise damaged(path, KIND, "it holds a header only, its voxels are in an .img file")
        offset = int(header.get_data_offset())
        gzipped.check_size(path, offset)
        prefix = block[:offset] + file.read(max(0, offset - len(block)))
        code = int(header["datatype"])
        dtype = np.dtype(np.uint8) if code in RGB else header.get_data_dtype()
        slope, inter = header.get_slope_inter()
        head = _Head(
            header,
            prefix,
            _geometry(header, path, what),
            dtype,
            1.0 if slope is None else float(slope),
            0.0 if inter is None else float(inter),
            RGB.get(code, 1),
        )
        gzipped.check_size(path, offset + head.n_bytes)
        return head


def _geometry(header: nib.Nifti1Header, path: Path, what: str) -> Geometry:
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3) or 0 in shape:
        error = BadLabels if what == "labels" else BadImage
        raise error(
            f"{what} must be 2-D or 3-D, but {path} is {len(shape)}-D with shape {shape}. "
            "Save each channel or time point as a file of its own (name_0000.nii.gz, name_0001.nii.gz, ...)."
        )
    world = np.array(header.get_best_affine(), dtype=np.float64)
    world[:3] *= MM.get(int(header["xyzt_units"]) % 8, 1.0)
    if len(shape) == 2 and not np.any(world[:3, 2]):
        world[:3, 2] = np.cross(world[:3, 0], world[:3, 1]) / np.linalg.norm(world[:3, 0])
    if not np.isfinite(world).all() or np.linalg.cond(world[:3, :3]) > 1e6:
        raise damaged(path, KIND, "its affine is no grid (not finite, or flat)")
    has_code = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    affine = world[:, [2, 1, 0, 3]]  # from (x, y, z, 1) to (z, y, x, 1)
    rows = tuple(tuple(float(v) for v in row) for row in affine)
    return Geometry(shape[::-1], rows, "mm" if has_code else "px")


# ---------------------------------------------------------------- the voxels


def _read_voxels(path: Path, head: _Head) -> np.ndarray:
    with reading(path, KIND, zlib.error):
        data = gzipped.read_plain(path, len(head.prefix), head.n_bytes)
    shape = (*head.geometry.shape, head.n_channels) if head.n_channels > 1 else head.geometry.shape
    array = data.view(head.dtype).reshape(shape)
    return array if head.dtype.isnative else array.astype(head.dtype.newbyteorder("="))


def _channels_first(array: np.ndarray, head: _Head) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array[..., :3], -1, 0))  # alpha is no intensity


def _snap(values: np.ndarray) -> np.ndarray:
    near = np.rint(values)
    return np.where(np.abs(values - near) < 1e-3, near, values)  # float32 slopes leave dust


def _check_shape(array: np.ndarray, head: _Head, source: Path) -> None:
    if array.shape != head.geometry.shape:
        raise ExportRefused(
            f"an export must have the grid of its source, but the array is {array.shape} "
            f"and {source} is {head.geometry.shape}."
        )


def _plain(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _describe(header: nib.Nifti1Header, dtype: np.dtype) -> None:
    header.set_data_dtype(dtype.newbyteorder("="))
    header["vox_offset"] = max(int(header["vox_offset"]), header.single_vox_offset)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"] = header["cal_max"] = 0


def _write(out: Path, prefix: bytes, array: np.ndarray, stored: np.dtype) -> None:
    data = np.ascontiguousarray(array.astype(stored, copy=False)).reshape(-1).view(np.uint8)
    pieces = _pieces(prefix, data)
    write_whole(out, gzipped.compress(pieces) if out.name.lower().endswith(".gz") else pieces)


def _pieces(prefix: bytes, data: np.ndarray) -> Iterator[bytes | memoryview]:
    yield prefix
    for i in range(0, data.size, PIECE):
        yield data[i : i + PIECE].data


FORMAT = Format("NIfTI", (".nii.gz", ".nii"), read_header, read_image, read_labels, write_labels, write_like, write_new)
