"""What a scan is taken for: on phantoms by rule, on every real scan as it is and padded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_series

from UniversalAnatomicalEmbeddingLib.images.modality import guess_modality, identify, modality_of, patient_sample, stated
from UniversalAnatomicalEmbeddingLib.images.volume import Modality, Volume, from_array, read_volume
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

WHITE = 3071
Scans = dict[str, np.ndarray]


def volume(array: np.ndarray, modality: Modality | None = None, **stated: object) -> Volume:
    made = from_array(array, np.diag([2.0, 2.0, 2.0, 1.0]), modality, "scan")
    return Volume(made.array, made.grid, modality, "scan", **stated)  # type: ignore[arg-type]


def ring(shape: tuple[int, ...]) -> np.ndarray:
    """Voxels outside the largest cylinder along z."""
    y, x = np.indices(shape[1:])
    radius = min(shape[1:]) / 2
    outside = (y - shape[1] / 2) ** 2 + (x - shape[2] / 2) ** 2 > radius**2
    return np.broadcast_to(outside, shape)


def padded(array: np.ndarray, value: int) -> np.ndarray:
    return np.where(ring(array.shape), np.int16(value), array.astype(np.int16))


# --- how it is known ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modality", "header", "text"),
    [
        (None, "", "CT, guessed"),
        ("ct", "", "CT, given"),
        (None, "CT", "CT, from the DICOM header"),
        ("ct", "CT", "CT, from the DICOM header"),
        ("mr", "", "MR, given"),
        ("mr", "PT", "MR, given; its DICOM header says PET (PT)"),
        ("ct", "MR", "CT, given; its DICOM header says MR"),
    ],
)
def test_it_says_what_a_scan_is_taken_for_and_how_that_is_known(
    torso: np.ndarray, modality: Modality | None, header: str, text: str
) -> None:
    found = identify(volume(torso, modality, header=header))
    assert found.text == text
    assert found.volume.array is not None and np.shares_memory(found.volume.array, torso)


@pytest.mark.parametrize(
    ("header", "words", "insist"),
    [
        ("PT", "PET (PT)", True),
        ("NM", "nuclear medicine (NM)", True),
        ("US", "ultrasound (US)", True),
        ("RTDOSE", "a radiotherapy dose (RTDOSE)", False),
        ("SEG", "a segmentation (SEG)", False),
        ("XYZ", "XYZ", True),
    ],
)
def test_other_dicom_modalities_are_refused_by_name(torso: np.ndarray, header: str, words: str, insist: bool) -> None:
    scan = volume(torso, header=header)
    with pytest.raises(InputError) as refused:
        identify(scan)
    sentence = str(refused.value)
    assert sentence.startswith(f"scan is {words} by its DICOM header, and the models know CT and MR")
    assert ("--modality mr" in sentence) == insist
    assert words in stated(scan)


def test_a_radiograph_stays_one() -> None:
    found = identify(volume(np.zeros((1, 30, 30)), header="DX"))
    assert found.text == "XRAY, from the DICOM header"


def test_a_series_keeps_its_modality_code_and_whether_it_was_rescaled(tmp_path: Path, torso: np.ndarray) -> None:
    hu = torso[:40:8].clip(-1024, 2000)
    write_series(tmp_path / "pt", hu + 1024, t0008_0060="PT")
    for file in write_series(tmp_path / "bare", hu + 1024):  # the writer puts an intercept; here it becomes another tag
        file.write_bytes(file.read_bytes().replace(b"\x28\x00\x52\x10", b"\x28\x00\x51\x10"))
    write_series(tmp_path / "ct", hu, t0028_1052="-1024", t0028_1053="1")
    assert read_volume(tmp_path / "pt").header == "PT"
    bare, ordinary = (
        identify(read_volume(tmp_path / "bare")),
        identify(read_volume(tmp_path / "ct")),
    )
    assert bare.text == ("CT, from the DICOM header; its DICOM header has no rescale tags; stored with an offset of 1024: taken off")
    assert ordinary.text == "CT, from the DICOM header"
    np.testing.assert_array_equal(bare.volume.array, ordinary.volume.array)
    assert identify(bare.volume).text == "CT, from the DICOM header"


# --- phantoms -------------------------------------------------------------------------------------


def test_modality_is_guessed_from_intensities() -> None:
    rng = np.random.default_rng(0)
    body = rng.normal(40, 60, (20, 30, 30))
    body[:, :8] = -1000
    assert guess_modality(body.round().astype(np.int16)) == "ct"
    body[:, 20:] = -3024
    assert guess_modality(body) == "ct"
    assert modality_of(volume(body)) == "ct"
    for other in (
        np.abs(body),
        rng.normal(0, 1, body.shape),
        rng.integers(-4096, 4096, body.shape),
    ):
        assert guess_modality(other) == "mr"
        assert modality_of(volume(other)) == "mr"


@pytest.mark.parametrize("value", [WHITE, -2000, -3024, 0])
def test_padding_of_a_ct_becomes_air_and_nothing_else_changes(torso: np.ndarray, value: int) -> None:
    outside = ring(torso.shape)
    found = identify(volume(padded(torso, value)))
    assert found.text == f"CT, guessed; padding of {value} taken for air"
    np.testing.assert_array_equal(found.volume.array[outside], -1024)
    changed = ~outside & (found.volume.array != torso)
    assert (torso[changed] == value).all() and changed.mean() < 1e-5  # water that touches the ring
    again = identify(found.volume)
    assert again.volume.array is found.volume.array and again.remarks == ()


@pytest.mark.parametrize("value", [WHITE, -2000, -1024])
def test_padding_of_an_mr_becomes_its_air(value: int) -> None:
    mr = made_up_mr()
    found = identify(volume(padded(mr, value)))
    assert found.text == f"MR, guessed; padding of {value} taken for air"
    assert 0 <= found.volume.array[ring(mr.shape)].max() < 20
    np.testing.assert_array_equal(found.volume.array[~ring(mr.shape)], mr[~ring(mr.shape)])


def made_up_mr() -> np.ndarray:
    rng = np.random.default_rng(0)
    image = np.abs(rng.normal(0, 8, (30, 50, 50)))
    image[:, 10:40, 10:40] = rng.normal(350, 120, (30, 30, 30)).clip(50)
    return image.round().astype(np.int16)


def test_masked_and_clipped_backgrounds_and_metal_stay(torso: np.ndarray) -> None:
    mr = made_up_mr()
    mr[mr < 50] = 0
    clipped = np.maximum(torso, -1000)
    metal = torso.copy()
    metal[:, 20:23, 20:23] = WHITE
    for array in (mr, clipped, metal):
        found = identify(volume(array))
        assert np.shares_memory(found.volume.array, array) and found.remarks == ()


# --- every real scan ------------------------------------------------------------------------------


def test_every_ordinary_scan_is_recognised_and_kept_to_the_bit(thin_scans: Scans) -> None:
    for name, array in thin_scans.items():
        found = identify(volume(array))
        assert (found.text, name) == (f"{name[:2].upper()}, guessed", name)
        assert np.shares_memory(found.volume.array, array), name


@pytest.mark.parametrize("value", [WHITE, -2000, -3024, -1024])
def test_every_scan_in_a_ring_is_recognised_and_its_padding_becomes_air(thin_scans: Scans, value: int) -> None:
    for name, array in list(thin_scans.items())[:: 2 if value == WHITE else 6]:
        if name.startswith("mr") and array.max() >= value > 0:
            continue  # no ring is that white among these intensities
        outside = ring(array.shape)
        found = identify(volume(padded(array, value)))
        air = -1024 if name.startswith("ct") else np.percentile(array[~outside], 0.5) + 1
        assert (found.volume.modality, name) == (name[:2], name)
        assert found.volume.array[outside].max() <= air, name
        changed = found.volume.array[~outside] != array[~outside]
        assert changed.mean() < 1e-3, name  # metal that touches the ring


def test_hot_slices_change_no_guess_and_are_left_out_of_the_statistics(thin_scans: Scans) -> None:
    for name, array in list(thin_scans.items())[::4]:
        hot = array.astype(np.float32)
        hot[len(hot) // 2 :: 30] = 90000
        assert modality_of(volume(hot)) == name[:2], name
        assert patient_sample(hot).max() < 90000 or len(hot) < 12, name
