"""NIfTI headers: the exact affine, voxels where they begin, and what is refused."""

from __future__ import annotations

import gzip
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from nifti_files import CODES, FLIP, QUICK, SHEARED, VOXELS, affines, make_affine, nifti, saved
from scipy.spatial.transform import Rotation

from UniversalAnatomicalEmbeddingLib.images.volume import from_array, from_sitk, read_volume, write_volume
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

OBLIQUE = make_affine((10, -20, 30), (0.7, 0.9, 5), 0, False)


# --- NIfTI


@QUICK
@given(affine=affines, order=st.sampled_from("<>"), kind=st.sampled_from(sorted(CODES)), zipped=st.booleans())
def test_nifti_gives_the_exact_affine_and_voxels(tmp_path: Path, affine: np.ndarray, order: str, kind: str, zipped: bool) -> None:
    voxels = np.arange(24).reshape(2, 3, 4).astype(kind)
    data = nifti(voxels, affine, order)
    volume = read_volume(saved(tmp_path / ("a.nii.gz" if zipped else "a.nii"), gzip.compress(data) if zipped else data))
    np.testing.assert_allclose(volume.grid.affine, affine, atol=1e-4)
    np.testing.assert_array_equal(volume.array, voxels)
    assert volume.array.dtype == (np.float32 if kind == "f8" else np.dtype(kind)) and volume.array.dtype.isnative
    assert volume.array.flags.writeable and volume.name == "a" and volume.modality is None


def test_nifti_world_is_flipped_from_ras_to_lps(tmp_path: Path) -> None:
    srow = [[2, 0, 0.5, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]]
    volume = read_volume(saved(tmp_path / "a.nii", nifti(VOXELS, np.eye(4), srow=srow)))
    np.testing.assert_allclose(volume.grid.index_to_world([2, 1, 3]), [[-(10 + 6 + 1), -(20 + 3), 30 + 8]])


def test_nifti_prefers_sform_then_qform_then_plain_spacing(tmp_path: Path) -> None:
    rotation = Rotation.from_euler("xyz", (25, -40, 60), degrees=True)
    quatern = rotation.as_quat()[:3] * np.sign(rotation.as_quat()[3])
    fields = {"qform_code": 1, "quatern": quatern, "qoffset": (7, 8, 9)}
    both = read_volume(saved(tmp_path / "both.nii", nifti(VOXELS, SHEARED, **fields)))
    np.testing.assert_allclose(both.grid.affine, SHEARED, atol=1e-4)
    for qfac in (1, -1):
        path = saved(tmp_path / f"q{qfac}.nii", nifti(VOXELS, OBLIQUE, sform_code=0, qfac=qfac, **fields))
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = rotation.as_matrix() * [0.7, 0.9, 5 * qfac], (7, 8, 9)
        np.testing.assert_allclose(read_volume(path).grid.affine, FLIP @ affine, atol=1e-4)
        np.testing.assert_allclose(from_sitk(sitk.ReadImage(str(path))).grid.affine, FLIP @ affine, atol=1e-4)
    path = saved(tmp_path / "none.nii", nifti(VOXELS, OBLIQUE, sform_code=0))
    np.testing.assert_allclose(read_volume(path).grid.affine, np.diag([0.7, 0.9, 5, 1]), atol=1e-4)
    np.testing.assert_allclose(from_sitk(sitk.ReadImage(str(path))).grid.affine, np.diag([0.7, 0.9, 5, 1]), atol=1e-4)


def test_nifti_rescaling_and_units(tmp_path: Path) -> None:
    scaled = read_volume(saved(tmp_path / "a.nii", nifti(VOXELS, SHEARED, ">", slope=0.5, inter=-100)))
    np.testing.assert_allclose(scaled.array, VOXELS * 0.5 - 100)
    assert scaled.array.dtype == np.float32
    for slope in (0, float("nan")):
        unscaled = read_volume(saved(tmp_path / "b.nii", nifti(VOXELS, SHEARED, slope=slope, inter=5)))
        np.testing.assert_array_equal(unscaled.array, VOXELS)
        assert unscaled.array.dtype == np.int16
    for units, factor in ((1, 1000), (3, 0.001), (0, 1), (1 + 8, 1000)):
        metres = read_volume(saved(tmp_path / "c.nii", nifti(VOXELS, SHEARED, units=units)))
        np.testing.assert_allclose(metres.grid.affine[:3], SHEARED[:3] * factor, rtol=1e-5, atol=1e-4)


