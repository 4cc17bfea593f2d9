"""Where anatomy can be: everything but cells whose surroundings are flat air, and a rough guess of the patient to sample from.

A search must never be denied a place that shows anatomy. So nothing here asks for the largest part, fills slices or takes
the mean of the scan for a threshold: lungs that are open to the border, lumina and gas near tissue all stay.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .hounsfield import AIR_HU
from .preprocess import approximate_body
from .volume import Modality

Mask = NDArray[np.bool_]
Box = tuple[slice, slice, slice]

SURROUNDINGS_MM = 12.0
CELL_MM = 4.0
CT_AIR_MOST_HU = -950.0
MR_AIR_SHARE = 0.2  # of the mean brightness: what is more is not air, whatever the noise
FLAT_SD = 5.0
BRIGHTEST = 90  # percentile that window means are cut to, against a few hot slices or a coil in the body
FLATTEST = 10  # percentile of the windows' spreads that counts as the noise of the scan
WINDOW_CELLS = 3
CLOSED_MM = 8.0
LUNG_HU = (-950.0, -500.0)
LUNG_ML = 50.0
LUNG_WINDOW_MM = 16.0
LUNG_SPREAD_HU = 160.0
VESSEL_SHARE = 0.004


def cell_means(image: NDArray, stride_zyx: tuple[int, int, int], modality: Modality) -> NDArray[np.float32]:
    """Mean intensity of each cell ``(z, y, x)`` of ``stride_zyx`` voxels of raw ``image`` ``(Z, Y, X)``.

    The last cells along an axis may be cut. What a CT has below -1024 HU is padding: air.
    """
    floor = AIR_HU if modality == "ct" else -np.inf
    starts = [np.arange(0, n, k) for n, k in zip(image.shape, stride_zyx, strict=True)]
    total = np.empty((len(starts[0]), *image.shape[1:]), dtype=np.float32)
    for row, start in zip(total, starts[0], strict=True):  # slab by slab: no second copy of the scan
        part = image[start : start + stride_zyx[0]]
        np.mean(np.maximum(part, floor) if modality == "ct" else part, axis=0, dtype=np.float32, out=row)
    for axis in (1, 2):
        sizes = np.diff([*starts[axis], image.shape[axis]]).astype(np.float32)
        total = np.add.reduceat(total, starts[axis], axis=axis)
        total /= sizes.reshape([-1 if a == axis else 1 for a in range(3)])
    return total


def air_ceiling(cells: NDArray[np.float32], modality: Modality) -> float:
    """The mean intensity of a cell (of about 4 mm) up to which it may be air: the level of the scan's flat dark windows plus
    5 times their noise.

    CT: at most -950 HU, less than any lung. MR: at most 20 % of the mean brightness, which hot slices and coils do not count
    in. Where no window is dark, flat and noisy, only what is as dark as the darkest cell is air.
    """
    mean, spread = _windows(cells)
    darkest = float(cells.min())
    if modality == "ct":
        most = CT_AIR_MOST_HU
    else:
        bright = np.minimum(mean, np.percentile(mean, BRIGHTEST)).mean()
        most = darkest + MR_AIR_SHARE * float(bright - darkest)
    noisy = (mean <= most) & (spread > 0)  # windows of one value are padding, not measured air
    if not noisy.any():
        return min(darkest, most)
    noise = np.percentile(spread[noisy], FLATTEST)
    flat = noisy & (spread <= 2 * noise)
    return min(float(np.median(mean[flat]) + FLAT_SD * np.median(spread[flat])), most)


def find_search_space(cells: NDArray[np.float32], modality: Modality, cell_mm: float) -> Mask:
    """Cells ``(z, y, x)`` that may show anatomy, from their means (:func:`cell_means`): all but those around which, for 12 mm,
    everything is air as flat as the scan's own noise. Everything where there is nothing but air.
    """
    occupied = cells > air_ceiling(cells, modality)
    if not occupied.any():
        return np.ones(cells.shape, dtype=bool)
    reach = SURROUNDINGS_MM + cell_mm * np.sqrt(3) / 2  # from the middle of a cell to the far corner of another
    return ndimage.distance_transform_edt(~occupied, sampling=cell_mm) <= reach


def approximate_anatomy(cells: NDArray[np.float32], modality: Modality, cell_mm: float) -> Mask:
    """About the cells of the patient, a place to sample points from; it must never decide what is searched.

    CT: the body without table and clothes, and lungs that are open to the border of the field of view. MR: what is not air,
    less what is thinner than three cells, closed over 8 mm. Nothing where the scan shows but air.
    """
    if modality == "ct":
        body = approximate_body(cells, modality, cell_mm)
        return body | _open_lungs(cells, ~body, cell_mm)
    occupied = np.pad(cells > air_ceiling(cells, modality), 1, mode="edge")
    return _closed(_opened(occupied)[1:-1, 1:-1, 1:-1], cell_mm)


def _open_lungs(cells: NDArray[np.float32], outside: Mask, cell_mm: float) -> Mask:
    """Lungs in what a body mask takes for outside air: thick parts of lung density with vessels in them.

    A mattress is as dense, but has none; folds of cloth vary more. Over the development and training CTs, cut beside the
    spine and whole, 0.4 % of a lung or more is vessel at cells of 4 mm, and the median spread within 20 mm is 60 to 150 HU.
    """
    window = 2 * round(LUNG_WINDOW_MM / (2 * cell_mm)) + 1
    mean, square = (ndimage.uniform_filter(x, window, mode="nearest") for x in (cells, cells**2))
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    airy = np.pad(outside & (cells > LUNG_HU[0]) & (cells < LUNG_HU[1]), 2, mode="edge")
    parts, _ = ndimage.label(_opened(airy)[2:-2, 2:-2, 2:-2])
    found = np.zeros(cells.shape, dtype=bool)
    for number, size in enumerate(np.bincount(parts.ravel())[1:], start=1):
        part = parts == number
        if size * cell_mm**3 / 1000 < LUNG_ML or np.median(spread[part]) > LUNG_SPREAD_HU:
            continue
        closed = _closed(part, cell_mm)
        if np.mean(cells[closed] > LUNG_HU[1]) >= VESSEL_SHARE:
            found |= closed
    return found


def _opened(mask: Mask) -> Mask:
    return ndimage.binary_opening(mask, np.ones((3, 3, 3)))


def _closed(mask: Mask, cell_mm: float) -> Mask:
    reach = max(1, round(CLOSED_MM / cell_mm))
    return ndimage.binary_closing(np.pad(mask, reach), iterations=reach)[(slice(reach, -reach),) * 3]


def bounding_box(searched: Mask, shape_zyx: tuple[int, ...], stride_zyx: tuple[int, int, int]) -> tuple[Box, Box]:
    """The smallest box around a search space: as voxels of its scan of ``shape_zyx``, and as cells of ``stride_zyx`` voxels."""
    voxels, cells = [], []
    for axis, (n, k) in enumerate(zip(shape_zyx, stride_zyx, strict=True)):
        used = np.flatnonzero(searched.any(axis=tuple(a for a in range(3) if a != axis)))
        first, end = int(used[0]), int(used[-1]) + 1
        cells.append(slice(first, end))
        voxels.append(slice(k * first, min(n, k * end)))
    return (voxels[0], voxels[1], voxels[2]), (cells[0], cells[1], cells[2])


def anatomy_voxels(image: NDArray, modality: Modality, spacing_mm: float) -> Mask:
    """:func:`approximate_anatomy` of raw intensities ``(Z, Y, X)`` on cubic voxels of ``spacing_mm``, voxel by voxel."""
    k = max(1, round(CELL_MM / spacing_mm))
    mask = approximate_anatomy(cell_means(image, (k, k, k), modality), modality, k * spacing_mm)
    for axis in range(3):
        mask = mask.repeat(k, axis=axis)
    return mask[tuple(slice(n) for n in image.shape)]


def _windows(cells: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation (N,) of side-by-side windows of 3x3x3 cells, or less in a thinner scan."""
    size = [min(WINDOW_CELLS, n) for n in cells.shape]
    count = [n // k for n, k in zip(cells.shape, size, strict=True)]
    whole = cells[tuple(slice(n * k) for n, k in zip(count, size, strict=True))]
    (z, y, x), (a, b, c) = count, size
    rows = whole.reshape(z, a, y, b, x, c).transpose(0, 2, 4, 1, 3, 5).reshape(z * y * x, a * b * c)
    return rows.mean(axis=1), rows.std(axis=1)
