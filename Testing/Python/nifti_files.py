"""NIfTI files made byte by byte, and what must be read from them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])

CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}

VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5) * 50 - 1024

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make_affine(angles: tuple[float, float, float], spacing: tuple[float, float, float], shear: float, mirrored: bool) -> np.ndarray:
    affine = np.eye(4)
    tilt = np.eye(3)
    tilt[1, 2] = shear
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ tilt * spacing * [-1 if mirrored else 1, 1, 1]
    affine[:3, 3] = [-123.25, 45.5, -800.125]
    return affine


angle = st.floats(-180, 180)

millimetres = st.floats(0.3, 8)

angles, spacings = st.tuples(angle, angle, angle), st.tuples(millimetres, millimetres, millimetres)

affines = st.builds(make_affine, angles, spacings, shear=st.floats(-0.5, 0.5), mirrored=st.booleans())

SHEARED = make_affine((10, 20, 30), (0.7, 0.9, 5), 0.3, False)


def nifti(array: np.ndarray, affine_lps: np.ndarray, order: str = "<", **fields: object) -> bytes:
    """A NIfTI-1 file written field by field, as a reference that shares no code with the package."""
    header = bytearray(352)

    def put(offset: int, fmt: str, *values: object) -> None:
        struct.pack_into(order + fmt, header, offset, *values)

    ras = np.asarray(fields.get("srow", FLIP @ affine_lps))
    put(0, "i", 348)
    put(40, "8h", *fields.get("dim", [3, *array.shape[::-1], 1, 1, 1, 1]))
    put(70, "hh", fields.get("code", CODES[array.dtype.str[1:]]), array.dtype.itemsize * 8)
    put(76, "8f", fields.get("qfac", 1), *np.linalg.norm(ras[:3, :3], axis=0), 0, 0, 0, 0)
    put(108, "3f", fields.get("offset", 352), fields.get("slope", 0), fields.get("inter", 0))
    put(123, "B", fields.get("units", 2))
    put(252, "hh", fields.get("qform_code", 0), fields.get("sform_code", 1))
    put(256, "6f", *fields.get("quatern", (0, 0, 0)), *fields.get("qoffset", (0, 0, 0)))
    put(280, "12f", *ras[:3].ravel())
    header[344:348] = b"n+1\0"
    return bytes(header) + array.astype(array.dtype.newbyteorder(order)).tobytes()


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
