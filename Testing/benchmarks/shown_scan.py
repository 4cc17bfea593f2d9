"""A scan with what it shows of the patient: all anatomy, found without the package's body mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from UniversalAnatomicalEmbeddingLib.images import FloatArray, Grid, Modality, Volume, to_canonical

Mask = NDArray[np.bool_]
Mapping = Callable[[FloatArray], FloatArray]

AIR_HU = -1000.0
SPACING_MM = 2.0
TISSUE_HU = -200.0
GAS_HU = -500.0
PURE_GAS_HU = -970.0  # below: trachea, stomach and bowel
SMALLEST_LUNG = 4000  # voxels, 32 ml: what an abdominal scan shows of it


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan with masks (Z, Y, X) on its grid.

    ``anatomy``: the patient, lungs and lumina included. ``field``: voxels that hold a measured
    value, not padding. ``replaced``: voxels whose own tissue has given way to something else.
    """

    volume: Volume
    anatomy: Mask
    field: Mask
    replaced: Mask

    @property
    def shown(self) -> Mask:
        """The anatomy that can be seen."""
        return self.anatomy & self.field & ~self.replaced

    @property
    def extent_mm(self) -> FloatArray:
        """Sides (3,) of the box around the anatomy shown, in mm along z, y, x."""
        inside = np.argwhere(self.shown)
        sides = np.ptp(inside, axis=0) + 1 if len(inside) else np.zeros(3)
        return np.asarray(sides * self.volume.grid.spacing_zyx, dtype=np.float64)


def scan_of(volume: Volume, modality: Modality) -> Scan:
    """An uncut scan on cubic voxels of 2 mm, with its anatomy."""
    array, grid = to_canonical(volume, modality, SPACING_MM)
    everything = np.ones(array.shape, dtype=bool)
    anatomy = ct_anatomy(array) if modality == "ct" else mr_anatomy(array)
    return Scan(Volume(array, grid, modality, volume.name), anatomy, everything, ~everything)


def ct_anatomy(hu: NDArray) -> Mask:
    """Everything but room air, table and bedding, from HU on cubic voxels of 2 mm.

    Meant for uncut scans, whose chest wall is closed in every transverse slice: the soft tissue
    that is thicker than 12 mm, in parts of at least a tenth of the largest one, with all that it
    surrounds in a slice (lungs that run out of the scan above or below, airways, bowel gas), and
    the skin.
    """
    solid = opened(ndimage.median_filter(hu, 3) > TISSUE_HU, 3)
    labels, _ = ndimage.label(solid)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    patient = closed((sizes >= 0.1 * sizes.max())[labels], 4)
    patient = np.stack([ndimage.binary_fill_holes(part) for part in patient])
    return cast(Mask, ndimage.binary_dilation(patient, iterations=2, mask=patient | (hu > GAS_HU)))


def mr_anatomy(image: NDArray) -> Mask:
    """The largest part above the background, filled slice by slice along each axis."""
    smooth = ndimage.gaussian_filter(np.asarray(image, dtype=np.float32), 1.0)
    bright = smooth[smooth > smooth.mean()].mean()
    labels, _ = ndimage.label(opened(smooth > smooth.min() + 0.15 * (bright - smooth.min()), 1))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    mask = closed(labels == sizes.argmax(), 4)
    for axis in range(3):
        parts = [ndimage.binary_fill_holes(part) for part in np.moveaxis(mask, axis, 0)]
        mask = mask | np.moveaxis(np.stack(parts), 0, axis)
    return cast(Mask, mask)


def lungs(scan: Scan) -> tuple[Mask, Mask]:
    """Right and left lung with their vessels (Z, Y, X); empty where a scan shows none."""
    smooth = ndimage.gaussian_filter(scan.volume.array, 1.0)
    airy = scan.anatomy & (smooth < GAS_HU) & (smooth > PURE_GAS_HU)
    labels, _ = ndimage.label(opened(airy, 3))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    chosen = np.flatnonzero((sizes > 0.2 * sizes.max()) & (sizes >= SMALLEST_LUNG))
    both = closed(np.isin(labels, chosen), 4) & scan.anatomy
    side = np.arange(both.shape[2]) < np.mean(limits(both, 2)) if both.any() else False
    return both & side, both & ~np.asarray(side)


def opened(mask: Mask, iterations: int) -> Mask:
    """Opened; what runs out of the scan is not eaten from there."""
    shrunk = ndimage.binary_erosion(mask, iterations=iterations, border_value=1)
    return cast(Mask, ndimage.binary_dilation(shrunk, iterations=iterations, mask=mask))


def closed(mask: Mask, iterations: int) -> Mask:
    """Closed, at the border as if nothing lay beyond."""
    padded = ndimage.binary_closing(np.pad(mask, iterations), iterations=iterations)
    return cast(Mask, padded[(slice(iterations, -iterations),) * 3])


def limits(mask: Mask, axis: int) -> tuple[int, int]:
    """First index that holds any of the mask along an axis, and the one after the last."""
    there = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
    return int(there[0]), int(there[-1]) + 1


def resampled(scan: Scan, grid: Grid, back: Mapping = lambda points: points, noise: NDArray | float = 0.0) -> Scan:
    """The scan on another grid, whose points ``back`` takes to the scan's; outside it is air."""
    voxels = np.indices(grid.shape_zyx).reshape(3, -1).T
    parts = np.array_split(voxels, max(1, len(voxels) // 200_000))
    source = np.concatenate([back(grid.index_to_world(part)) for part in parts])
    index = scan.volume.grid.world_to_index(source).T
    outside = AIR_HU if scan.volume.modality == "ct" else float(scan.volume.array.min())
    image = ndimage.map_coordinates(scan.volume.array, index, order=1, cval=outside)
    masks = (
        ndimage.map_coordinates(m.astype(np.uint8), index, order=0).reshape(grid.shape_zyx) > 0
        for m in (scan.anatomy, scan.field, scan.replaced)
    )
    array = (image.reshape(grid.shape_zyx) + noise).astype(np.float32)
    return Scan(replace(scan.volume, array=array, grid=grid), *masks)


def presence(scan: Scan, points: FloatArray, present_mm: float, cut_mm: float) -> tuple[Mask, Mask]:
    """Which points (N, 3) LPS mm are shown, ``present_mm`` deep, and which lie ``cut_mm`` outside.

    Both distances are along the axes, both ways. What is shown has its own tissue too.
    """

    def around(distance: float) -> Mask:
        steps = distance * np.vstack([np.zeros(3), np.eye(3), -np.eye(3)])
        return np.stack([at(scan.field, scan.volume.grid, points + step) for step in steps])

    own = ~at(scan.replaced, scan.volume.grid, points)
    return around(present_mm).all(axis=0) & own, ~around(cut_mm).any(axis=0)


def at(mask: Mask, grid: Grid, points: FloatArray) -> Mask:
    """The mask (Z, Y, X) at points (N, 3) LPS mm; False outside."""
    index = np.rint(grid.world_to_index(points)).T
    return cast(Mask, ndimage.map_coordinates(mask.astype(np.uint8), index, order=0) > 0)
