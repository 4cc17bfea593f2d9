"""From a scan to the network's input: canonical grid, intensity scaling, body mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from ..system.errors import InputError
from .grid import Grid
from .hounsfield import AIR_HU
from .patient import believable, patient_limit
from .volume import Modality, Volume

PREPROCESS_VERSION = 3  # raised with every change of what a scan becomes: what was stored under another one is made anew
INPUT_VERSION = 1  # the version that last changed what a network sees; models since then can be used
LONGEST_MM = 4000.0  # no patient is; such a scan states its spacing in another unit
PART_OF_LARGEST = 1 / 3

Image = NDArray[np.float32]

Pipeline = Literal["standard", "released", "published"]
"""How a scan becomes the network's input and its maps are compared.

"standard": anti-aliased resampling, cropped to the search space. "released": what the released SAM and UAE models expect, that is plain linear
resampling of the whole field of view and coarse descriptors of unit length between their cells too. "published": the same to the letter of the
published code, its flaws included: the voxels that rounding up the size appends hold 0, the coarse map is stretched to the size of the fine
one, air is searched as well.
"""


@dataclass(frozen=True)
class Intensity:
    """How a model wants its input scaled.

    CT: piecewise-linear through ``ct_knots`` (HU, value), constant beyond both ends. MR: two
    intensities go linearly to ``mr_range``, constant beyond. The lower is the first of
    ``mr_percentiles``. The upper is by ``mr_rule`` "patient" what the patient reaches
    (:func:`.patient.patient_limit`); by "percentiles", the rule of models up to compact-ct-mr-3 and of
    the released ones, the second of ``mr_percentiles`` (of the foreground only, where
    ``mr_foreground``), unless artefacts lift it far above the patient. ``mr_whole``: the two are cut to
    whole numbers first, the upper one at least 1, as the published code does, artefacts or not.
    """

    ct_knots: tuple[tuple[float, float], ...] = ((-1024.0, -1.0), (-200.0, -0.4), (250.0, 0.6), (1500.0, 1.0))
    mr_percentiles: tuple[float, float] = (0.5, 99.0)
    mr_range: tuple[float, float] = (-1.0, 0.9)
    mr_foreground: bool = True
    mr_whole: bool = False
    mr_rule: Literal["patient", "percentiles"] = "patient"

    def air(self, modality: Modality) -> float:
        """The scaled value of everything outside the field of view."""
        return self.ct_knots[0][1] if modality == "ct" else self.mr_range[0]


def to_canonical(volume: Volume, modality: Modality, spacing_mm: float = 2.0, pipeline: Pipeline = "standard") -> tuple[Image, Grid]:
    """Resample once to cubic LPS voxels: raw intensities float32 ``(Z, Y, X)`` and their grid.

    Linear interpolation; in the standard pipeline after a Gaussian along each axis that shrinks (its width makes a voxel profile of the new
    size out of one of the old). Outside the field of view: air, -1024 HU for CT and the scan's minimum otherwise (0 in the published
    pipeline). Exact for oblique and sheared grids.
    InputError for a scan longer than any patient.
    """
    extent = np.ptp(volume.grid.corners(), axis=0)
    if extent.max() > LONGEST_MM:
        covered = " x ".join(f"{v / 1000:.1f}" for v in extent)
        raise InputError(
            f"{volume.name} covers {covered} m, more than a patient; its voxel spacing is wrong. Correct it and export the scan again."
        )
    target = volume.grid.axis_aligned(spacing_mm)
    array = np.asarray(volume.array, dtype=np.float32)
    if target == volume.grid:
        return array, target
    outside = 0.0 if pipeline == "published" else AIR_HU if modality == "ct" else float(array.min())
    for axis, spacing in enumerate(volume.grid.spacing_zyx):
        factor = spacing_mm / spacing
        if pipeline == "standard" and factor > 1 + 1e-3 and array.shape[axis] > 1:
            array = ndimage.gaussian_filter1d(array, np.sqrt(factor**2 - 1) / 2.355, axis=axis, mode="nearest")
    return _resample(array, volume.grid, target, outside), target


def _resample(array: Image, source: Grid, target: Grid, outside: float) -> Image:
    """Linear interpolation in index space, so that any affine, a sheared one too, is exact."""
    matrix = np.linalg.inv(source.affine) @ target.affine
    transform = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    size = [int(n) for n in target.shape_zyx[::-1]]
    out = sitk.Resample(
        sitk.GetImageFromArray(array), size, transform, sitk.sitkLinear, [0.0] * 3, [1.0] * 3, np.eye(3).ravel().tolist(), outside
    )
    return sitk.GetArrayFromImage(out)


def scale_intensity(image: Image, modality: Modality, intensity: Intensity, sample: Image | None = None) -> Image:
    """Raw intensities (HU for CT) to the network's scale; a new float32 array of the same shape.

    ``sample``: the part of the scan that the limits of an MR are taken from (None: all of it).
    """
    if modality == "ct":
        hu, value = np.array(intensity.ct_knots, dtype=np.float32).T
        scaled = np.empty(image.shape, dtype=np.float32)
        for n, part in enumerate(image):  # slice by slice: the interpolation works in double precision
            scaled[n] = np.interp(part, hu, value)
        return scaled
    low, high = mr_limits(image if sample is None else sample, intensity)
    out_low, out_high = intensity.mr_range
    scaled = (np.clip(image, low, high) - low) * ((out_high - out_low) / (high - low)) + out_low
    return scaled.astype(np.float32)


def mr_limits(image: Image, intensity: Intensity) -> tuple[float, float]:
    """The two raw intensities that an MR scan is clipped to; the upper is always above the lower."""
    low = float(np.percentile(image, intensity.mr_percentiles[0]))
    reached = patient_limit(image) if intensity.mr_rule == "patient" else None
    if reached is not None:
        return low, max(reached, low + 1e-6)
    foreground = image[image > image.mean()] if intensity.mr_foreground else image
    high = float(np.percentile(foreground, intensity.mr_percentiles[1])) if foreground.size else low
    if intensity.mr_whole:
        low, high = float(int(low)), max(float(int(high)), 1.0)
    else:
        high = believable(image, high)
    return low, max(high, low + 1e-6)


def approximate_body(image: Image, modality: Modality, spacing_mm: float = 2.0) -> NDArray[np.bool_]:
    """About the patient, closed cavities included, without air and (mostly) table; bool ``(Z, Y, X)``.

    For tissue labels by rule, and for the MR scale that models up to compact-ct-mr-3 were trained with. It misses what is
    open to the border of the field of view (a single lung) and dark parts of an MR, so it must never decide what is searched
    or shown to a network (:mod:`.search_space` does). ``image`` are raw intensities on cubic voxels of ``spacing_mm``. CT:
    above -300 HU; MR: above a fifth of the foreground mean. The largest connected part, and others of at least a third of its
    size (two legs), are closed over 6 mm and filled slice by slice.
    """
    if modality == "ct":
        threshold = -300.0
    else:
        foreground = image[image > image.mean()]
        threshold = 0.2 * float(foreground.mean()) if foreground.size else np.inf
    above = np.pad(image > threshold, 1, mode="edge")
    labels, count = ndimage.label(ndimage.binary_opening(above)[1:-1, 1:-1, 1:-1])
    if count == 0:
        return np.zeros(image.shape, dtype=bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    patient = (sizes >= PART_OF_LARGEST * sizes.max())[labels]
    reach = max(1, round(6.0 / spacing_mm))
    closed = ndimage.binary_closing(np.pad(patient, reach), iterations=reach)[(slice(reach, -reach),) * 3]
    return np.stack([ndimage.binary_fill_holes(part) for part in closed])
