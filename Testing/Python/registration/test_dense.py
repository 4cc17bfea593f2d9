"""Deformable fields: the spline hits its landmarks, the dense field finds a known warp, nothing folds."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest
from positions import ball, carried, coded_scan, lps_grid, motion

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.options import RegisterOptions
from UniversalAnatomicalEmbeddingLib.registration import dense
from UniversalAnatomicalEmbeddingLib.registration.dense import dense_field, field_grid, tapered, thin_plate, thin_plate_field, unfolded
from UniversalAnatomicalEmbeddingLib.registration.transform import Transform, jacobian
from UniversalAnatomicalEmbeddingLib.system.progress import Cancelled, silent

MOVE = motion((5, 4, -6), (12, -8, 40))
GRID = lps_grid((-64, -48, -80), (128, 96, 160))
FIXED = coded_scan(GRID, lambda p: p, "fixed")


def bend(points: np.ndarray) -> np.ndarray:
    """A smooth warp of up to 12 mm, fixed space."""
    x, _, z = points.T
    return points + np.stack([10 * np.sin(z / 35), 6 * np.cos(x / 30), 5 * np.sin(x / 40)], axis=1)


def unbend(points: np.ndarray) -> np.ndarray:
    found = points
    for _ in range(30):
        found = points - (bend(found) - found)
    return found


MOVING = coded_scan(lps_grid((-90, -90, -70), (190, 150, 230)), lambda p: unbend(carried(np.linalg.inv(MOVE), p)), "moving", noise=0.1)


def inner_points() -> np.ndarray:
    points = np.random.default_rng(0).uniform(-1, 1, (400, 3)) * [60, 44, 76]
    return points[ball(points, (60, 40, 75))]


@pytest.fixture(scope="module")
def found() -> Transform:
    field, grid = dense_field(FIXED, MOVING, MOVE, RegisterOptions(stage="deformable"), silent, None)
    return Transform(MOVE, field, grid)


def errors(transform: Transform) -> np.ndarray:
    return np.linalg.norm(transform(inner_points()) - carried(MOVE, bend(inner_points())), axis=1)


def test_the_dense_field_finds_a_known_warp(found: Transform) -> None:
    before, after = errors(Transform(MOVE)), errors(found)
    assert np.median(before) > 8
    assert np.median(after) < 2
    assert np.percentile(after, 95) < 5


def test_the_dense_field_does_not_fold_and_ends_at_zero(found: Transform) -> None:
    assert found.folding() < 0.005
    assert found.displacement is not None
    for axis in range(3):
        assert np.abs(np.take(found.displacement, [0, -1], axis=axis)).max() == 0


def test_the_consistent_field_is_as_true() -> None:
    field, grid = dense_field(FIXED, MOVING, MOVE, RegisterOptions(stage="deformable", inverse_consistent=True), silent, None)
    after = errors(Transform(MOVE, field, grid))
    assert np.median(after) < 2.5


def test_the_way_back_covers_what_the_moving_scan_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[dense.Way] = []

    def unmoved(way: dense.Way, *rest: object) -> tuple[np.ndarray, Grid]:
        ways.append(way)
        grid = field_grid(way.around, 40.0)
        return np.zeros((*grid.shape_zyx, 3)), grid

    monkeypatch.setattr(dense, "_one_way", unmoved)
    options = RegisterOptions(stage="deformable", inverse_consistent=True)
    dense_field(FIXED, MOVING, MOVE, options, silent, None)
    there, back = ways
    assert there.around == FIXED.embedding.grid
    shown = carried(MOVE, back.around.corners())
    np.testing.assert_allclose(shown, MOVING.embedding.grid.corners(), atol=1e-6)
    assert (back.start, back.goal) == (MOVING, FIXED)


def test_without_overlap_the_field_is_zero() -> None:
    away = MOVE.copy()
    away[:3, 3] += 1000
    field, _ = dense_field(FIXED, MOVING, away, RegisterOptions(stage="deformable"), silent, None)
    assert not field.any()


def test_cancelling_stops_it() -> None:
    cancel = Event()
    cancel.set()
    with pytest.raises(Cancelled):
        dense_field(FIXED, MOVING, MOVE, RegisterOptions(stage="deformable"), silent, cancel)


def test_the_spline_carries_every_landmark_onto_its_partner() -> None:
    points = inner_points()[:20]
    there = carried(MOVE, bend(points))
    moved = points + thin_plate(MOVE, points, there)(points)
    np.testing.assert_allclose(carried(MOVE, moved), there, atol=1e-6)
    field, grid = thin_plate_field(MOVE, points, there, GRID, 8.0)
    assert np.linalg.norm(Transform(MOVE, field, grid)(points) - there, axis=1).max() < 1.5


def test_the_spline_of_an_affine_map_is_that_map_everywhere() -> None:
    points = inner_points()[:12]
    stretch = motion((3, 0, 0), (5, 0, 0), scale=1.1)
    far = np.array([[55.0, 40, 70]])
    np.testing.assert_allclose(far + thin_plate(np.eye(4), points, carried(stretch, points))(far), carried(stretch, far), atol=1e-5)


def test_the_field_covers_the_fixed_scan_with_a_margin() -> None:
    grid = field_grid(GRID, 8.0)
    assert grid.contains(GRID.corners()).all()
    assert grid.cropped((2, 2, 2), np.array(grid.shape_zyx) - 4).contains(GRID.corners()).all()
    np.testing.assert_allclose(grid.spacing_xyz, 8.0)


def test_a_field_as_long_as_the_anatomy_differs_falls_to_zero_without_folding() -> None:
    grid = field_grid(GRID, 8.0)
    falling = tapered(np.tile([20.0, -15, 40], (*grid.shape_zyx, 1)), grid)
    assert (jacobian(falling, grid) > 0).all()
    inside = grid.world_to_index(GRID.corners() * 0.99).round().astype(int)
    np.testing.assert_array_equal(falling[tuple(inside.T)], np.tile([20.0, -15, 40], (8, 1)))


def test_a_folding_field_is_smoothed_until_it_does_not() -> None:
    grid = field_grid(GRID, 8.0)
    wild = tapered(np.random.default_rng(0).normal(0, 12, (*grid.shape_zyx, 3)), grid)
    assert (jacobian(wild, grid) <= 0).mean() > 0.05
    calm = unfolded(wild, grid)
    assert (jacobian(calm, grid) <= 0).mean() < 0.005
    np.testing.assert_array_equal(unfolded(calm, grid), calm)
