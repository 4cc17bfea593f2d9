"""Label maps as sources deliver them: one map with a table of names, one file per organ, or a folder of PNG slices beside DICOM ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from UniversalAnatomicalEmbeddingLib.images import EXTENSIONS, Grid, Volume, read_volume
from UniversalAnatomicalEmbeddingLib.system import InputError

from ..scans.labels import read_table

UNNAMED = np.uint16(65535)

LabelArray = NDArray[np.uint16]


def collect(labels: Sequence[Path], table: Path | None, scan: Volume, slices: Path, grid: Grid) -> tuple[LabelArray, dict[int, str]]:
    """All labels of a ``scan`` on ``grid``, and the name of every value; ``UNNAMED`` where files overlap or a value has no name.

    With a ``table``: one map, or one folder of PNG slices that follow the order of the DICOM files in the folder ``slices``. Without: one file per
    organ, named after it. Structures that a table or file name lists but the scan does not show are in the names too. InputError for what does not
    fit together.
    """
    if table is None:
        return _organ_files(labels, grid)
    if len(labels) != 1:
        raise InputError(
            f"{table} names the values of one label map, but {len(labels)} were found: {', '.join(p.name for p in labels[:3])}."
        )
    found = labels[0]
    source = Volume(png_slices(found, slices, scan), scan.grid) if found.is_dir() else read_volume(found)
    values = nearest(source, grid)
    out = np.where(values == 0, 0, UNNAMED).astype(np.uint16)
    names = {}
    for number, (first, last, name) in enumerate(read_table(table), start=1):
        out[(values >= first) & (values <= last)] = number
        names[number] = name
    return out, names


def _organ_files(labels: Sequence[Path], grid: Grid) -> tuple[LabelArray, dict[int, str]]:
    out = np.zeros(grid.shape_zyx, dtype=np.uint16)
    names = {}
    for number, path in enumerate(labels, start=1):
        names[number] = path.name[: -len(next(e for e in EXTENSIONS if path.name.lower().endswith(e)))]
        here = nearest(read_volume(path), grid) != 0
        out[here] = np.where(out[here] == 0, np.uint16(number), UNNAMED)
    return out, names


def nearest(labels: Volume, grid: Grid) -> LabelArray:
    """A label map on another grid, from the nearest voxel; 0 outside. Exact for oblique and sheared grids. InputError if it does not meet the grid."""
    if not grid.contains(labels.grid.corners()).any() and not labels.grid.contains(grid.corners()).any():
        middle = labels.grid.index_to_world((np.array(labels.grid.shape_zyx) - 1) / 2)
        if not grid.contains(middle).any():
            raise InputError(f"The label map {labels.name} lies elsewhere than its scan; is it the right one?")
    if (labels.array < 0).any() or (labels.array != np.rint(labels.array)).any():
        raise InputError(f"The label map {labels.name} has negative or fractional values; whole numbers are needed.")
    matrix = np.linalg.inv(labels.grid.affine) @ grid.affine
    transform = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    size = [int(n) for n in grid.shape_zyx[::-1]]
    image = sitk.GetImageFromArray(labels.array.astype(np.uint16))
    out = sitk.Resample(image, size, transform, sitk.sitkNearestNeighbor, [0.0] * 3, [1.0] * 3, np.eye(3).ravel().tolist(), 0)
    return sitk.GetArrayFromImage(out)


def png_slices(folder: Path, slices: Path, scan: Volume) -> LabelArray:
    """A stack ``(Z, Y, X)`` on the scan's grid of PNG images, the k-th of which belongs to the k-th DICOM file of the folder ``slices``."""
    images, files = (sorted((p for p in place.iterdir() if p.is_file()), key=_natural) for place in (folder, slices))
    images = [p for p in images if p.suffix.lower() == ".png"]
    placed = [(position, p) for p in files if (position := _position(p, scan.grid)) is not None]
    if not len(images) == len(placed) == scan.grid.shape_zyx[0]:
        raise InputError(f"{folder} holds {len(images)} PNG images for {len(placed)} DICOM slices; one for each is needed.")
    stack = np.empty(scan.grid.shape_zyx, dtype=np.uint16)
    order = np.argsort([position for position, _ in placed])
    for k, n in enumerate(order):
        plane = sitk.GetArrayFromImage(sitk.ReadImage(str(images[n])))
        plane = plane[..., 0] if plane.ndim == 3 else plane
        if plane.shape != stack.shape[1:]:
            raise InputError(f"{images[n]} has {plane.shape[1]} x {plane.shape[0]} pixels, unlike the scan; is it the right folder?")
        stack[k] = plane
    return stack


def _natural(path: Path) -> list[tuple[int, str]]:
    """Names in the order of the numbers in them."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _position(path: Path, grid: Grid) -> float | None:
    """Where a DICOM file lies along the slices of the grid (index); None for other files."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        origin = [float(v) for v in reader.GetMetaData("0020|0032").split("\\")]
    except RuntimeError:
        return None
    return float(grid.world_to_index([origin])[0, 0])
