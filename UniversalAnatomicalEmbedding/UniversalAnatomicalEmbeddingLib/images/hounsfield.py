"""Whether the intensities of a CT are Hounsfield units, and the linear map to them where they are
not. Pure functions of intensities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AIR_HU = -1024.0
LOWEST_HU = -1200.0  # noise around air goes to about -1100, constants below are padding (-2000, -3024)
OFFSET = 1024.0  # of a CT stored without its rescaling: air at 0, water at 1024
BINS = 256
MOST_VALUES = 200_000
NEAR = 0.15  # of the distance from air to soft tissue: fat, muscle and organs of a CT lie within


@dataclass(frozen=True)
class Scale:
    """``HU = slope * value + intercept``, and what is to be said about it."""

    slope: float = 1.0
    intercept: float = 0.0
    remark: str = ""

    def apply(self, array: NDArray) -> NDArray:
        """The array in Hounsfield units; itself where nothing changes. Whole numbers stay whole
        where an offset is taken off."""
        if (self.slope, self.intercept) == (1.0, 0.0):
            return array
        if self.slope == 1.0 and array.dtype.kind in "iu":
            shifted = array.astype(np.int64) + round(self.intercept)
            small = np.iinfo(np.int16)
            return shifted.astype(np.int16 if small.min <= shifted.min() and shifted.max() <= small.max else np.int32)
        return (array * np.float32(self.slope) + np.float32(self.intercept)).astype(np.float32)


def is_hounsfield(values: NDArray) -> bool:
    """Nearly all voxels lie between air and dense tissue (-1100 to 300 HU), and some are air or
    lung."""
    return bool(np.mean(values < -300) > 0.002 and np.mean((values >= -1100) & (values <= 300)) > 0.8)


def is_offset(values: NDArray) -> bool:
    """Whether intensities of unknown modality are those of a CT stored with an offset of 1024.

    Air at 0, soft tissue at 1024, most of it within 15 % of the distance, as no MR but
    skull-stripped FLAIR has it, and bone beyond (an MR ends there). All 246 training and
    development CTs fulfil it with 1024 added, none of the 116 MRs does as it is.
    """
    shape = Distribution.of(values)
    at_home = -50 <= shape.dark <= 250 and 900 <= shape.tissue <= 1150
    return shape.lowest >= -60 and at_home and shape.like_ct


def scale_of(values: NDArray, certain: bool) -> Scale:
    """The map of a CT's intensities, padding left out, to Hounsfield units; with a remark where it
    is not the identity or cannot be told.

    ``certain``: it was said to be a CT; otherwise only what :func:`is_offset` sees counts.
    """
    if not certain:
        return _offset() if is_offset(values) else Scale()
    if not values.size or np.mean(values < -20) > 0.001 or values.min() < -60:
        return Scale()  # fat or air below water: as it should be
    shape = Distribution.of(values)
    bright = values[values > OFFSET / 2]
    if bright.size > 0.05 * values.size and 850 <= np.median(bright) <= 1250:
        return _offset()
    if shape.like_ct and shape.lowest >= 0:
        slope = 1000.0 / (shape.tissue - shape.lowest)
        remark = "its Hounsfield scale is lost, so that air was put to -1000 and soft tissue to 0: an estimate"
        return Scale(slope, -1000.0 - slope * shape.lowest, remark)
    return Scale(remark=f"its values ({values.min():g} to {values.max():g}) do not look like Hounsfield units; taken as they are")


def _offset() -> Scale:
    return Scale(1.0, -OFFSET, f"stored with an offset of {OFFSET:g}: taken off")


@dataclass(frozen=True)
class Distribution:
    """Intensities split into dark and bright (Otsu 1979): the lowest (1st percentile), the medians
    of both parts (``dark``, ``tissue``), the share of the bright part ``near`` its median, and how
    far the 99th percentile lies above dark, in distances from dark to tissue (``reach``)."""

    lowest: float
    dark: float
    tissue: float
    near: float
    reach: float

    @staticmethod
    def of(values: NDArray) -> Distribution:
        """The distribution of some intensities."""
        values = np.asarray(values[:: max(1, values.size // MOST_VALUES)], dtype=np.float32).ravel()
        lowest, highest = (float(v) for v in np.percentile(values, [1.0, 99.0])) if values.size else (0.0, 0.0)
        if highest <= lowest:
            return Distribution(lowest, lowest, lowest, 0.0, 0.0)
        threshold = _otsu(values)
        bright = values[values > threshold]
        dark, tissue = float(np.median(values[values <= threshold])), float(np.median(bright))
        near = float(np.mean(np.abs(bright - tissue) < NEAR * (tissue - dark)))
        return Distribution(lowest, dark, tissue, near, (highest - dark) / (tissue - dark))

    @property
    def like_ct(self) -> bool:
        """Soft tissue in one narrow peak and bone beyond it."""
        return self.near >= 0.6 and self.reach >= 1.23


def _otsu(values: NDArray) -> float:
    """The threshold of greatest variance between the two parts; the darkest and brightest few in a
    thousand count as the next ones."""
    low, high = np.percentile(values, [0.1, 99.5])
    counts, edges = np.histogram(np.clip(values, low, high), BINS, (low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below, moment = np.cumsum(counts)[:-1], np.cumsum(counts * centres)[:-1]
    total, whole = counts.sum(), (counts * centres).sum()
    between = (whole * below / total - moment) ** 2 / np.maximum(below * (total - below), 1)
    return float(edges[1 + int(between.argmax())])
