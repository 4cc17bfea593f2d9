"""Grids: exact both ways for every orientation, and checks that notice when they are not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import OBLIQUE, affines, make_affine, to_world

from UniversalAnatomicalEmbeddingLib.images import grid as grid_module
from UniversalAnatomicalEmbeddingLib.images.grid import FLIP, Grid, flipped

QUICK = settings(max_examples=60, deadline=None)
shapes = st.tuples(*[st.integers(1, 600)] * 3)
strides = st.tuples(*[st.integers(1, 16)] * 3)
indices = st.lists(st.tuples(*[st.floats(-50, 700)] * 3), min_size=1, max_size=8)


# --- index and world ------------------------------------------------------------------------------------------------------------------


@QUICK
@given(affine=affines(), index=indices)
def test_index_to_world_and_back_is_exact(affine: np.ndarray, index: list[tuple[float, ...]]) -> None:
    grid = Grid((5, 6, 7), affine)
    world = grid.index_to_world(index)
    np.testing.assert_allclose(world, to_world(affine, np.array(index)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(grid.index_to_world(grid.world_to_index(world)), world, rtol=0, atol=1e-6)
    np.testing.assert_allclose(grid.world_to_index(world), index, rtol=0, atol=1e-6)


def test_index_is_z_y_x_and_world_is_x_y_z() -> None:
    grid = Grid((2, 3, 4), [[1, 0, 0, 100], [0, 2, 0, 200], [0, 0, 3, 300], [0, 0, 0, 1]])
    np.testing.assert_array_equal(
        grid.index_to_world([[1, 0, 0], [0, 1, 0], [0, 0, 1]]), [[100, 200, 303], [100, 202, 300], [101, 200, 300]]
    )
    np.testing.assert_array_equal(grid.world_to_index([[101, 204, 309]]), [[3, 2, 1]])


def test_off_diagonal_terms_are_not_transposed() -> None:
    grid = Grid((2, 2, 2), [[0, -2, 0.5, 10], [1, 0, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])  # rows: world x, y, z; columns: index x, y, z
    np.testing.assert_array_equal(grid.index_to_world([[5, 7, 9]]), [[10 - 2 * 7 + 0.5 * 5, 20 + 9, 30 + 3 * 5]])
    np.testing.assert_allclose(grid.world_to_index([[-1.5, 29, 45]]), [[5, 7, 9]])


def test_spacing_is_in_the_order_x_y_z() -> None:
    np.testing.assert_allclose(Grid((2, 2, 2), make_affine((10, 20, 30), (0.7, 0.9, 5))).spacing_xyz, [0.7, 0.9, 5])


def test_spacing_in_array_order_can_become_a_tensor() -> None:
    spacing = Grid((2, 2, 2), make_affine((10, 20, 30), (0.7, 0.9, 5))).spacing_zyx
    np.testing.assert_allclose(torch.from_numpy(spacing).numpy(), [5, 0.9, 0.7])


@QUICK
@given(affine=affines())
def test_direction_spacing_and_origin_make_up_the_affine(affine: np.ndarray) -> None:
    grid = Grid((5, 6, 7), affine)
    np.testing.assert_allclose(np.linalg.norm(grid.direction, axis=0), 1)
    np.testing.assert_allclose(grid.direction * grid.spacing_xyz, affine[:3, :3], atol=1e-12)
    np.testing.assert_array_equal(grid.origin, affine[:3, 3])


@QUICK
@given(affine=affines())
def test_a_grid_is_that_of_the_image_it_was_laid_on_and_places_voxels_as_itk_does(affine: np.ndarray) -> None:
    grid = Grid((5, 6, 7), affine)
    image = sitk.Image([7, 6, 5], sitk.sitkUInt8)
    grid.lay(image)
    found = Grid.from_sitk(image)
    assert found.shape_zyx == grid.shape_zyx
    np.testing.assert_allclose(found.affine, affine, atol=1e-9)
    np.testing.assert_allclose(image.TransformContinuousIndexToPhysicalPoint([1.5, 2.0, 3.0]), found.index_to_world([3, 2, 1.5])[0], atol=1e-9)


def test_a_picture_is_one_slice_and_of_more_axes_the_first_three_count() -> None:
    picture = sitk.Image([4, 3], sitk.sitkUInt8)
    picture.SetSpacing([0.5, 2.0])
    picture.SetOrigin([7.0, 8.0])
    assert Grid.from_sitk(picture) == Grid((1, 3, 4), [[0.5, 0, 0, 7], [0, 2, 0, 8], [0, 0, 1, 0], [0, 0, 0, 1]])
    series = sitk.Image([4, 3, 2, 5], sitk.sitkUInt8)
    series.SetSpacing([1.0, 2.0, 3.0, 4.0])
    assert Grid.from_sitk(series) == Grid((2, 3, 4), np.diag([1.0, 2.0, 3.0, 1.0]))


def test_no_points_give_no_points() -> None:
    grid = Grid((2, 3, 4), OBLIQUE)
    assert grid.index_to_world([]).shape == grid.world_to_index([]).shape == (0, 3)
    assert grid.contains([]).shape == (0,)


def test_ras_and_lps_point_the_other_way_to_the_right_and_to_the_front() -> None:
    points = np.array([[1.0, 2, 3], [-4, 5, -6]])
    np.testing.assert_array_equal(flipped(points), [[-1, -2, 3], [4, -5, -6]])
    np.testing.assert_array_equal((FLIP @ [*points[0], 1])[:3], flipped(points[0])[0])
    np.testing.assert_array_equal(flipped(flipped(points)), points)


def test_ras_becomes_lps_in_one_place() -> None:
    package = Path(grid_module.__file__).parents[1]
    flips = re.compile(r"-1(\.0)?, *-1(\.0)?, *1\b")
    assert {p.name for p in package.rglob("*.py") if flips.search(p.read_text(encoding="utf-8"))} == {"grid.py"}


# --- field of view --------------------------------------------------------------------------------------------------------------------


@QUICK
@given(affine=affines(), shape=shapes)
def test_field_of_view_ends_at_the_outer_faces(affine: np.ndarray, shape: tuple[int, int, int]) -> None:
    grid, size, middle = Grid(shape, affine), np.array(shape), (np.array(shape) - 1) / 2
    for axis, beyond in itertools.product(range(3), (-1, 1)):
        face = middle.copy()
        face[axis] = middle[axis] + beyond * size[axis] / 2
        outside, inside = face.copy(), face.copy()
        outside[axis] += beyond * 1e-3
        inside[axis] -= beyond * 1e-3
        np.testing.assert_array_equal(grid.contains(to_world(affine, [face, inside, outside])), [True, True, False])


@QUICK
@given(affine=affines(), shape=shapes)
def test_corners_are_the_eight_outer_corners(affine: np.ndarray, shape: tuple[int, int, int]) -> None:
    expected = to_world(affine, list(itertools.product(*[(-0.5, n - 0.5) for n in shape])))
    found = Grid(shape, affine).corners()
    assert found.shape == (8, 3)
    gaps = np.linalg.norm(expected[:, None] - found, axis=2)
    assert gaps.min(axis=0).max() < 1e-6 and gaps.min(axis=1).max() < 1e-6


def test_a_point_beyond_the_field_of_view_is_as_far_as_its_own_axis_says() -> None:
    """Two voxels beyond a face are twice the spacing of the axis that the face ends."""
    spacing_zyx, shape = np.array([3.1, 1.3, 0.8]), (4, 5, 6)
    grid = Grid(shape, make_affine((25, -40, 70), tuple(spacing_zyx[::-1])))
    middle = (np.array(shape) - 1) / 2
    ends = -0.5 * np.ones(3), np.array(shape) - 0.5
    for axis, (end, way) in itertools.product(range(3), zip(ends, (-1, 1), strict=True)):
        at = middle.copy()
        at[axis] = end[axis] + 2 * way
        inside = middle.copy()
        inside[axis] = end[axis] - 0.01 * way
        found = grid.outside_mm(to_world(grid.affine, [at, inside]))
        np.testing.assert_allclose(found, [2 * spacing_zyx[axis], 0.0], rtol=0, atol=1e-9)
    corner = grid.outside_mm(to_world(grid.affine, [ends[1] + [1, 2, 3]]))
    np.testing.assert_allclose(corner, [np.linalg.norm(spacing_zyx * [1, 2, 3])])


# --- derived grids --------------------------------------------------------------------------------------------------------------------


@QUICK
@given(affine=affines(), shape=st.tuples(*[st.integers(1, 60)] * 3), spacing=st.floats(0.5, 6))
def test_axis_aligned_grid_covers_the_scan_without_waste(affine: np.ndarray, shape: tuple[int, int, int], spacing: float) -> None:
    grid = Grid(shape, affine)
    aligned = grid.axis_aligned(spacing)
    np.testing.assert_array_equal(aligned.affine[:3, :3], np.eye(3) * spacing)
    reached, wanted = aligned.corners(), grid.corners()
    np.testing.assert_allclose(reached.min(axis=0), wanted.min(axis=0), rtol=0, atol=1e-9)
    spare = reached.max(axis=0) - wanted.max(axis=0)
    assert (spare > -1e-5).all() and ((spare < spacing) | (np.array(aligned.shape_zyx[::-1]) == 1)).all()


def test_axis_aligned_grid_by_hand() -> None:
    aligned = Grid((3, 5, 10), np.diag([1.0, 1.0, 4.0, 1.0])).axis_aligned(2.0)
    assert aligned.shape_zyx == (6, 3, 5)
    np.testing.assert_array_equal(aligned.affine[:3, 3], [0.5, 0.5, -1])


def test_rounding_adds_no_slab_to_the_axis_aligned_grid() -> None:
    for origin in np.random.default_rng(0).uniform(-1000, 1000, (200, 3)):
        affine = np.diag([0.7, 0.7, 0.7, 1.0])
        affine[:3, 3] = origin
        assert Grid((40, 50, 60), affine).axis_aligned(0.7).shape_zyx == (40, 50, 60)


@QUICK
@given(affine=affines(), start=st.tuples(*[st.integers(-20, 20)] * 3), index=indices)
def test_cropping_and_padding_keep_world_positions(affine: np.ndarray, start: tuple[int, ...], index: list[tuple[float, ...]]) -> None:
    cropped = Grid((40, 50, 60), affine).cropped(start, (4, 5, 6))
    assert cropped.shape_zyx == (4, 5, 6)
    np.testing.assert_allclose(cropped.index_to_world(index), to_world(affine, np.add(index, start)), rtol=0, atol=1e-6)


@QUICK
@given(affine=affines(), shape=shapes, stride=strides, index=indices)
def test_cell_is_the_middle_of_its_voxels(
    affine: np.ndarray, shape: tuple[int, int, int], stride: tuple[int, int, int], index: list[tuple[float, ...]]
) -> None:
    cells = Grid(shape, affine).cells(stride)
    expected = np.array(stride) * index + (np.array(stride) - 1) / 2
    np.testing.assert_allclose(cells.index_to_world(index), to_world(affine, expected), rtol=0, atol=1e-5)
    assert cells.shape_zyx == tuple(-(-n // k) for n, k in zip(shape, stride, strict=True))


def test_cells_by_hand() -> None:
    cells = Grid((8, 16, 33), np.diag([2.0, 2.0, 2.0, 1.0])).cells((4, 8, 16))
    assert cells.shape_zyx == (2, 2, 3)
    np.testing.assert_array_equal(cells.index_to_world([[0, 0, 0], [1, 1, 1]]), [[15, 7, 3], [47, 23, 11]])


# --- the value itself -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "affine", "words"),
    [
        ((2, 3, 4), np.eye(3), "4x4"),
        ((2, 3, 4), np.full((4, 4), np.nan), "finite"),
        ((2, 3, 4), np.ones((4, 4)), "last row"),
        ((2, 3), np.eye(4), r"three positive sizes.*\(2, 3\)"),
        ((2, 0, 4), np.eye(4), r"three positive sizes.*\(2, 0, 4\)"),
        ((2, 3, 4), np.diag([1, 0, 1, 1]), "not invertible"),
        ((2, 3, 4), [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "not invertible"),
    ],
)
def test_grids_that_cannot_be_are_refused(shape: tuple[int, ...], affine: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Grid(shape, affine)  # type: ignore[arg-type]


def test_tiny_voxels_are_invertible() -> None:
    grid = Grid((2, 2, 2), np.diag([1e-3, 1e-3, 1e-3, 1]))
    np.testing.assert_allclose(grid.world_to_index([[1, 2, 3]]), [[3000, 2000, 1000]])


def test_grid_does_not_change_with_the_matrix_it_was_made_of() -> None:
    affine = np.eye(4)
    grid = Grid((2, 3, 4), affine)
    affine[0, 3] = 5
    assert grid.affine[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 3] = 5


def test_grids_are_equal_when_shape_and_affine_are() -> None:
    grid = Grid((2, 3, 4), OBLIQUE)
    assert grid == Grid((2, 3, 4), OBLIQUE.copy())
    assert grid != Grid((2, 3, 5), OBLIQUE) and grid != Grid((2, 3, 4), np.eye(4)) and grid != "grid"


# --- would these checks notice? -------------------------------------------------------------------------------------------------------


def chain_error_mm(affine: np.ndarray) -> float:
    """Largest deviation along native index -> world -> canonical -> cropped -> cell -> world, each hop compared with plain arithmetic."""
    native = Grid((9, 12, 15), affine)
    index = np.random.default_rng(0).uniform(-0.5, 1, (20, 3)) * [9, 12, 15]
    world = to_world(affine, index)
    low = to_world(affine, list(itertools.product(*[(-0.5, n - 0.5) for n in native.shape_zyx]))).min(axis=0)
    canonical = native.axis_aligned(2.0)
    voxel = (world - low)[:, ::-1] / 2.0 - 0.5
    start = np.array([-3, 2, 5])
    cropped = canonical.cropped(start, (16, 32, 48))
    errors = [native.index_to_world(index) - world, native.world_to_index(world) - index, canonical.world_to_index(world) - voxel]
    errors += [cropped.world_to_index(world) - (voxel - start)]
    for stride in ((2, 2, 2), (4, 8, 16)):
        cells = cropped.cells(stride)
        cell = (voxel - start - (np.array(stride) - 1) / 2) / stride
        errors += [cells.world_to_index(world) - cell, cells.index_to_world(cell) - world]
    return max(float(np.abs(e).max()) for e in errors)


def forward(order: int = -1, transpose: bool = False, shift: float = 0.0, signs: tuple[int, ...] = (1, 1, 1)) -> Callable:
    """``index_to_world`` with a mistake."""

    def index_to_world(self: Grid, index_zyx: np.ndarray) -> np.ndarray:
        matrix = self.affine[:3, :3] if transpose else self.affine[:3, :3].T
        return ((np.reshape(index_zyx, (-1, 3))[:, ::order] + shift) @ matrix + self.affine[:3, 3]) * signs

    return index_to_world


def backward(order: int = -1, transpose: bool = False, shift: float = 0.0, signs: tuple[int, ...] = (1, 1, 1)) -> Callable:
    """``world_to_index`` with a mistake."""

    def world_to_index(self: Grid, points_lps: np.ndarray) -> np.ndarray:
        matrix = self.affine[:3, :3].T if transpose else self.affine[:3, :3]
        return np.linalg.solve(matrix, (np.reshape(points_lps, (-1, 3)) * signs - self.affine[:3, 3]).T).T[:, ::order] - shift

    return world_to_index


def shifted_crop(self: Grid, start_zyx: np.ndarray, shape_zyx: tuple[int, int, int]) -> Grid:
    affine = self.affine.copy()
    affine[:3, 3] = self.index_to_world(np.asarray(start_zyx)[::-1])[0]
    return Grid(shape_zyx, affine)


def cells_at(middle: Callable[[np.ndarray], np.ndarray], order: int = -1) -> Callable:
    """``cells`` with another origin, or with its strides in the wrong order."""

    def cells(self: Grid, stride_zyx: tuple[int, int, int]) -> Grid:
        stride = np.array(stride_zyx, dtype=float)
        affine = self.affine.copy()
        affine[:3, :3] *= stride[::order]
        affine[:3, 3] = self.index_to_world(middle(stride))[0]
        return Grid(self.shape_zyx, affine)

    return cells


def aligned_to_corner(self: Grid, spacing_mm: float) -> Grid:
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = self.corners().min(axis=0)
    return Grid((50, 50, 50), affine)


def inner_corners(self: Grid) -> np.ndarray:
    return self.index_to_world(list(itertools.product(*[(0, n - 1) for n in self.shape_zyx])))


BOTH = "index_to_world", "world_to_index"
MISTAKES: dict[str, dict[str, Callable]] = {
    "forward transposed": {"index_to_world": forward(transpose=True)},
    "backward transposed": {"world_to_index": backward(transpose=True)},
    "both transposed": dict(zip(BOTH, (forward(transpose=True), backward(transpose=True)), strict=True)),
    "forward in array order": {"index_to_world": forward(order=1)},
    "backward in array order": {"world_to_index": backward(order=1)},
    "both in array order": dict(zip(BOTH, (forward(order=1), backward(order=1)), strict=True)),
    "forward half a voxel off": {"index_to_world": forward(shift=0.5)},
    "backward half a voxel off": {"world_to_index": backward(shift=0.5)},
    "both half a voxel off": dict(zip(BOTH, (forward(shift=0.5), backward(shift=0.5)), strict=True)),
    "forward in RAS": {"index_to_world": forward(signs=(-1, -1, 1))},
    "backward in RAS": {"world_to_index": backward(signs=(-1, -1, 1))},
    "both in RAS": dict(zip(BOTH, (forward(signs=(-1, -1, 1)), backward(signs=(-1, -1, 1))), strict=True)),
    "crop start in world order": {"cropped": shifted_crop},
    "cells at their first voxel": {"cells": cells_at(lambda stride: 0 * stride)},
    "cells half a voxel late": {"cells": cells_at(lambda stride: stride / 2)},
    "strides in world order": {"cells": cells_at(lambda stride: (stride - 1) / 2, order=1)},
    "canonical voxels at their corners": {"axis_aligned": aligned_to_corner},
    "corners at voxel centres": {"corners": inner_corners},
}


@QUICK
@given(affine=affines())
def test_every_hop_from_scan_to_cell_is_exact(affine: np.ndarray) -> None:
    assert chain_error_mm(affine) < 1e-6


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_the_grid_are_noticed(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    for method, wrong in MISTAKES[mistake].items():
        monkeypatch.setattr(Grid, method, wrong)
    assert chain_error_mm(OBLIQUE) > 0.1


def test_rewritten_methods_without_a_mistake_are_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for method, right in {**dict(zip(BOTH, (forward(), backward()), strict=True)), "cells": cells_at(lambda s: (s - 1) / 2)}.items():
        monkeypatch.setattr(Grid, method, right)
    assert chain_error_mm(OBLIQUE) < 1e-6


def test_a_point_lies_as_deep_inside_as_the_nearest_face_of_its_own_axis_is_far() -> None:
    grid = Grid((10, 20, 30), np.diag([1.0, 2.0, 4.0, 1.0]))
    index = [(4.5, 9.5, 0.0), (4.5, 0.0, 14.5), (0.0, 9.5, 14.5), (9.5, 9.5, 14.5), (4.5, 9.5, 14.5), (11, 9.5, 14.5)]
    np.testing.assert_allclose(grid.inside_mm(grid.index_to_world(index)), [0.5, 1.0, 2.0, 0.0, 15.0, 0.0], atol=1e-9)
