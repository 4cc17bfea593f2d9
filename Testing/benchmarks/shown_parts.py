"""Scans that show a part of the body or are disturbed, with what they show known.

A way is a pure function of a scan and a random generator; it returns the scan as another device,
another field of view or another state of the patient would show it. Places are found in the scan
itself, so that a way means the same in any patient. Nothing here knows the package's body mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from UniversalAnatomicalEmbeddingLib.geometry import FloatArray, Grid
from UniversalAnatomicalEmbeddingLib.preprocess import to_canonical
from UniversalAnatomicalEmbeddingLib.volume import Modality, Volume

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
        return np.asarray(sides * self.volume.grid.spacing_xyz[::-1], dtype=np.float64)


Way = Callable[[Scan, np.random.Generator], Scan]


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
    solid = _opened(ndimage.median_filter(hu, 3) > TISSUE_HU, 3)
    labels, _ = ndimage.label(solid)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    patient = _closed((sizes >= 0.1 * sizes.max())[labels], 4)
    patient = np.stack([ndimage.binary_fill_holes(part) for part in patient])
    return cast(Mask, ndimage.binary_dilation(patient, iterations=2, mask=patient | (hu > GAS_HU)))


def mr_anatomy(image: NDArray) -> Mask:
    """The largest part above the background, filled slice by slice along each axis."""
    smooth = ndimage.gaussian_filter(np.asarray(image, dtype=np.float32), 1.0)
    bright = smooth[smooth > smooth.mean()].mean()
    labels, _ = ndimage.label(_opened(smooth > smooth.min() + 0.15 * (bright - smooth.min()), 1))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    mask = _closed(labels == sizes.argmax(), 4)
    for axis in range(3):
        parts = [ndimage.binary_fill_holes(part) for part in np.moveaxis(mask, axis, 0)]
        mask = mask | np.moveaxis(np.stack(parts), 0, axis)
    return cast(Mask, mask)


def lungs(scan: Scan) -> tuple[Mask, Mask]:
    """Right and left lung with their vessels (Z, Y, X); empty where a scan shows none."""
    smooth = ndimage.gaussian_filter(scan.volume.array, 1.0)
    airy = scan.anatomy & (smooth < GAS_HU) & (smooth > PURE_GAS_HU)
    labels, _ = ndimage.label(_opened(airy, 3))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    chosen = np.flatnonzero((sizes > 0.2 * sizes.max()) & (sizes >= SMALLEST_LUNG))
    both = _closed(np.isin(labels, chosen), 4) & scan.anatomy
    side = np.arange(both.shape[2]) < np.mean(_limits(both, 2)) if both.any() else False
    return both & side, both & ~np.asarray(side)


def _opened(mask: Mask, iterations: int) -> Mask:
    """Opened with the border repeated, so that what runs out of the scan is not eaten from there."""
    shrunk = ndimage.binary_erosion(mask, iterations=iterations, border_value=1)
    return cast(Mask, ndimage.binary_dilation(shrunk, iterations=iterations, mask=mask))


def _closed(mask: Mask, iterations: int) -> Mask:
    padded = ndimage.binary_closing(np.pad(mask, iterations), iterations=iterations)
    return cast(Mask, padded[(slice(iterations, -iterations),) * 3])


def _limits(mask: Mask, axis: int) -> tuple[int, int]:
    """First index that holds any of the mask along an axis, and the one after the last."""
    there = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
    return int(there[0]), int(there[-1]) + 1


def resampled(
    scan: Scan, grid: Grid, back: Mapping = lambda points: points, noise: NDArray | float = 0.0
) -> Scan:
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
    """Which points (N, 3) LPS mm are shown, ``present_mm`` inside the field, and which ``cut_mm`` out.

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


