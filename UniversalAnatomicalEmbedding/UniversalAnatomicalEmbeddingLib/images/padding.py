"""Constants that fill what a scanner did not image: the corners around a round field of view, a
white ring, empty slices.

Pure functions of the voxels. Which of the constants are no air is for :mod:`.modality` to say,
which knows the scan's modality.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

EDGE_SHARE = 0.25  # of the box's twelve edges: padding fills corners, no organ and no implant does
LEAST_SHARE = 0.01  # of all voxels
MOST_SHARE = 0.95  # an image with next to nothing else is a phantom, not a padded scan
SPAN = 0.8  # of both sides of a slice: a ring around the patient reaches that far, metal does not
SAMPLE = 1_000_000
LEAST_REGION = 0.0005  # of all voxels: a few of the value at the border may be tissue


def thinned(array: NDArray, voxels: int = SAMPLE) -> NDArray:
    """Every n-th voxel along each axis ``(Z', Y', X')``, about ``voxels`` of them: a view."""
    step = max(1, round((array.size / voxels) ** (1 / 3)))
    return array[tuple(slice(None, None, step if n > step else 1) for n in array.shape)]


def outside_values(array: NDArray) -> tuple[float, ...]:
    """The values that may be padding of a scan ``(Z, Y, X)``: exact constants on its edges, and a
    highest value that surrounds the patient.

    The ordinary air of a scan can be among them, where it is clipped or masked to one value.
    """
    small = thinned(array)
    edges = _edges(array)
    values, counts = np.unique(edges, return_counts=True)
    found = {float(v) for v in values[counts >= EDGE_SHARE * edges.size]}
    if _surrounds(np.equal(small, highest := small.max())):
        found.add(float(highest))
    return tuple(sorted(v for v in found if LEAST_SHARE <= np.mean(small == v) <= MOST_SHARE))


def filled(array: NDArray, value: float) -> NDArray[np.bool_]:
    """Where a scan ``(Z, Y, X)`` holds ``value`` as padding: connected regions of some size that
    touch an edge of the box or reach (nearly) across it. The same value inside the patient (water,
    a saturated implant) is left out."""
    labels, _ = ndimage.label(array == value)
    sizes = np.bincount(labels.ravel())
    kept = np.zeros(len(sizes), dtype=bool)
    kept[_edges(labels)] = True
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        across = [s.stop - s.start >= SPAN * n for s, n in zip(box, array.shape, strict=True)]
        kept[number] |= sum(across) >= 2
    kept &= sizes >= LEAST_REGION * array.size
    kept[0] = False
    return kept[labels]


def _edges(array: NDArray) -> NDArray:
    """The voxels of the twelve edges of the box, in a row."""
    ends = list(product((0, -1), repeat=2))
    lines = [np.moveaxis(array, axis, 0)[:, a, b] for axis in range(3) for a, b in ends]
    return np.concatenate(lines)


def _surrounds(mask: NDArray[np.bool_]) -> bool:
    """Whether the mask reaches (nearly) across both sides of at least half of the slices along some
    axis."""
    if not mask.any():
        return False
    for axis in range(3):
        slices = np.moveaxis(mask, axis, 0)
        wide = _reach(np.asarray(slices.any(axis=1))) & _reach(np.asarray(slices.any(axis=2)))
        if wide.mean() >= 0.5:
            return True
    return False


def _reach(lines: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For each row ``(n, m)``: whether its first and last True lie at least ``SPAN`` of it
    apart."""
    first, last = lines.argmax(axis=1), lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1)
    return lines.any(axis=1) & (last - first + 1 >= SPAN * lines.shape[1])
