"""Reading and writing scans: exact geometry, voxel values, and a sentence for everything that cannot be used."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from nifti_files import FLIP, QUICK, SHEARED, VOXELS, affines, nifti, saved

from UniversalAnatomicalEmbeddingLib.images.volume import Volume, from_array, from_sitk, read_volume, require_3d, to_sitk, write_volume
from UniversalAnatomicalEmbeddingLib.system.errors import InputError


def test_gzip_is_recognised_by_content(tmp_path: Path) -> None:
    for name, data in (("a.nii", gzip.compress(nifti(VOXELS, SHEARED))), ("b.NII.GZ", nifti(VOXELS, SHEARED))):
        np.testing.assert_array_equal(read_volume(saved(tmp_path / name, data)).array, VOXELS)


# --- NRRD, MetaImage, arrays, SimpleITK


@QUICK
@given(
    affine=affines,
    extension=st.sampled_from([".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"]),
    kind=st.sampled_from(["u1", "i2", "u2", "i4", "f4"]),
)
def test_written_volumes_come_back(tmp_path: Path, affine: np.ndarray, extension: str, kind: str) -> None:
    volume = from_array(np.arange(24).reshape(2, 3, 4).astype(kind), affine)
    path = tmp_path / f"scan.v1{extension}"
    write_volume(volume, path)
    back = read_volume(path)
    np.testing.assert_allclose(back.grid.affine, affine, atol=1e-4 if "nii" in extension else 1e-9)
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.array.dtype == kind and back.name == "scan.v1"
    assert {p.suffix for p in tmp_path.iterdir()} <= {".nii", ".gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".raw"}


@QUICK
@given(affine=affines)
def test_simpleitk_and_the_grid_agree_on_every_point(affine: np.ndarray) -> None:
    volume = from_array(VOXELS, affine)
    image = to_sitk(volume)
    expected = [image.TransformContinuousIndexToPhysicalPoint(p) for p in ((0.0, 0.0, 0.0), (3.5, 1.25, 2.0), (4.0, 3.0, 0.0))]
    np.testing.assert_allclose(volume.grid.index_to_world([(0, 0, 0), (2, 1.25, 3.5), (0, 3, 4)]), expected, atol=1e-9)
    assert image.GetPixel(3, 1, 2) == VOXELS[2, 1, 3]
    np.testing.assert_allclose(from_sitk(image).grid.affine, affine, atol=1e-9)


def nrrd(path: Path, geometry: str, voxels: np.ndarray = VOXELS, sizes: str = "5 4 3") -> Path:
    header = f"NRRD0005\ntype: short\ndimension: {len(sizes.split())}\nsizes: {sizes}\nendian: little\nencoding: raw\n{geometry}\n\n"
    return saved(path, header.encode() + voxels.astype("<i2").tobytes())


def test_sheared_nrrd_in_both_frames(tmp_path: Path) -> None:
    vectors = "space directions: (1,0,0) (0,2,0) (0.5,1,4)\nspace origin: (10,20,30)"
    lps = read_volume(nrrd(tmp_path / "a.nrrd", f"space: left-posterior-superior\n{vectors}"))
    np.testing.assert_allclose(lps.grid.affine, [[1, 0, 0.5, 10], [0, 2, 1, 20], [0, 0, 4, 30], [0, 0, 0, 1]], atol=1e-12)
    np.testing.assert_array_equal(lps.array, VOXELS)
    ras = read_volume(nrrd(tmp_path / "a.nrrd", f"space: right-anterior-superior\n{vectors}"))
    np.testing.assert_allclose(ras.grid.affine, FLIP @ lps.grid.affine, atol=1e-12)


def test_itk_formats_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    frame = "space: LPS\nspace origin: (0,0,0)\nspace directions: "
    kinds = "none (1,0,0) (0,1,0) (0,0,1)\nkinds: vector domain domain domain"
    vector = nrrd(tmp_path / "vector.nrrd", frame + kinds, np.arange(120), "2 5 4 3")
    with pytest.raises(InputError, match=r"vector\.nrrd has 2 values per voxel"):
        read_volume(vector)
    with pytest.raises(InputError, match="not invertible"):
        read_volume(nrrd(tmp_path / "flat.nrrd", frame + "(1,0,0) (1,0,0) (0,0,1)"))
    for extension in ("nrrd", "mha"):
        path = tmp_path / f"cut.{extension}"
        write_volume(from_array(np.random.default_rng(0).integers(0, 999, (5, 6, 7)), SHEARED), path)
        with pytest.raises(InputError, match="incomplete"):
            read_volume(saved(path, path.read_bytes()[:-20]))
    with pytest.raises(InputError, match="empty"):
        read_volume(saved(path, b""))
    four = sitk.JoinSeries([sitk.GetImageFromArray(VOXELS)] * 2)
    sitk.WriteImage(four, str(tmp_path / "four.mha"))
    with pytest.raises(InputError, match="4-D with 2"):
        read_volume(tmp_path / "four.mha")
    once = nrrd(tmp_path / "once.nrrd", frame + "(1,0,0) (0,1,0) (0,0,1) none\nkinds: domain domain domain list", sizes="5 4 3 1")
    np.testing.assert_array_equal(read_volume(once).array, VOXELS)
    np.testing.assert_array_equal(from_sitk(sitk.JoinSeries([sitk.GetImageFromArray(VOXELS)])).array, VOXELS)
    with pytest.raises(InputError, match="3 values per voxel"):
        from_sitk(sitk.GetImageFromArray(np.zeros((2, 3, 4, 3), np.uint8), isVector=True))


def test_two_dimensional_image_is_one_slice() -> None:
    image = sitk.GetImageFromArray(VOXELS[0])
    image.SetSpacing((0.5, 0.25))
    image.SetOrigin((3, 4))
    volume = from_sitk(image, "xray")
    np.testing.assert_array_equal(volume.grid.affine, [[0.5, 0, 0, 3], [0, 0.25, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert volume.array.shape == (1, 4, 5)
    with pytest.raises(InputError, match="5 x 4 x 1 voxels"):
        require_3d(volume)
    assert require_3d(from_array(VOXELS, SHEARED)).array.shape == (3, 4, 5)


def test_voxel_types_and_missing_values() -> None:
    assert from_array(VOXELS.astype(">f8"), SHEARED).array.dtype == np.float32
    assert from_array(VOXELS.astype(">i2"), SHEARED).array.dtype.isnative
    np.testing.assert_array_equal(from_array(VOXELS.astype(">i2"), SHEARED).array, VOXELS)
    assert from_array(VOXELS > 0, SHEARED).array.dtype == np.uint8
    holes = VOXELS.astype(np.float64)
    holes[0, 0, :3] = np.nan, np.inf, -np.inf
    filled = from_array(holes, SHEARED).array
    np.testing.assert_array_equal(filled[0, 0, :3], np.full(3, VOXELS[0, 0, 3]))
    np.testing.assert_array_equal(filled[1:], VOXELS[1:])
    assert np.isnan(holes[0, 0, 0]), "the caller's array must stay as it is"


@pytest.mark.parametrize(
    ("array", "affine", "words"),
    [
        (np.full((2, 3, 4), np.nan), np.eye(4), "no finite voxel"),
        (np.zeros((2, 3, 4), complex), np.eye(4), "complex128"),
        (np.zeros((0, 3, 4)), np.eye(4), "is empty"),
        (np.zeros((2, 2, 3, 4)), np.eye(4), "4 axes"),
        (VOXELS, np.diag([1, 1, 0, 1]), "mine: .*not invertible"),
        (VOXELS, np.eye(3), "4x4"),
    ],
)
def test_arrays_that_are_no_volume_are_refused(array: np.ndarray, affine: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_array(array, affine, name="mine")


def test_paths_that_name_no_image_are_refused(tmp_path: Path) -> None:
    cases: Iterable[tuple[str, str]] = [("absent.nii", "does not exist"), ("a.txt", "unknown extension"), ("a.dcm", "give the folder")]
    for name, words in cases:
        if name != "absent.nii":
            saved(tmp_path / name, b"text")
        with pytest.raises(InputError, match=words):
            read_volume(tmp_path / name)
    with pytest.raises(InputError, match="folder of DICOM"):
        read_volume(saved(tmp_path / "a.nii", nifti(VOXELS, SHEARED)), series="1.2")
    with pytest.raises(InputError, match="Unknown modality 'pet'"):
        read_volume(tmp_path / "a.nii", modality="pet")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown extension"):
        write_volume(from_array(VOXELS, SHEARED), tmp_path / "a.png")
    with pytest.raises(InputError, match="does not exist"):
        write_volume(from_array(VOXELS, SHEARED), tmp_path / "none" / "a.nii")
    with pytest.raises(InputError, match="shape"):
        Volume(VOXELS, from_array(VOXELS[:2], SHEARED).grid)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("a.nii.gz", "a.mha"):
        path = saved(tmp_path / name, b"old")
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", refuse)
            with pytest.raises(InputError, match="No space left"):
                write_volume(from_array(VOXELS, SHEARED), path)
        assert path.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mha", "a.nii.gz"]


def test_real_scans_read_as_simpleitk_reads_them(data_dir: Path) -> None:
    for path in sorted((data_dir / "dev" / "native").glob("*.nii.gz")):
        volume, reference = read_volume(path), from_sitk(sitk.ReadImage(str(path)))
        np.testing.assert_allclose(volume.grid.affine, reference.grid.affine, atol=1e-3)
        np.testing.assert_array_equal(volume.array, reference.array)
        assert volume.array.dtype == reference.array.dtype
