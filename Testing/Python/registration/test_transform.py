"""The transform: points, files, ITK and resampling say the same, for oblique images, unequal spacings and fields; signs matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from positions import carried, lps_grid, motion
from samples import OBLIQUE, affines

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume, to_sitk
from UniversalAnatomicalEmbeddingLib.registration.transform import Transform, jacobian, read_transform, write_transform
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

MATRIX = motion((12, -25, 40), (30, -8, 14), (5, 6, 7), 1.05)
GRID = lps_grid((-40, -30, -50), (80, 60, 100), 8.0)


def wavy(amplitude: float = 6.0, grid: Grid = GRID) -> Transform:
    """MATRIX after a smooth field that is zero at the border."""
    z, y, x = (np.sin(np.pi * np.arange(n) / (n - 1)) for n in grid.shape_zyx)
    bump = z[:, None, None] * y[None, :, None] * x[None, None]
    return Transform(MATRIX, amplitude * bump[..., None] * np.array([1.0, -0.5, 0.7]), grid)


def points(count: int = 200) -> np.ndarray:
    return np.random.default_rng(0).uniform(-60, 60, (count, 3))


def smooth(places: np.ndarray) -> np.ndarray:
    """A linear scene, which linear interpolation reproduces exactly."""
    return places @ [1.0, -2.0, 0.5] + 300


def scene(grid: Grid) -> Volume:
    """The linear scene as the moving scan shows it."""
    index = np.argwhere(np.ones(grid.shape_zyx, dtype=bool))
    return Volume(smooth(grid.index_to_world(index)).reshape(grid.shape_zyx).astype(np.float32), grid, "mr")


def test_a_linear_transform_is_its_matrix() -> None:
    np.testing.assert_allclose(Transform(MATRIX)(points()), carried(MATRIX, points()), atol=1e-9)


def test_the_field_is_added_before_the_matrix_and_is_zero_outside() -> None:
    transform = wavy()
    node = (5, 4, 6)
    place = GRID.index_to_world([node])
    shift = transform.displacement[node]
    assert np.linalg.norm(shift) > 1
    np.testing.assert_allclose(transform(place), carried(MATRIX, place + shift), atol=1e-9)
    outside = np.array([[200.0, 0, 0], [0, -90, 0]])
    np.testing.assert_allclose(transform(outside), carried(MATRIX, outside), atol=1e-9)


@pytest.mark.parametrize("transform", [Transform(MATRIX), wavy()], ids=["linear", "field"])
def test_itk_maps_points_alike(transform: Transform) -> None:
    other = transform.to_sitk()
    np.testing.assert_allclose([other.TransformPoint(p) for p in points().tolist()], transform(points()), atol=1e-4)


def test_itk_maps_points_alike_through_an_oblique_field(tmp_path: Path) -> None:
    affine = motion((25, -40, 70), (0, 0, 0)) @ np.diag([6.0, 7.0, 9.0, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ [6, 5, 4]  # its middle at the origin
    transform = wavy(grid=Grid((9, 11, 13), affine))
    moved = transform(points())
    assert np.linalg.norm(moved - carried(MATRIX, points()), axis=1).max() > 3
    other = transform.to_sitk()
    np.testing.assert_allclose([other.TransformPoint(p) for p in points().tolist()], moved, atol=1e-4)
    write_transform(transform, tmp_path / "oblique.h5")
    np.testing.assert_allclose(read_transform(tmp_path / "oblique.h5")(points()), moved, atol=1e-3)


def test_several_linear_parts_of_a_file_are_applied_last_one_first(tmp_path: Path) -> None:
    parts = [sitk.AffineTransform(m[:3, :3].ravel().tolist(), m[:3, 3].tolist()) for m in (MATRIX, motion((-50, 10, 5), (-3, 60, 9)))]
    both = sitk.CompositeTransform(parts)
    sitk.WriteTransform(both, str(tmp_path / "both.tfm"))
    expected = [both.TransformPoint(p) for p in points().tolist()]
    np.testing.assert_allclose(read_transform(tmp_path / "both.tfm")(points()), expected, atol=1e-6)


@pytest.mark.parametrize("transform", [Transform(MATRIX), wavy()], ids=["linear", "field"])
@pytest.mark.parametrize("extension", [".h5", ".tfm", ".txt"])
def test_files_keep_the_map(transform: Transform, extension: str, tmp_path: Path) -> None:
    file = tmp_path / f"transform{extension}"
    write_transform(transform, file)
    np.testing.assert_allclose(read_transform(file)(points()), transform(points()), atol=1e-3)
    other = sitk.ReadTransform(str(file))
    np.testing.assert_allclose([other.TransformPoint(p) for p in points().tolist()], transform(points()), atol=1e-3)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("transform", [Transform(MATRIX), wavy()], ids=["linear", "field"])
def test_the_inverse_undoes_the_map(transform: Transform) -> None:
    np.testing.assert_allclose(transform.inverse(transform(points())), points(), atol=1e-4)


@settings(max_examples=12, deadline=None)
@given(affine=affines(1.0, 4.0))
def test_resampling_shows_at_a_fixed_voxel_what_lies_at_the_mapped_point(affine: np.ndarray) -> None:
    """Oblique and sheared fixed grids, a moving grid with another spacing and orientation; an inverted or transposed map would differ by metres."""
    affine = affine.copy()
    affine[:3, 3] = [-3.0, 2.0, 4.0]
    fixed = Grid((6, 7, 8), affine)
    tilted = motion((20, 10, -30), (0, 0, 0)) @ np.diag([4.0, 5.0, 7.0, 1.0])
    tilted[:3, 3] = -tilted[:3, :3] @ [40, 40, 30] + MATRIX[:3, 3]
    result = Transform(MATRIX).resample(scene(Grid((60, 80, 80), tilted)), fixed)
    places = carried(MATRIX, fixed.index_to_world(np.argwhere(np.ones(fixed.shape_zyx, dtype=bool))))
    inside = Grid((60, 80, 80), tilted).cropped((1, 1, 1), (58, 78, 78)).contains(places)
    assert inside.mean() > 0.9
    assert result.grid == fixed
    np.testing.assert_allclose(result.array.ravel()[inside], smooth(places[inside]), atol=0.05)


@pytest.mark.parametrize("transform", [Transform(MATRIX), wavy()], ids=["linear", "field"])
def test_resampling_agrees_with_itk(transform: Transform) -> None:
    moving = scene(
        Grid((50, 50, 50), np.diag([4.0, 5.0, 6.0, 1.0]) @ np.block([[np.eye(3), np.full((3, 1), -25.0)], [np.zeros((1, 3)), 1.0]]))
    )
    fixed = Grid((9, 8, 7), OBLIQUE)
    centred = fixed.affine.copy()
    centred[:3, 3] -= fixed.corners().mean(0)
    fixed = Grid((9, 8, 7), centred)
    ours = transform.resample(moving, fixed).array
    reference = to_sitk(Volume(np.zeros(fixed.shape_zyx, np.float32), fixed))
    theirs = sitk.GetArrayFromImage(sitk.Resample(to_sitk(moving), reference, transform.to_sitk(), sitk.sitkLinear, -1.0))
    both = theirs != -1
    assert both.mean() > 0.9
    np.testing.assert_allclose(ours[both], theirs[both], atol=0.05)


def test_air_fills_what_the_moving_scan_does_not_show_and_integers_stay() -> None:
    moving = Volume(np.full((4, 4, 4), 40, np.int16), lps_grid((0, 0, 0), (8, 8, 8)), "ct")
    result = Transform(np.eye(4)).resample(moving, lps_grid((-8, 0, 0), (16, 8, 8)))
    assert result.array.dtype == np.int16
    assert (result.array[..., :4] == -1024).all()
    assert (result.array[..., 4:] == 40).all()


def test_the_jacobian_of_a_stretch_is_its_volume() -> None:
    grid = Grid((5, 6, 7), OBLIQUE)
    places = grid.index_to_world(np.argwhere(np.ones(grid.shape_zyx, dtype=bool))).reshape(*grid.shape_zyx, 3)
    stretch = np.array([[0.1, 0.05, 0], [0, -0.2, 0.1], [0.02, 0, 0.3]])
    np.testing.assert_allclose(jacobian(places @ stretch.T, grid), np.linalg.det(np.eye(3) + stretch), rtol=1e-6)


def test_folding_is_counted() -> None:
    assert wavy().folding() == 0
    assert Transform(MATRIX).folding() == 0
    assert wavy(amplitude=200).folding() > 0.05


def test_a_mirror_is_no_registration() -> None:
    with pytest.raises(ValueError, match="mirrors"):
        Transform(np.diag([-1.0, 1, 1, 1]))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_transform(tmp_path / "none.tfm")
    (tmp_path / "broken.h5").write_bytes(b"not a transform")
    with pytest.raises(InputError, match=r"no readable ITK transform"):
        read_transform(tmp_path / "broken.h5")
    with pytest.raises(InputError, match=r"extension"):
        write_transform(Transform(MATRIX), tmp_path / "a.mat")
    sitk.WriteTransform(sitk.BSplineTransform(3), str(tmp_path / "spline.tfm"))
    with pytest.raises(InputError, match="other parts"):
        read_transform(tmp_path / "spline.tfm")
