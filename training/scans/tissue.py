"""Tissue labels of a CT by rule: weak supervision where no reader has drawn anything.

Thresholds in HU and morphology (scipy), made for 2 mm voxels. What no rule is sure of stays unlabelled (0), which means unknown. So bone is what is
dense without being contrast agent; muscle only the outer wall of trunk, neck and limbs, because no threshold tells it from organs further in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from UniversalAnatomicalEmbeddingLib.images import approximate_body

LABELS = {1: "lung_left", 2: "lung_right", 3: "airway", 4: "bone", 5: "fat", 6: "muscle"}

LUNG_HU = (-1060.0, -400.0)
AIRWAY_HU = -880.0
BOWEL_GAS_HU = -945.0
BONE_HU = 220.0
FAT_HU = (-140.0, -40.0)
LEAN_HU = -20.0
MUSCLE_HU = (10.0, 110.0)
WALL_MM = 8.0
SMALLEST_LUNG_ML = 150.0
SMALLEST_BONE_ML = 2.0
SMALLEST_WALL_ML = 10.0
CORTEX_HU = 330.0
TRACHEA_MM2 = (60.0, 700.0)
EVEN_HU = 60.0  # spread over 1 cm below which dense tissue may be contrast agent
CORTEX_RATIO = 1.03  # the rim of bone is denser than its inside; that of contrast agent is not

Mask = NDArray[np.bool_]


def tissue_labels(hu: NDArray[np.float32], spacing_mm: float = 2.0) -> NDArray[np.uint8]:
    """Labels ``(Z, Y, X)`` (see ``LABELS``; 0 unknown) of a CT in HU on cubic LPS voxels of ``spacing_mm``."""
    body = approximate_body(hu, "ct", spacing_mm)
    airway = segment_airway(hu, body, spacing_mm)
    left, right = segment_lungs(hu, body & ~ndimage.binary_dilation(airway), spacing_mm)
    if not (left.any() or right.any()):
        airway[:] = False
    bone = segment_bone(hu, body, spacing_mm)
    within = ndimage.binary_erosion(body, iterations=_voxels(4.0, spacing_mm), border_value=1)
    labels = np.zeros(hu.shape, dtype=np.uint8)
    labels[ndimage.binary_opening(within & (hu > FAT_HU[0]) & (hu < FAT_HU[1]))] = 5
    labels[segment_wall(hu, body, bone | left | right, spacing_mm)] = 6
    labels[bone] = 4
    labels[left], labels[right], labels[airway] = 1, 2, 3
    return labels


def segment_bone(hu: NDArray[np.float32], body: Mask, spacing_mm: float) -> Mask:
    """Dense parts of some size near a cortex, without what contrast agent fills: evenly dense, with no denser rim."""
    dense = body & (hu > BONE_HU)
    size = 2 * _voxels(5.0, spacing_mm) + 1
    values = np.clip(hu, -200.0, 1500.0)
    mean = ndimage.uniform_filter(values, size)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(values**2, size) - mean**2, 0))
    cores, _ = ndimage.label(ndimage.binary_erosion(dense, iterations=_voxels(4.0, spacing_mm)) & (spread < EVEN_HU))
    contrast = np.zeros_like(body)
    reach = _voxels(20.0, spacing_mm)
    for i, box in enumerate(ndimage.find_objects(cores), start=1):
        around = tuple(slice(max(0, s.start - reach), s.stop + reach) for s in box)
        core, local, level = cores[around] == i, hu[around], float(np.median(hu[cores == i]))
        near = ndimage.binary_dilation(core, iterations=_voxels(8.0, spacing_mm)) & dense[around]
        if np.median(local[near & ~core]) < CORTEX_RATIO * level:
            alike = dense[around] & (local < 1.35 * level)
            contrast[around] |= ndimage.binary_dilation(near, mask=alike, iterations=reach)
    bone = dense & ~contrast
    cortex = ndimage.binary_dilation(bone & (hu > CORTEX_HU), iterations=_voxels(10.0, spacing_mm))
    return _large_parts(bone & cortex, SMALLEST_BONE_ML * 1000 / spacing_mm**3)


def segment_wall(hu: NDArray[np.float32], body: Mask, excluded: Mask, spacing_mm: float) -> Mask:
    """Muscle of the outer wall: lean tissue at most ``WALL_MM`` under the subcutaneous fat, not enclosed by bone (brain, marrow, spinal cord)."""
    skinless = ndimage.binary_erosion(body, iterations=_voxels(4.0, spacing_mm), border_value=1)
    lung_at_border = ndimage.binary_opening(~body & (hu > BOWEL_GAS_HU) & (hu < LUNG_HU[1]), iterations=_voxels(6.0, spacing_mm))
    lean = ndimage.binary_opening(skinless & (hu > LEAN_HU)) | excluded | lung_at_border
    inside = np.stack([_closed(part, 14.0 / spacing_mm) for part in lean]) & (skinless | lung_at_border)
    depth = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
    enclosed = np.stack([ndimage.binary_fill_holes(ndimage.binary_closing(part, iterations=2)) for part in excluded])
    muscle = body & inside & (depth <= WALL_MM) & (hu > MUSCLE_HU[0]) & (hu < MUSCLE_HU[1]) & ~enclosed
    return _large_parts(ndimage.binary_opening(muscle), SMALLEST_WALL_ML * 1000 / spacing_mm**3)


def segment_airway(hu: NDArray[np.float32], body: Mask, spacing_mm: float) -> Mask:
    """Trachea and main bronchi: the tube of air found from the top slices downwards, cut off where it would leak into the lung."""
    air = body & (hu < AIRWAY_HU)
    airway = np.zeros_like(body)
    reach = ndimage.generate_binary_structure(2, 2)
    previous: Mask | None = None
    for z in range(hu.shape[0] - 1, -1, -1):
        parts, count = ndimage.label(air[z], structure=reach)
        if previous is None:
            seed = _tracheal_part(parts, count, body[z], spacing_mm)
            if seed is None:
                continue
            previous = seed
        near = ndimage.binary_dilation(previous, iterations=_voxels(4.0, spacing_mm))
        touched = np.unique(parts[near & (parts > 0)])
        grown = np.isin(parts, touched) & near
        area = grown.sum() * spacing_mm**2
        if area < TRACHEA_MM2[0] / 3:
            if airway.any(axis=(1, 2)).sum() * spacing_mm >= 30.0:
                break
            previous, airway[:] = None, False
            continue
        if area > 2.5 * TRACHEA_MM2[1]:
            break
        airway[z], previous = grown, grown
    return airway if airway.any(axis=(1, 2)).sum() * spacing_mm >= 30.0 else np.zeros_like(body)


def segment_lungs(hu: NDArray[np.float32], body: Mask, spacing_mm: float) -> tuple[Mask, Mask]:
    """Left and right lung of an LPS array (x grows to the patient's left). Both empty where no lung is in the scan."""
    gas = ndimage.uniform_filter(hu, 2 * _voxels(4.0, spacing_mm) + 1) < BOWEL_GAS_HU - 10
    gas = ndimage.binary_dilation(_large_parts(body & gas, 1000 / spacing_mm**3), iterations=_voxels(6.0, spacing_mm))
    air = ndimage.binary_opening(body & (hu > LUNG_HU[0]) & (hu < LUNG_HU[1]) & ~gas)
    least = SMALLEST_LUNG_ML * 1000 / spacing_mm**3
    lungs = _large_parts(air, least)
    parts, count = ndimage.label(lungs)
    for i in range(1, count + 1):
        if np.median(hu[parts == i]) < BOWEL_GAS_HU:
            lungs[parts == i] = False
    empty = np.zeros_like(body)
    if not lungs.any():
        return empty, empty
    middle = float(np.median(np.nonzero(body.any(axis=(0, 1)))[0]))
    cores, count = ndimage.label(ndimage.binary_erosion(lungs, iterations=_voxels(6.0, spacing_mm)))
    sides = np.zeros(body.shape, dtype=np.int8)
    if count:
        centres = ndimage.center_of_mass(np.ones_like(cores), cores, range(1, count + 1))
        sizes = np.bincount(cores.ravel(), minlength=count + 1)[1:]
        for i, (centre, size) in enumerate(zip(centres, sizes, strict=True), start=1):
            if size < least / 4:
                continue
            core = cores == i
            x = np.nonzero(core)[2]
            if np.percentile(x, 5) < middle < np.percentile(x, 95) and np.ptp(x) > 0.6 * np.ptp(np.nonzero(body.any(axis=(0, 1)))[0]):
                columns = np.arange(body.shape[2]) > middle
                sides[core & columns], sides[core & ~columns] = 1, 2
            else:
                sides[core] = 1 if centre[2] > middle else 2
    if not sides.any():
        return empty, empty
    _, nearest = ndimage.distance_transform_edt(sides == 0, return_indices=True)
    sides = np.where(lungs, sides[tuple(nearest)], 0)
    return sides == 1, sides == 2


def _tracheal_part(parts: NDArray[np.int32], count: int, body: Mask, spacing_mm: float) -> Mask | None:
    """The round air spot near the middle of the neck, if the slice has one."""
    if count == 0 or not body.any():
        return None
    y, x = np.nonzero(body)
    middle, width = (x.min() + x.max()) / 2, np.ptp(x) + 1
    best, best_offset = None, 0.15 * width
    for i in range(1, count + 1):
        part = parts == i
        area = part.sum() * spacing_mm**2
        if not TRACHEA_MM2[0] <= area <= TRACHEA_MM2[1]:
            continue
        py, px = np.nonzero(part)
        roundness = area / (np.pi * (max(np.ptp(px), np.ptp(py)) + 1) ** 2 / 4 * spacing_mm**2)
        offset = abs(px.mean() - middle)
        if roundness > 0.45 and offset < best_offset and y.min() + 8 / spacing_mm < py.mean():
            best, best_offset = part, offset
    return best


def _large_parts(mask: Mask, least_voxels: float) -> Mask:
    parts, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return (sizes >= least_voxels)[parts]


def _voxels(length_mm: float, spacing_mm: float) -> int:
    return max(1, round(length_mm / spacing_mm))


def _closed(slice_mask: Mask, radius: float) -> Mask:
    """A slice closed by a disc of ``radius`` pixels, as if it went on beyond its borders, with its holes filled."""
    n = int(np.ceil(radius)) + 1
    padded = np.pad(slice_mask, n, mode="edge")
    if not padded.any():
        return slice_mask
    grown = ndimage.distance_transform_edt(~padded) <= radius
    shrunk = ndimage.distance_transform_edt(np.pad(grown, n, mode="edge"))[n:-n, n:-n] > radius
    return ndimage.binary_fill_holes(shrunk | padded)[n:-n, n:-n]