def test_nifti_of_two_dimensions_or_one_time_point_is_one_volume(tmp_path: Path) -> None:
    flat = read_volume(saved(tmp_path / "flat.nii", nifti(VOXELS[:1], OBLIQUE, dim=[2, 5, 4, 1, 1, 1, 1, 1])))
    np.testing.assert_array_equal(flat.array, VOXELS[:1])
    srow = FLIP @ OBLIQUE
    srow[:3, 2] = 0
    flat = read_volume(saved(tmp_path / "flat.nii", nifti(VOXELS[:1], OBLIQUE, dim=[2, 5, 4, 0, 0, 0, 0, 0], srow=srow)))
    np.testing.assert_allclose(flat.grid.affine[:3, 2], OBLIQUE[:3, 2] / 5, atol=1e-4)
    flat = read_volume(saved(tmp_path / "flat.nii", nifti(VOXELS[:1], OBLIQUE, dim=[2, 5, 4, 0, 0, 0, 0, 0], srow=srow, sform_code=0)))
    np.testing.assert_allclose(flat.grid.spacing_xyz, [0.7, 0.9, 1], atol=1e-6)
    once = read_volume(saved(tmp_path / "once.nii", nifti(VOXELS, SHEARED, dim=[4, 5, 4, 3, 1, 1, 1, 1])))
    np.testing.assert_array_equal(once.array, VOXELS)


def test_nifti_voxels_begin_where_the_header_says(tmp_path: Path) -> None:
    data = nifti(VOXELS, SHEARED, offset=400)
    np.testing.assert_array_equal(read_volume(saved(tmp_path / "a.nii", data[:352] + b"extension".ljust(48) + data[352:])).array, VOXELS)
    np.testing.assert_array_equal(read_volume(saved(tmp_path / "a.nii", nifti(VOXELS, SHEARED, offset=0))).array, VOXELS)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dim": [4, 5, 4, 1, 3, 1, 1, 1]}, "4-D with 3 time points"),
        ({"dim": [5, 5, 4, 1, 1, 3, 1, 1]}, "several values per voxel"),
        ({"dim": [3, 5, 0, 3, 1, 1, 1, 1]}, "must be positive"),
        ({"code": 128}, "RGB voxels"),
        ({"code": 32}, "complex voxels"),
        ({"code": 1}, "unknown data type 1"),
        ({"offset": 1e30}, "begin at byte 1e"),
        ({"srow": np.zeros((4, 4))}, "not invertible"),
        ({"srow": np.full((4, 4), np.nan)}, "finite 4x4"),
    ],
)
def test_nifti_that_is_no_scalar_volume_is_refused(tmp_path: Path, fields: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_volume(saved(tmp_path / "scan.nii", nifti(VOXELS, SHEARED, **fields)))
    assert "scan.nii" in str(caught.value)


@pytest.mark.parametrize("zipped", [False, True])
def test_truncated_nifti_is_refused_wherever_it_ends(tmp_path: Path, zipped: bool) -> None:
    voxels = np.random.default_rng(0).integers(-1000, 1000, (8, 9, 10)).astype(np.int16)
    data = gzip.compress(nifti(voxels, SHEARED)) if zipped else nifti(voxels, SHEARED)
    path = tmp_path / ("a.nii.gz" if zipped else "a.nii")
    for length in (0, 1, 100, 347, len(data) // 2, len(data) - 9, len(data) - 1):
        with pytest.raises(InputError, match="incomplete"):
            read_volume(saved(path, data[:length]))


def test_damaged_or_foreign_nifti_is_refused(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(nifti(VOXELS, SHEARED)))
    data[-6] ^= 1
    huge = nifti(VOXELS, SHEARED, dim=[3, *[32000] * 7])
    for content, words in ((bytes(data), "damaged"), (b"\0" * 1000, "no single-file NIfTI-1"), (huge, "memory|incomplete")):
        with pytest.raises(InputError, match=words):
            read_volume(saved(tmp_path / "a.nii.gz", content))


def test_nifti_for_other_software_is_right_or_refused(tmp_path: Path) -> None:
    for angles, mirrored in itertools.product([(10, -20, 130), (170, 40, -100), (-95, 80, 15)], (False, True)):
        affine = make_affine(angles, (0.7, 0.9, 5), 0, mirrored)
        write_volume(from_array(VOXELS, affine), tmp_path / "a.nii.gz")
        image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
        np.testing.assert_allclose(from_sitk(image).grid.affine, affine, atol=1e-4)
        data = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
        struct.pack_into("<h", data, 254, 0)  # without the sform the qform says the same
        np.testing.assert_allclose(read_volume(saved(tmp_path / "q.nii", bytes(data))).grid.affine, affine, atol=1e-3)
    write_volume(from_array(VOXELS, SHEARED), tmp_path / "sheared.nii")
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(tmp_path / "sheared.nii"))
