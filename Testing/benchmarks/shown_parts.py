"""Ways in which a scan shows only a part of the body, or is disturbed.

A way is a pure function of a scan and a random generator; it returns the scan as another device,
another field of view or another state of the patient would show it. Places are found in the scan
itself, so that a way means the same in any patient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from shown_scan import AIR_HU, GAS_HU, SPACING_MM, Mask, Scan, limits, lungs, resampled

from UniversalAnatomicalEmbeddingLib.images import FloatArray, Grid

Way = Callable[[Scan, np.random.Generator], Scan]


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
    centre = np.asarray(centre_zyx, dtype=float)
    offsets = [np.arange(n) - c for n, c in zip(scan.field.shape, centre, strict=True)]
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
    low, high = limits(np.logical_or(*lungs(scan)), 2)
    return _along(scan, 2, low - 6, (low + high) / 2 - 12)


def left_lung(scan: Scan, rng: np.random.Generator) -> Scan:
    """As :func:`right_lung`, and the chest wall is left out too: open on both sides."""
    low, high = limits(np.logical_or(*lungs(scan)), 2)
    return _along(scan, 2, (low + high) / 2 + 12, high - 5)


def slab(thickness_mm: float, of_lungs: bool = False) -> Way:
    """A thin slab at the middle of the anatomy, or of the lungs."""

    def way(scan: Scan, rng: np.random.Generator) -> Scan:
        level = _lung_level(scan) if of_lungs else _centre(scan.anatomy)[0]
        first = round(level - thickness_mm / SPACING_MM / 2)
        return _along(scan, 0, first, first + round(thickness_mm / SPACING_MM))

    return way


def upper_half(scan: Scan, rng: np.random.Generator) -> Scan:
    """The upper half of the anatomy."""
    low, high = limits(scan.anatomy, 0)
    return _along(scan, 0, (low + high) / 2, high)


def lower_half(scan: Scan, rng: np.random.Generator) -> Scan:
    """The lower half of the anatomy."""
    low, high = limits(scan.anatomy, 0)
    return _along(scan, 0, low, (low + high) / 2)


def right_half(scan: Scan, rng: np.random.Generator) -> Scan:
    """The right half of the body."""
    low, high = limits(scan.anatomy, 2)
    return _along(scan, 2, low, (low + high) / 2)


def top_in_trachea(scan: Scan, rng: np.random.Generator) -> Scan:
    """The scan begins 10 mm below the tops of the lungs: trachea and both lungs are open above."""
    top = min(limits(lung, 0)[1] for lung in lungs(scan))
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
    """A box of 80 x 60 x 60 mm from the skin before the breastbone backwards."""
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
    back = limits(scan.anatomy, 1)[1]
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


def tumour_in_lung(scan: Scan, rng: np.random.Generator) -> Scan:
    """A mass of 80 mm with gas in it in the middle of the right lung."""
    return _with_mass(scan, _centre(lungs(scan)[0]), rng)


def tumour_in_pelvis(scan: Scan, rng: np.random.Generator) -> Scan:
    """A mass of 80 mm with gas in it, a fifth of the anatomy's height above its lower end."""
    low, high = limits(scan.anatomy, 0)
    level = round(low + 0.2 * (high - low))
    return _with_mass(scan, np.array([level, *ndimage.center_of_mass(scan.anatomy[level])]), rng)


def _with_mass(scan: Scan, centre_zyx: FloatArray, rng: np.random.Generator) -> Scan:
    mass = _ball(scan, centre_zyx, 40.0) & scan.anatomy
    cavity = _ball(scan, centre_zyx - [0, 5, 0], 18.0) & scan.anatomy
    filled = np.where(mass, rng.normal(50.0, 15.0, mass.shape), scan.volume.array)
    return _valued(scan, np.where(cavity, _gas(scan, rng), filled), mass | cavity)


def pneumothorax(scan: Scan, rng: np.random.Generator) -> Scan:
    """Air in the left pleural space; what is left of the lung lies within 50 mm of its root."""
    _, left = lungs(scan)
    centre = _centre(left)
    centre[2] = limits(left, 2)[0]
    space = left & ~_ball(scan, centre, 50.0)
    return _valued(scan, np.where(space, _gas(scan, rng), scan.volume.array), space)


def emphysema(scan: Scan, rng: np.random.Generator) -> Scan:
    """Both lungs pushed to -970 HU, a fifth of their contrast left; vessels stay."""
    lung = np.logical_or(*lungs(scan)) & (scan.volume.array < -700)
    return _valued(scan, np.where(lung, -970 + 0.2 * (scan.volume.array + 970), scan.volume.array))


def gas_in_bowel(scan: Scan, rng: np.random.Generator) -> Scan:
    """All gas of the abdomen grown by 14 mm into the soft tissue around it."""
    inside = ndimage.binary_erosion(scan.anatomy, iterations=10, border_value=1)
    lung = ndimage.binary_dilation(np.logical_or(*lungs(scan)), iterations=8)
    gas = inside & (scan.volume.array < GAS_HU) & ~lung
    near = ndimage.distance_transform_edt(~gas) * SPACING_MM <= 14 if gas.any() else gas
    grown = near & inside & ~lung & (np.abs(scan.volume.array) < 150) | gas
    return _valued(scan, np.where(grown, _gas(scan, rng), scan.volume.array), grown)


CHEST: dict[str, Way] = {
    "uncut": uncut,
    "right lung": right_lung,
    "left lung, no wall": left_lung,
    "slab 20 mm": slab(20, of_lungs=True),
    "slab 40 mm": slab(40, of_lungs=True),
    "slab 60 mm": slab(60, of_lungs=True),
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
    "tumour with gas": tumour_in_lung,
    "pneumothorax": pneumothorax,
    "emphysema": emphysema,
}
ABDOMEN: dict[str, Way] = {
    "abdomen uncut": uncut,
    "abdomen slab 40 mm": slab(40),
    "abdomen right half": right_half,
    "abdomen tumour, gas": tumour_in_pelvis,
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
