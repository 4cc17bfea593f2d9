"""From a scan to the network's input: canonical 2 mm LPS grid, intensity scaling, body mask."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from .geometry import Grid
from .volume import Modality, Volume

PREPROCESS_VERSION = 1
AIR_HU = -1024.0

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Intensity:
    """How a model wants its input scaled.

    CT: piecewise-linear through ``ct_knots`` (HU, value), clipped at both ends. MR: the ``mr_percentiles`` of the scan (the upper one taken
    over the foreground only where ``mr_foreground``) go linearly to ``mr_range``, clipped. Outside the field of view: the lowest value.
    """

    ct_knots: tuple[tuple[float, float], ...] = ((-1024.0, -1.0), (-200.0, -0.4), (250.0, 0.6), (1500.0, 1.0))
    mr_percentiles: tuple[float, float] = (0.5, 99.0)
    mr_range: tuple[float, float] = (-1.0, 0.9)
    mr_foreground: bool = True

    @property
    def air(self) -> dict[str, float]:
        """Value given to everything outside the field of view, per modality."""
        return {"ct": self.ct_knots[0][1], "mr": self.mr_range[0]}


def scale_intensity(image: Image, modality: Modality, intensity: Intensity) -> Image:
    """Raw intensities (HU for CT) to the network's scale; a new float32 array of the same shape."""
    if modality == "ct":
        hu, value = np.array(intensity.ct_knots).T
        return np.interp(image, hu, value).astype(np.float32)
    low, high = mr_limits(image, intensity)
    out_low, out_high = intensity.mr_range
    scaled = (np.clip(image, low, high) - low) * ((out_high - out_low) / (high - low)) + out_low
    return scaled.astype(np.float32)


def mr_limits(image: Image, intensity: Intensity) -> tuple[float, float]:
    """The two raw intensities that an MR scan is clipped to; the upper is always above the lower."""
    foreground = image[image > image.mean()] if intensity.mr_foreground else image
    low = float(np.percentile(image, intensity.mr_percentiles[0]))
    high = float(np.percentile(foreground, intensity.mr_percentiles[1])) if foreground.size else low
    return low, max(high, low + 1e-6)


def body_mask(image: Image, modality: Modality) -> NDArray[np.bool_]:
    """The patient, lungs and other cavities included, without air and (mostly) table.

    ``image`` ``(Z, Y, X)`` are raw intensities on the canonical grid. CT: above -300 HU; MR: above a fifth of the foreground mean. The
    largest opened component is kept and filled slice by slice.
    """
    threshold = -300.0 if modality == "ct" else 0.2 * float(image[image > image.mean()].mean()) if image.max() > image.min() else np.inf
    opened = ndimage.binary_opening(image > threshold, iterations=1)
    labels, count = ndimage.label(opened)
    if count == 0:
        return np.zeros(image.shape, dtype=bool)
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    closed = ndimage.binary_closing(np.pad(largest, 3), iterations=3)[3:-3, 3:-3, 3:-3]
    return np.stack([ndimage.binary_fill_holes(part) for part in closed])
