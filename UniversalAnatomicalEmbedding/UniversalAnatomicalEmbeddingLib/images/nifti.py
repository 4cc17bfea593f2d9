"""The 348-byte NIfTI-1 header: the exact index-to-LPS affine, which ITK coerces or refuses where an image is sheared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..system.errors import InputError
from .grid import FLIP, Grid

HEADER_BYTES = 348
MAX_OFFSET = 1 << 30  # header extensions fill what lies before the voxels
DATA_OFFSET = 352  # header and four zero bytes: no extensions
MILLIMETRES_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # metre, millimetre, micrometre; 0 (not stated) counts as millimetre
DATA_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
MULTI_VALUE_TYPES = {32: "complex", 128: "RGB", 1792: "complex", 2048: "complex", 2304: "RGBA"}
ORTHONORMAL_TOLERANCE = 1e-4  # a qform is written up to here: 0.03 mm at 300 mm from the origin

_FIELDS = {  # name: (format, offset)
    "sizeof_hdr": ("i4", 0),
    "dim": ("8i2", 40),
    "datatype": ("i2", 70),
    "bitpix": ("i2", 72),
    "pixdim": ("8f4", 76),
    "vox_offset": ("f4", 108),
    "scl_slope": ("f4", 112),
    "scl_inter": ("f4", 116),
    "xyzt_units": ("u1", 123),
    "qform_code": ("i2", 252),
    "sform_code": ("i2", 254),
    "quatern": ("3f4", 256),
    "qoffset": ("3f4", 268),
    "srow": ("(3,4)f4", 280),
    "magic": ("S4", 344),
}
_LAYOUT = np.dtype(
    {
        "names": list(_FIELDS),
        "formats": [fmt for fmt, _ in _FIELDS.values()],
        "offsets": [offset for _, offset in _FIELDS.values()],
        "itemsize": HEADER_BYTES,
    }
)


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """What is needed to read the voxels: stored type with its byte order, shape, affine (LPS mm), rescaling, first byte of the data."""

    dtype: np.dtype
    shape_zyx: tuple[int, int, int]
    affine: NDArray[np.float64]
    slope: float
    intercept: float
    offset: int


def parse_header(data: bytes) -> NiftiHeader:
    """Read a NIfTI-1 header of either byte order.

    The sform is used where ``sform_code > 0``, else the qform where ``qform_code > 0``; with neither the voxel axes are taken as LPS with
    the first voxel at the origin, as ITK and 3D Slicer do. Raises InputError, without the file's name, for what is no scalar 3-D image.
    """
    if len(data) < HEADER_BYTES:
        raise InputError(f"it is incomplete: it holds {len(data)} bytes, a NIfTI header alone has {HEADER_BYTES}. Copy it again.")
    order: Literal["<", ">"] = "<" if int.from_bytes(data[:4], "little") == HEADER_BYTES else ">"
    header = np.frombuffer(data, _LAYOUT.newbyteorder(order), count=1)[0]
    if header["sizeof_hdr"] != HEADER_BYTES or header["magic"] != b"n+1":
        raise InputError("it is no single-file NIfTI-1 image (.nii, .nii.gz); convert NIfTI-2, .hdr/.img and Analyze files to NIfTI-1.")
    code = int(header["datatype"])
    if code not in DATA_TYPES:
        what = f"{MULTI_VALUE_TYPES[code]} voxels" if code in MULTI_VALUE_TYPES else f"voxels of the unknown data type {code}"
        raise InputError(f"it has {what}; one number per voxel is needed, export a scalar image.")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        slope, intercept = 1.0, 0.0
    return NiftiHeader(
        dtype=np.dtype(DATA_TYPES[code]).newbyteorder(order),
        shape_zyx=_shape(header),
        affine=FLIP @ _affine_ras(header),
        slope=slope,
        intercept=intercept,
        offset=_offset(float(header["vox_offset"])),
    )


def build_header(dtype: np.dtype, grid: Grid) -> bytes:
    """The 352 bytes before little-endian voxels of ``dtype``.

    The sform holds the full affine. A qform is added only where the axes are orthogonal, so that other software refuses a sheared image
    rather than reads it straightened.
    """
    codes = {np.dtype(name): code for code, name in DATA_TYPES.items()}
    header = np.zeros((), _LAYOUT.newbyteorder("<"))
    affine_ras = FLIP @ grid.affine
    header["sizeof_hdr"], header["magic"] = HEADER_BYTES, b"n+1"
    header["dim"] = [3, *grid.shape_zyx[::-1], 1, 1, 1, 1]
    header["datatype"], header["bitpix"] = codes[dtype.newbyteorder("=")], dtype.itemsize * 8
    header["vox_offset"], header["scl_slope"], header["xyzt_units"] = DATA_OFFSET, 1, 2
    header["sform_code"], header["srow"] = 1, affine_ras[:3]
    quaternion, qfac = _quaternion(FLIP[:3, :3] @ grid.direction)
    header["pixdim"] = [qfac, *grid.spacing_xyz, 0, 0, 0, 0]
    if quaternion is not None:
        header["qform_code"], header["quatern"], header["qoffset"] = 1, quaternion, affine_ras[:3, 3]
    return header.tobytes() + bytes(DATA_OFFSET - HEADER_BYTES)


def _offset(stated: float) -> int:
    """Where the voxels begin; some writers leave the field 0."""
    if not 0 <= stated <= MAX_OFFSET:
        raise InputError(f"its header says that the voxels begin at byte {stated:g}; the file is damaged, export it again.")
    return int(stated) if stated >= HEADER_BYTES else DATA_OFFSET


def _shape(header: np.void) -> tuple[int, int, int]:
    """Array shape (z, y, x); trailing axes of size one are dropped, missing ones added."""
    count = int(header["dim"][0])
    sizes = [int(n) for n in header["dim"][1 : count + 1]]
    if not 1 <= count <= 7 or min(sizes) < 1:
        raise InputError(f"its header states the sizes {sizes}; they must be positive. The file is damaged or empty, export it again.")
    if any(n > 1 for n in sizes[4:]):
        raise InputError(f"it has several values per voxel (sizes {sizes}); export one scalar image.")
    if any(n > 1 for n in sizes[3:]):
        raise InputError(f"it is 4-D with {sizes[3]} time points or volumes; extract one of them and give that.")
    x, y, z = [*sizes, 1, 1][:3]
    return z, y, x


def _affine_ras(header: np.void) -> NDArray[np.float64]:
    """Index (x, y, z, 1) to millimetres in the RAS frame of the format."""
    unit = MILLIMETRES_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    spacing = np.abs(header["pixdim"][1:4].astype(np.float64))
    spacing[int(header["dim"][0]) :] = 1 / unit  # axes a 2-D image does not have
    affine = np.eye(4)
    if header["sform_code"] > 0:
        affine[:3] = header["srow"]
        if header["dim"][0] < 3 and not affine[:3, 2].any():
            normal = np.cross(affine[:3, 0], affine[:3, 1])
            affine[:3, 2] = normal / max(float(np.linalg.norm(normal)), 1e-30) / unit
    elif header["qform_code"] > 0:
        affine[:3, :3] = _rotation(header["quatern"].astype(np.float64)) * spacing
        affine[:3, 2] *= -1 if header["pixdim"][0] < 0 else 1
        affine[:3, 3] = header["qoffset"]
    else:
        affine = FLIP @ np.diag([*spacing, 1.0])
    affine[:3] *= unit
    return affine


def _rotation(bcd: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix of the unit quaternion whose last three components are given."""
    b, c, d = bcd / max(1.0, float(np.linalg.norm(bcd)))
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def _quaternion(directions: NDArray[np.float64]) -> tuple[NDArray[np.float64] | None, float]:
    """Last three components of the unit quaternion of ``directions`` (None: sheared) and the sign of their handedness."""
    from scipy.spatial.transform import Rotation

    handedness = float(np.sign(np.linalg.det(directions)))
    if np.abs(directions.T @ directions - np.eye(3)).max() > ORTHONORMAL_TOLERANCE:
        return None, handedness
    x, y, z, w = Rotation.from_matrix(directions * [1, 1, handedness]).as_quat()
    return np.array([x, y, z]) * (-1 if w < 0 else 1), handedness