def _crop(scan: Scan, low_zyx: ArrayLike, high_zyx: ArrayLike) -> Scan:
    """The box of voxels from ``low`` to before ``high``, as far as the scan goes."""
    low = np.maximum(np.rint(low_zyx).astype(int), 0)
    high = np.minimum(np.rint(high_zyx).astype(int), scan.field.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grid = scan.volume.grid.cropped(low, high - low)
    volume = replace(scan.volume, array=scan.volume.array[box], grid=grid)
    return Scan(volume, scan.anatomy[box], scan.field[box], scan.replaced[box])


def _along(scan: Scan, axis: int, low: float, high: float) -> Scan:
    """Cropped along one axis only."""
    lows, highs = np.zeros(3), np.array(scan.field.shape, dtype=float)
    lows[axis], highs[axis] = low, high
    return _crop(scan, lows, highs)


def _valued(scan: Scan, array: NDArray, replaced: Mask | None = None) -> Scan:
    """Other values; where given, also more of the anatomy replaced."""
    volume = replace(scan.volume, array=np.asarray(array, dtype=np.float32))
    gone = scan.replaced if replaced is None else scan.replaced | (replaced & scan.anatomy)
    return replace(scan, volume=volume, replaced=gone)


def _ball(scan: Scan, centre_zyx: ArrayLike, radius_mm: float) -> Mask:
    offsets = [(np.arange(n) - c) for n, c in zip(scan.field.shape, np.asarray(centre_zyx), strict=True)]
    z, y, x = np.meshgrid(*offsets, indexing="ij", sparse=True)
    return cast(Mask, z**2 + y**2 + x**2 <= (radius_mm / SPACING_MM) ** 2)


def _centre(mask: Mask) -> FloatArray:
    return np.array(ndimage.center_of_mass(mask))


def _gas(scan: Scan, rng: np.random.Generator) -> NDArray:
    return rng.normal(AIR_HU, 15.0, scan.field.shape)


def _lung_level(scan: Scan) -> float:
    """The slice of the lungs' centre of mass, or the middle of the anatomy."""
    right, left = lungs(scan)
    return float(_centre(right | left if (right | left).any() else scan.anatomy)[0])


# fields of view


def uncut(scan: Scan, rng: np.random.Generator) -> Scan:
    """The scan as it is."""
    return scan


def right_lung(scan: Scan, rng: np.random.Generator) -> Scan:
    """A zoomed reconstruction that ends 24 mm right of the middle of the lungs, open there."""
    low, high = _limits(np.logical_or(*lungs(scan)), 2)
    return _along(scan, 2, low - 6, (low + high) / 2 - 12)


def left_lung(scan: Scan, rng: np.random.Generator) -> Scan:
    """As :func:`right_lung`, and the chest wall is left out too: open on both sides."""
    low, high = _limits(np.logical_or(*lungs(scan)), 2)
    return _along(scan, 2, (low + high) / 2 + 12, high - 5)


def slab(thickness_mm: float) -> Way:
    """A thin slab at the middle of the lungs, or of the scan."""

    def way(scan: Scan, rng: np.random.Generator) -> Scan:
        first = round(_lung_level(scan) - thickness_mm / SPACING_MM / 2)
        return _along(scan, 0, first, first + round(thickness_mm / SPACING_MM))

    return way


def upper_half(scan: Scan, rng: np.random.Generator) -> Scan:
    """The upper half of the anatomy."""
    low, high = _limits(scan.anatomy, 0)
    return _along(scan, 0, (low + high) / 2, high)


def lower_half(scan: Scan, rng: np.random.Generator) -> Scan:
    """The lower half of the anatomy."""
    low, high = _limits(scan.anatomy, 0)
    return _along(scan, 0, low, (low + high) / 2)


def right_half(scan: Scan, rng: np.random.Generator) -> Scan:
    """The right half of the body."""
    low, high = _limits(scan.anatomy, 2)
    return _along(scan, 2, low, (low + high) / 2)


def top_in_trachea(scan: Scan, rng: np.random.Generator) -> Scan:
    """The scan begins 10 mm below the tops of the lungs: trachea and both lungs are open above."""
    top = min(_limits(lung, 0)[1] for lung in lungs(scan))
    return _along(scan, 0, 0, top - 5)


def cylinder(padding_hu: float) -> Way:
    """A round field of view of 200 mm in its square, padded with a constant as scanners do."""

    def way(scan: Scan, rng: np.random.Generator) -> Scan:
        y, x = _centre(scan.anatomy)[1:]
        part = _crop(scan, (0, y - 50, x - 50), (scan.field.shape[0], y + 50, x + 50))
        rows, columns = np.indices(part.field.shape[1:]) * SPACING_MM
        centre = part.volume.grid.world_to_index(scan.volume.grid.index_to_world((0, y, x)))[0]
        centre = centre * SPACING_MM
        seen = np.hypot(rows - centre[1], columns - centre[2]) <= 100
        padded = np.where(seen, part.volume.array, padding_hu)
        return replace(_valued(part, padded), field=part.field & seen)

    return way


def box_in_lung(scan: Scan, rng: np.random.Generator) -> Scan:
    """A cube of 60 mm in the middle of the right lung: nothing but lung."""
    right, _ = lungs(scan)
    deep = ndimage.distance_transform_edt(np.pad(right, 1))[1:-1, 1:-1, 1:-1]
    centre = np.array(np.unravel_index(deep.argmax(), deep.shape))
    return _crop(scan, centre - 15, centre + 15)


def box_at_sternum(scan: Scan, rng: np.random.Generator) -> Scan:
    """A box 80 mm high, 60 mm wide and deep behind the skin of the breastbone, skin at its border."""
    z = round(_lung_level(scan))
    x = round(float(_centre(scan.anatomy[max(z, 0)])[1]))
    y = int(np.flatnonzero(scan.anatomy[z, :, x])[0])
    return _crop(scan, (z - 20, y - 2, x - 15), (z + 20, y + 28, x + 15))


# devices


def exact_air(scan: Scan, rng: np.random.Generator) -> Scan:
    """A coarse planning CT: 4 x 4 x 3 mm, everything outside the body exactly -1024."""
    affine = scan.volume.grid.affine.copy()
    factor = np.array([4.0, 4.0, 3.0]) / scan.volume.grid.spacing_xyz
    affine[:3, :3] = affine[:3, :3] * factor
    shape = np.maximum(np.floor(np.array(scan.field.shape) / factor[::-1]).astype(int), 3)
    coarse = resampled(scan, Grid(tuple(shape), affine))
    return _valued(coarse, np.where(coarse.anatomy, coarse.volume.array, -1024.0))


def heavy_noise(scan: Scan, rng: np.random.Generator) -> Scan:
    """Noise of 120 HU."""
    return _valued(scan, scan.volume.array + rng.normal(0, 120.0, scan.field.shape))


def table(scan: Scan, rng: np.random.Generator) -> Scan:
    """A table of 30 mm, soft as tissue, across the whole field of view right behind the back."""
    back = _limits(scan.anatomy, 1)[1]
    add = max(0, back + 25 - scan.field.shape[1])
    low = np.zeros(3, dtype=int)
    shape = np.array(scan.field.shape) + [0, add, 0]
    wide = [np.pad(m, ((0, 0), (0, add), (0, 0))) for m in (scan.anatomy, scan.replaced)]
    array = np.pad(scan.volume.array, ((0, 0), (0, add), (0, 0)), constant_values=AIR_HU)
    array[:, scan.field.shape[1] :] += rng.normal(0, 15.0, array[:, scan.field.shape[1] :].shape)
    array[:, back + 2 : back + 17] = rng.normal(60.0, 15.0, array[:, back + 2 : back + 17].shape)
    field = np.pad(scan.field, ((0, 0), (0, add), (0, 0)), constant_values=True)
    volume = replace(scan.volume, array=array, grid=scan.volume.grid.cropped(low, shape))
    return Scan(volume, wide[0], field, wide[1])


def stored_values(scan: Scan, rng: np.random.Generator) -> Scan:
    """Stored values without their rescaling, HU + 1024, in a file that does not say what it is."""
    shifted = _valued(scan, scan.volume.array + 1024.0)
    return replace(shifted, volume=replace(shifted.volume, modality=None))


def hot_slices(scan: Scan, rng: np.random.Generator) -> Scan:
    """Three slices in the middle are 20 times as bright."""
    array, z = scan.volume.array.copy(), scan.field.shape[0] // 2
    array[z - 1 : z + 2] *= 20.0
    return _valued(scan, array)


def bias_field(scan: Scan, rng: np.random.Generator) -> Scan:
    """The sensitivity rises tenfold from one side to the other."""
    return _valued(scan, scan.volume.array * np.geomspace(1.0, 10.0, scan.field.shape[2]))


def coil(scan: Scan, rng: np.random.Generator) -> Scan:
    """An endorectal coil: 15 times as bright at a point behind the middle, falling over 15 mm."""
    z, y, x = np.indices(scan.field.shape)
    centre = (np.array(scan.field.shape) - 1) * [0.5, 0.65, 0.5]
    squared = ((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) * SPACING_MM**2
    return _valued(scan, scan.volume.array * (1 + 14 / (1 + squared / 15.0**2) ** 1.5))


# patients


def tumour(scan: Scan, rng: np.random.Generator) -> Scan:
    """A mass of 80 mm with gas in it, in the right lung or else in the pelvis."""
    right, _ = lungs(scan)
    low, high = _limits(scan.anatomy, 0)
    middle = _centre(right if right.any() else scan.anatomy)
    if not right.any():
        middle[0] = low + 0.2 * (high - low)
    mass = _ball(scan, middle, 40.0) & scan.anatomy
    cavity = _ball(scan, middle - [0, 5, 0], 18.0) & scan.anatomy
    filled = np.where(mass, rng.normal(50.0, 15.0, mass.shape), scan.volume.array)
    return _valued(scan, np.where(cavity, _gas(scan, rng), filled), mass | cavity)


def pneumothorax(scan: Scan, rng: np.random.Generator) -> Scan:
    """Air in the left pleural space; what is left of the lung lies within 50 mm of its root."""
    _, left = lungs(scan)
    centre = _centre(left)
    centre[2] = _limits(left, 2)[0]
    space = left & ~_ball(scan, centre, 50.0)
    return _valued(scan, np.where(space, _gas(scan, rng), scan.volume.array), space)


def emphysema(scan: Scan, rng: np.random.Generator) -> Scan:
    """Both lungs pushed to -970 HU, a fifth of their contrast left; vessels stay."""
    lung = np.logical_or(*lungs(scan)) & (scan.volume.array < -700)
    return _valued(scan, np.where(lung, -970 + 0.2 * (scan.volume.array + 970), scan.volume.array))


def gas_in_bowel(scan: Scan, rng: np.random.Generator) -> Scan:
    """All gas of the abdomen grown by 14 mm into the soft tissue around it."""
    inside = ndimage.binary_erosion(scan.anatomy, iterations=10, border_value=1)
    gas = inside & (scan.volume.array < GAS_HU) & ~np.logical_or(*lungs(scan))
    near = ndimage.distance_transform_edt(~gas) * SPACING_MM <= 14 if gas.any() else gas
    grown = near & inside & (np.abs(scan.volume.array) < 150) | gas
    return _valued(scan, np.where(grown, _gas(scan, rng), scan.volume.array), grown)


CHEST: dict[str, Way] = {
    "uncut": uncut,
    "right lung": right_lung,
    "left lung, no wall": left_lung,
    "slab 20 mm": slab(20),
    "slab 40 mm": slab(40),
    "slab 60 mm": slab(60),
    "upper half": upper_half,
    "lower half": lower_half,
    "right half": right_half,
    "top in trachea": top_in_trachea,
    "cylinder, +3071": cylinder(3071),
    "cylinder, -2000": cylinder(-2000),
    "cylinder, -3024": cylinder(-3024),
    "box in lung": box_in_lung,
    "box at sternum": box_at_sternum,
    "coarse, air -1024": exact_air,
    "noise 120 HU": heavy_noise,
    "table behind": table,
    "stored +1024": stored_values,
    "tumour with gas": tumour,
    "pneumothorax": pneumothorax,
    "emphysema": emphysema,
}
ABDOMEN: dict[str, Way] = {
    "abdomen uncut": uncut,
    "abdomen slab 40 mm": slab(40),
    "abdomen right half": right_half,
    "abdomen tumour, gas": tumour,
    "abdomen gas in bowel": gas_in_bowel,
}
LIMB: dict[str, Way] = {"limb uncut": uncut, "limb upper half": upper_half}
MR: dict[str, Way] = {
    "MR uncut": uncut,
    "MR slab 40 mm": slab(40),
    "MR hot slices x20": hot_slices,
    "MR bias 1:10": bias_field,
}
MR_PELVIS: dict[str, Way] = {**MR, "MR endorectal coil x15": coil}
