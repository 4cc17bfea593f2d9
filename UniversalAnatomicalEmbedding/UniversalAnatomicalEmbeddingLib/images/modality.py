"""What a scan is taken for: the one owner of its modality, of how that is known, and of what has to
be put right before its intensities mean anything.

:func:`identify` gives a scan with known modality whose CT intensities are Hounsfield units and
whose padding is air. An ordinary scan keeps its voxels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from ..system.errors import InputError
from .dicom import named, refusal
from .hounsfield import AIR_HU, LOWEST_HU, Scale, is_hounsfield, is_offset, scale_of
from .padding import filled, outside_values, thinned
from .volume import DICOM_MODALITIES, Modality, Volume

How = Literal["given", "from the DICOM header", "guessed"]

AIR_RANGE_HU = (-1100.0, -900.0)
GAP = 0.15  # of the range of a scan's intensities: a constant so far below all others is padding
SMALL_GAP = 0.02  # where all others are positive and the constant negative
HOT = 3.0  # times what three quarters of the slices reach: an artefact, not the patient
MOST_HOT = 0.25


@dataclass(frozen=True, eq=False)
class Identified:
    """A scan with its modality known and its intensities put right, how the modality is known, and
    a sentence on all that was done or is odd."""

    volume: Volume
    how: How
    remarks: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line for people: "CT, guessed; stored with an offset of 1024: taken off"."""
        return "; ".join((f"{str(self.volume.modality).upper()}, {self.how}", *self.remarks))


def identify(volume: Volume) -> Identified:
    """Find out what a scan is, from what was given, its DICOM header or its intensities, and put
    its intensities right.

    CT: to Hounsfield units, padding to -1024. MR: padding to the scan's air. The statistics are the
    patient's: without padding, and without the few slices that are far brighter than all others.
    What has been identified stays as it is, and so does an ordinary scan: the same array.
    InputError for a DICOM modality that no model knows, unless a modality is given.
    """
    known = volume.modality or DICOM_MODALITIES.get(volume.header)
    if known is None and volume.header:
        raise InputError(refusal(volume.name, volume.header))
    how: How = "guessed" if known is None else "from the DICOM header" if DICOM_MODALITIES.get(volume.header) == known else "given"
    if known == "xray":
        return Identified(replace(volume, modality=known), how)
    outside = outside_values(volume.array)
    sample = patient_sample(volume.array, outside)
    modality = known or guess_modality(sample)
    scale = scale_of(sample, certain=known is not None) if modality == "ct" else Scale()
    array = scale.apply(volume.array)
    constants = scale.apply(np.array(outside)).tolist()
    array, taken = fill_ct(array, constants) if modality == "ct" else fill_mr(array, constants)
    remarks = (*_header_remarks(volume, modality), *filter(None, (scale.remark, taken)))
    return Identified(replace(volume, array=array, modality=modality, rescaled=True), how, remarks)


def modality_of(volume: Volume) -> Modality:
    """The modality of a scan, as known or as :func:`identify` finds it."""
    return volume.modality or cast("Modality", identify(volume).volume.modality)


def stated(volume: Volume) -> str:
    """What the DICOM header says of a scan that :func:`identify` refuses."""
    return f"{named(volume.header)}, from the DICOM header; the models know CT and MR"


def guess_modality(values: NDArray) -> Literal["ct", "mr"]:
    """Guess from some intensities of a patient, padding left out.

    CT: Hounsfield units, or those with an offset of 1024. Everything else counts as MR, also a CT
    whose Hounsfield scale is lost: scaled as an MR, it is matched as well as in Hounsfield units by
    a model for both.
    """
    values = values[values > LOWEST_HU]
    return "ct" if values.size and (is_hounsfield(values) or is_offset(values)) else "mr"


def patient_sample(array: NDArray, outside: tuple[float, ...] = ()) -> NDArray[np.float32]:
    """Some intensities of a scan ``(Z, Y, X)`` as a list, without its padding (those of the
    constants ``outside`` it that are odd) and hot slices."""
    small = np.asarray(thinned(array), dtype=np.float32)
    kept = ~np.isin(small, [v for v in outside if _odd(v, _others(small, outside))])
    low = float(small[kept].min()) if kept.any() else 0.0
    ordinary = kept.copy()
    for axis in range(3):
        slices = np.moveaxis(np.where(kept, small, low), axis, 0).reshape(small.shape[axis], -1)
        tops = np.percentile(slices, 99.0, axis=1) - low
        hot = tops > HOT * np.percentile(tops, 75.0)
        if 0 < hot.mean() <= MOST_HOT:
            np.moveaxis(ordinary, axis, 0)[hot] = False
    return small[ordinary if ordinary.any() else kept]


def fill_ct(array: NDArray, constants: list[float]) -> tuple[NDArray, str]:
    """A CT in Hounsfield units with its padding at -1024, and what was done; ``constants`` of its
    outside that are air as it is stay.

    A lowest value far below air (-2000, -3024) is padding wherever it is.
    """
    far_below = {v for v in (*constants, float(array.min())) if v < LOWEST_HU}
    strange = (v for v in constants if v > AIR_RANGE_HU[1] or LOWEST_HU <= v < AIR_RANGE_HU[0])
    odd = {v: filled(array, v) for v in strange} | {v: array == v for v in far_below}
    return _replaced(array, odd, AIR_HU)


def fill_mr(array: NDArray, constants: list[float]) -> tuple[NDArray, str]:
    """An MR with its padding at the intensity of its air, the half percent of its darkest voxels,
    and what was done."""
    small = np.asarray(thinned(array), dtype=np.float32)
    others = _others(small, tuple(constants))
    odd = {v: filled(array, v) for v in constants if _odd(v, others)}
    air = float(np.percentile(_others(small, tuple(odd)), 0.5)) if odd else 0.0
    return _replaced(array, odd, air)


def _others(small: NDArray, constants: tuple[float, ...]) -> NDArray:
    others = small[~np.isin(small, constants)]
    return others if others.size else small.ravel()


def _odd(value: float, others: NDArray) -> bool:
    """Whether a constant outside the patient is no air of the scan: above all other intensities, or
    too far below them."""
    low, high = (float(v) for v in np.percentile(others, [0.1, 99.9]))
    extent = high - low
    if value >= high:
        return value > low
    if low >= -SMALL_GAP * extent:  # nothing else is negative, as in nearly every MR
        return value < -SMALL_GAP * extent
    return value < low - GAP * extent and not AIR_RANGE_HU[0] <= value <= AIR_RANGE_HU[1]


def _replaced(array: NDArray, odd: dict[float, NDArray[np.bool_]], air: float) -> tuple[NDArray, str]:
    odd = {value: mask for value, mask in odd.items() if mask.any()}
    if not odd:
        return array, ""
    kind = array.dtype if array.dtype.kind == "f" else np.promote_types(array.dtype, np.int16)
    result = array.astype(kind)
    for mask in odd.values():
        result[mask] = air
    return result, f"padding of {' and '.join(f'{v:g}' for v in sorted(odd))} taken for air"


def _header_remarks(volume: Volume, modality: Modality) -> tuple[str, ...]:
    stated = DICOM_MODALITIES.get(volume.header)
    contradicted = volume.header and stated != modality
    return (
        *([f"its DICOM header says {named(volume.header)}"] if contradicted else []),
        *(["its DICOM header has no rescale tags"] if modality == "ct" and not volume.rescaled else []),
    )
