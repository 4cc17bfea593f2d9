"""Reading DICOM series: geometry from the slice positions, and a sentence for folders that hold no single regular stack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import CHEST, HEAD, UPRIGHT, VOXELS, write_series
from scipy.spatial.transform import Rotation

from UniversalAnatomicalEmbeddingLib.images.volume import Volume, from_sitk, read_volume
from UniversalAnatomicalEmbeddingLib.system.errors import InputError


def refused(folder: Path, words: str, series: str | None = None) -> str:
    with pytest.raises(InputError, match=words) as caught:
        read_volume(folder, series=series)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_slices_are_ordered_and_rescaled(tmp_path: Path) -> None:
    files = write_series(tmp_path / "scan", VOXELS - 1024, t0028_1052="-1024", t0028_1053="1")
    assert VOXELS[0].tobytes() in files[0].read_bytes(), "the writer should have stored HU + 1024"
    (tmp_path / "scan" / "readme.txt").write_text("not an image")
    volume = read_volume(tmp_path / "scan")
    np.testing.assert_array_equal(volume.array, VOXELS - 1024)
    assert volume.array.dtype.kind == "i" and volume.modality == "ct" and volume.name == "series 1"
    np.testing.assert_allclose(volume.grid.affine, [[0.7, 0, 0, 1], [0, 0.8, 0, 2], [0, 0, 5, 3], [0, 0, 0, 1]], atol=1e-9)


def test_rescaling_may_be_fractional_and_differ_between_slices(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOXELS - 1024, t0028_1052="-1024", t0028_1053="1")
    data = files[2].read_bytes()
    slope = data.index(b"\x28\x00\x53\x10") + 8  # behind tag, type and length
    assert data[slope : slope + 2] == b"1 " and data.count(b"-1024 ") == 1
    files[2].write_bytes((data[:slope] + b".5" + data[slope + 2 :]).replace(b"-1024 ", b"-3.5  "))
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array[2], VOXELS[2] * 0.5 - 3.5)
    np.testing.assert_array_equal(volume.array[[0, 1, 3, 4]], VOXELS[[0, 1, 3, 4]] - 1024)
    assert volume.array.dtype == np.float32


@pytest.mark.parametrize("tilt_mm", [1.5, -1.5])
def test_gantry_tilt_shears_the_grid(tmp_path: Path, tilt_mm: float) -> None:
    write_series(tmp_path, positions=[(1.0, 2.0 + tilt_mm * k, 3.0 + 5 * k) for k in range(5)])
    volume = read_volume(tmp_path)
    np.testing.assert_allclose(volume.grid.affine, [[0.7, 0, 0, 1], [0, 0.8, tilt_mm, 2], [0, 0, 5, 3], [0, 0, 0, 1]], atol=1e-9)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    assert abs(from_sitk(reader.Execute()).grid.affine[1, 2]) < 1e-9, "ITK kept the tilt; the own reading of positions is no longer needed"


def test_oblique_series_in_descending_order(tmp_path: Path) -> None:
    axes = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()
    positions = [tuple(np.array([10, 20, 30]) - 4 * k * axes[:, 2] + 0.5 * k * axes[:, 0]) for k in range(5)]
    write_series(tmp_path, positions=positions, directions=[*axes[:, 0], *axes[:, 1]], t0008_0060="MR")
    volume = read_volume(tmp_path)
    assert volume.modality == "mr"
    np.testing.assert_array_equal(volume.array, VOXELS[::-1])
    for k in range(5):
        expected = np.array(positions[k]) + 0.7 * 3 * axes[:, 0] + 0.8 * 2 * axes[:, 1]
        np.testing.assert_allclose(volume.grid.index_to_world([4 - k, 2, 3])[0], expected, atol=1e-5)


def test_slice_positions_may_be_rounded_but_not_uneven(tmp_path: Path) -> None:
    write_series(tmp_path / "even", positions=[(1, 2, z) for z in (0, 5.04, 10, 14.97, 20)])
    np.testing.assert_allclose(read_volume(tmp_path / "even").grid.spacing_xyz, [0.7, 0.8, 5], atol=1e-6)
    write_series(tmp_path / "uneven", positions=[(1, 2, z) for z in (0, 5.2, 10, 15, 20)])
    refused(tmp_path / "uneven", "not evenly spaced")
    write_series(tmp_path / "shifted", positions=[(1 + (k > 2), 2, 5.0 * k) for k in range(5)])
    refused(tmp_path / "shifted", "between slice 3 .* and slice 4")


def test_gap_is_located(tmp_path: Path) -> None:
    files = write_series(tmp_path)
    files[3].unlink()
    message = refused(tmp_path, r"slices 5\.00 mm apart, but 10\.00 mm between slice 3 ")
    assert files[2].name in message and files[4].name in message and "1 slice(s) seem to be missing" in message


def test_choice_between_series(tmp_path: Path) -> None:
    write_series(tmp_path / "one")
    write_series(tmp_path / "two", VOXELS[:3] + 1, UPRIGHT[:3], uid=HEAD, t0008_0060="MR")
    message = refused(tmp_path, "2 DICOM series; choose one with series=UID")
    assert f"{CHEST} 'series 1' (CT, 5 slices)" in message and f"{HEAD} 'series 2' (MR, 3 slices)" in message
    head = read_volume(tmp_path, series=HEAD)
    np.testing.assert_array_equal(head.array, VOXELS[:3] + 1)
    assert head.modality == "mr" and read_volume(tmp_path, "xray", series=CHEST).modality == "xray"
    refused(tmp_path, "holds no series 1.9", series="1.9")


def test_same_file_twice_counts_once(tmp_path: Path) -> None:
    files = write_series(tmp_path)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / files[1].name).write_bytes(files[1].read_bytes())
    np.testing.assert_array_equal(read_volume(tmp_path).array, VOXELS)


def test_single_projection_image(tmp_path: Path) -> None:
    write_series(tmp_path, VOXELS[:1], UPRIGHT[:1], t0008_0060="CR", t0018_0050="3")
    volume: Volume = read_volume(tmp_path)
    assert volume.modality == "xray" and volume.array.shape == (1, 6, 7)
    np.testing.assert_allclose(volume.grid.spacing_xyz, [0.7, 0.8, 3])


def localizer(folder: Path) -> None:
    write_series(folder, VOXELS[:4], UPRIGHT[:4])
    write_series(folder / "scout", VOXELS[:1], [(0, 0, 90)], (1, 0, 0, 0, 0, -1), t0008_0018="1.5")


def other_size(folder: Path) -> None:
    write_series(folder, VOXELS[:4], UPRIGHT[:4])
    write_series(folder / "more", VOXELS[:1, :5], UPRIGHT[4:], t0008_0018="1.5")


def two_phases(folder: Path) -> None:
    write_series(folder)
    write_series(folder / "phase", VOXELS[:1], UPRIGHT[2:], t0008_0018="1.5")


def no_direction(folder: Path) -> None:
    for path in write_series(folder):
        path.write_bytes(path.read_bytes().replace(b"1\\0\\0\\0\\1\\0", b"0\\0\\0\\0\\1\\0"))


def multi_frame(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.astype(np.uint16)), str(folder / "a.dcm"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (localizer, "different directions"),
        (other_size, "mixes slices of 7 x 6 pixels .* and 7 x 5 pixels"),
        (two_phases, "several images at one place"),
        (multi_frame, r"multi-frame file \(5 frames\)"),
        (lambda folder: write_series(folder, np.zeros((1, 6, 7, 3), np.uint8), UPRIGHT[:1]), "colour image"),
        (no_direction, "lacks a position, direction"),
        (lambda folder: folder.mkdir(exist_ok=True), "holds no DICOM images"),
        (lambda folder: (folder / "a.nii").write_bytes(b"x" * 400), "holds no DICOM images"),
    ],
)
def test_folders_without_one_regular_stack_are_refused(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path)
    refused(tmp_path, words)


def test_damaged_slices_are_not_left_out(tmp_path: Path) -> None:
    files = write_series(tmp_path)
    write_series(tmp_path / "other", VOXELS[:3], UPRIGHT[:3], uid=HEAD)
    whole = files[4].read_bytes()
    for length in (len(whole) - 30, 300, 0):
        files[4].write_bytes(whole[:length])
        assert files[4].name in refused(tmp_path, "damaged or incomplete", CHEST)
    files[4].write_bytes(whole[:-30])
    assert read_volume(tmp_path, series=HEAD).array.shape == (3, 6, 7), "damage in another series does not matter"
    for path in tmp_path.rglob("*.dcm"):
        path.write_bytes(path.read_bytes()[:-30])
    refused(tmp_path, "None of the DICOM images")


def test_reports_and_plans_beside_the_images_are_passed_over(tmp_path: Path) -> None:
    write_series(tmp_path)
    storage = b"1.2.840.10008.5.1.4.1.1.88.11\0"
    (tmp_path / "report.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x02\x00UI" + len(storage).to_bytes(2, "little") + storage)
    np.testing.assert_array_equal(read_volume(tmp_path).array, VOXELS)
