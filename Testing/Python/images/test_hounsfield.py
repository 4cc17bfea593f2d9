"""Whether the intensities of a CT are Hounsfield units: those of a phantom and of every real CT,
with an offset and scaled anew."""

from __future__ import annotations

import numpy as np
import pytest

from UniversalAnatomicalEmbeddingLib.images.hounsfield import Distribution, Scale, is_hounsfield, is_offset
from UniversalAnatomicalEmbeddingLib.images.modality import identify
from UniversalAnatomicalEmbeddingLib.images.volume import Modality, Volume, from_array

WHITE, OFFSET = 3071, 1024
Scans = dict[str, np.ndarray]


def volume(array: np.ndarray, modality: Modality | None = None) -> Volume:
    return from_array(array, np.diag([2.0, 2.0, 2.0, 1.0]), modality, "scan")


# --- the linear map -------------------------------------------------------------------------------


def test_a_scale_that_changes_nothing_gives_the_array_itself() -> None:
    array = np.arange(8, dtype=np.uint16)
    assert Scale().apply(array) is array


@pytest.mark.parametrize(("values", "kind"), [([0, 4095], np.int16), ([0, 33791], np.int16), ([0, 33792], np.int32)])
def test_whole_numbers_stay_whole_and_are_as_small_as_they_can(values: list[int], kind: type) -> None:
    found = Scale(1.0, -OFFSET).apply(np.array(values, np.uint16))
    assert found.dtype == kind
    assert found.tolist() == [v - OFFSET for v in values]


def test_every_other_map_gives_single_precision() -> None:
    for array in (np.array([0, 2], np.int16), np.array([0.0, 2.0])):
        found = Scale(1.5, -1000.0).apply(array)
        assert found.dtype == np.float32
        assert found.tolist() == [-1000.0, -997.0]


# --- phantoms -------------------------------------------------------------------------------------


def test_only_the_ct_as_it_is_is_in_hounsfield_units(torso: np.ndarray) -> None:
    """With an offset it has one; scaled to another range it is neither."""
    ct = torso.clip(-1024).astype(np.float32)
    assert (is_hounsfield(ct), is_offset(ct)) == (True, False)
    assert (is_hounsfield(ct + OFFSET), is_offset(ct + OFFSET)) == (False, True)
    assert (is_hounsfield((ct + OFFSET) / 8), is_offset((ct + OFFSET) / 8)) == (False, False)


@pytest.mark.parametrize("values", [[], [7.0], [7.0] * 9])
def test_intensities_without_a_spread_are_no_ct(values: list[float]) -> None:
    array = np.array(values, np.float32)
    assert not Distribution.of(array).like_ct
    assert not is_offset(array)


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("modality", [None, "ct"])
def test_an_offset_of_1024_is_taken_off_and_said(torso: np.ndarray, kind: type, modality: Modality | None) -> None:
    found = identify(volume((torso.clip(-1024) + OFFSET).astype(kind), modality))
    assert found.text.endswith("; stored with an offset of 1024: taken off")
    np.testing.assert_array_equal(found.volume.array, torso.clip(-1024))


def test_a_scan_said_to_be_a_ct_without_its_scale_gets_an_estimated_one(torso: np.ndarray) -> None:
    lost = ((torso.clip(-1024, WHITE) + 1024) / 4095).astype(np.float32)
    given, guessed = identify(volume(lost, "ct")), identify(volume(lost))
    assert "its Hounsfield scale is lost" in given.text and "an estimate" in given.text
    assert np.median(np.abs(given.volume.array - torso)) < 120
    assert guessed.text == "MR, guessed"
    odd = identify(volume(np.random.default_rng(0).random((9, 9, 9)), "ct"))
    assert "do not look like Hounsfield units; taken as they are" in odd.text


# --- every real CT --------------------------------------------------------------------------------


def test_every_ct_with_an_offset_is_recognised(thin_scans: Scans) -> None:
    for name, array in thin_scans.items():
        if name.startswith("ct"):
            found = identify(volume(array.astype(np.int16) + OFFSET))
            assert found.text == "CT, guessed; stored with an offset of 1024: taken off", name
            np.testing.assert_array_equal(found.volume.array, array)


@pytest.mark.parametrize(("low", "high", "most"), [(-1024, 3071, 1.0), (-1000, 1000, 255.0)])
def test_every_ct_scaled_anew_is_an_mr_or_estimated(thin_scans: Scans, low: int, high: int, most: float) -> None:
    for name, array in list(thin_scans.items())[::6]:
        if name.startswith("ct"):
            window = array.clip(low, high).astype(np.float32)
            scaled = (window - low) / (high - low) * most
            assert identify(volume(scaled)).text == "MR, guessed", name
            estimate = identify(volume(scaled, "ct")).volume.array
            assert np.median(np.abs(estimate - window)) < 120, name
