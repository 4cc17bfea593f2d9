"""DICOM series written for the tests that read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

VOXELS = np.random.default_rng(0).integers(0, 2000, (5, 6, 7)).astype(np.int16)

UPRIGHT = [(1.0, 2.0, 3.0 + 5 * k) for k in range(5)]

CHEST, HEAD = "1.2.826.1", "1.2.826.2"


def write_series(
    folder: Path,
    voxels: np.ndarray = VOXELS,
    positions: Sequence[Sequence[float]] = UPRIGHT,
    directions: Sequence[float] = (1, 0, 0, 0, 1, 0),
    uid: str = CHEST,
    **tags: str,
) -> list[Path]:
    """One file per slice, 0.7 x 0.8 mm pixels, names in an order that is not that of the slices; ``tags``: t0008_0060="MR"."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    written = []
    for k, (plane, position) in enumerate(zip(voxels, positions, strict=False)):
        image = sitk.GetImageFromArray(plane, isVector=plane.ndim == 3)
        image.SetSpacing((0.7, 0.8))
        values = {
            "0008|0060": "CT",
            "0020|000e": uid,
            "0020|000d": "1.2.3",
            "0008|0018": f"{uid}.{k + 1}",
            "0008|103e": f"series {uid[-1]}",
            "0020|0032": "\\".join(f"{v:.6f}" for v in position),
            "0020|0037": "\\".join(f"{v:.9f}" for v in directions),
            **{tag[1:].replace("_", "|"): value for tag, value in tags.items()},
        }
        for tag, value in values.items():
            image.SetMetaData(tag, value)
        written.append(folder / f"{k * 3 % 5}{k}_{uid[-1]}.dcm")
        writer.SetFileName(str(written[-1]))
        writer.Execute(image)
    return written
