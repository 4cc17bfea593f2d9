"""Reading and writing scans: exact geometry, voxel values, and a sentence for everything that cannot be used."""

from __future__ import annotations

import gzip
import itertools
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from UniversalAnatomicalEmbeddingLib.errors import InputError
from UniversalAnatomicalEmbeddingLib.volume import (
    Volume,
    from_array,
    from_sitk,
    read_volume,
    require_3d,
    to_sitk,
    write_volume,
)

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}
VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5) * 50 - 1024
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make_affine(angles: tuple[float, float, float], spacing: tuple[float, float, float], shear: float, mirrored: bool) -> np.ndarray:
    affine = np.eye(4)
    tilt = np.eye(3)
    tilt[1, 2] = shear
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ tilt * spacing * [-1 if mirrored else 1, 1, 1]
    affine[:3, 3] = [-123.25, 45.5, -800.125]
    return affine


angle = st.floats(-180, 180)
millimetres = st.floats(0.3, 8)
angles, spacings = st.tuples(angle, angle, angle), st.tuples(millimetres, millimetres, millimetres)
affines = st.builds(make_affine, angles, spacings, shear=st.floats(-0.5, 0.5), mirrored=st.booleans())
SHEARED = make_affine((10, 20, 30), (0.7, 0.9, 5), 0.3, False)
OBLIQUE = make_affine((10, -20, 30), (0.7, 0.9, 5), 0, False)


def nifti(array: np.ndarray, affine_lps: np.ndarray, order: str = "<", **fields: object) -> bytes:
    """A NIfTI-1 file written field by field, as a reference that shares no code with the package."""
    header = bytearray(352)

    def put(offset: int, fmt: str, *values: object) -> None:
        struct.pack_into(order + fmt, header, offset, *values)

    ras = np.asarray(fields.get("srow", FLIP @ affine_lps))
    put(0, "i", 348)
    put(40, "8h", *fields.get("dim", [3, *array.shape[::-1], 1, 1, 1, 1]))
    put(70, "hh", fields.get("code", CODES[array.dtype.str[1:]]), array.dtype.itemsize * 8)
    put(76, "8f", fields.get("qfac", 1), *np.linalg.norm(ras[:3, :3], axis=0), 0, 0, 0, 0)
    put(108, "3f", fields.get("offset", 352), fields.get("slope", 0), fields.get("inter", 0))
    put(123, "B", fields.get("units", 2))
    put(252, "hh", fields.get("qform_code", 0), fields.get("sform_code", 1))
    put(256, "6f", *fields.get("quatern", (0, 0, 0)), *fields.get("qoffset", (0, 0, 0)))
    put(280, "12f", *ras[:3].ravel())
    header[344:348] = b"n+1\0"
    return bytes(header) + array.astype(array.dtype.newbyteorder(order)).tobytes()


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


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


def test_gzip_is_recognised_by_content(tmp_path: Path) -> None:
    for name, data in (("a.nii", gzip.compress(nifti(VOXELS, SHEARED))), ("b.NII.GZ", nifti(VOXELS, SHEARED))):
        np.testing.assert_array_equal(read_volume(saved(tmp_path / name, data)).array, VOXELS)


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
