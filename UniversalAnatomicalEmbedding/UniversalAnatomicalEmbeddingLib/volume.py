"""A scan in memory: voxels, geometry, modality; reading and writing through SimpleITK."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .geometry import Grid

Modality = Literal["ct", "mr", "xray"]


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels ``(Z, Y, X)`` (one slice for a 2-D image), their grid, and what made them (None: not known)."""

    array: NDArray
    grid: Grid
    modality: Modality | None = None
    name: str = "volume"

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape_zyx:
            raise ValueError(f"The voxel array has shape {self.array.shape}, but its grid {self.grid.shape_zyx}.")


def read_volume(path: str | Path, modality: Modality | None = None) -> Volume:
    """Read NIfTI, NRRD, MHA/MHD."""
    image = sitk.ReadImage(str(path))
    return from_sitk(image, modality, Path(path).name.split(".")[0])


def from_sitk(image: sitk.Image, modality: Modality | None = None, name: str = "volume") -> Volume:
    """Wrap a 3-D scalar SimpleITK image."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    array = sitk.GetArrayFromImage(image)
    return Volume(array, Grid(array.shape, affine), modality, name)
