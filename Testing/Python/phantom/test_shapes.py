"""Signed distances of the shapes: exact where they can be, of the right sign everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from UniversalAnatomicalEmbeddingLib.phantom.shapes import (
    Capsule,
    ball,
    both,
    branches,
    frame,
    scattered,
    smooth_min,
    tube,
    union_distance,
)

POINTS = np.random.default_rng(0).uniform(-60, 60, (500, 3))


def test_a_sphere_has_its_exact_distance() -> None:
    sphere = ball((5, -3, 8), 20)
    expected = np.linalg.norm(POINTS - [5, -3, 8], axis=1) - 20
    assert np.allclose(sphere.distance(*POINTS.T), expected, atol=1e-3)


def test_a_capsule_has_the_exact_distance_of_a_segment() -> None:
    start, end = np.array([-20.0, 0, 0]), np.array([25.0, 10, -5])
    along = np.clip((POINTS - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
    expected = np.linalg.norm(POINTS - start - along[:, None] * (end - start), axis=1) - 7
    assert np.allclose(Capsule(start, end, (7, 7)).distance(*POINTS.T), expected)


def test_every_part_lies_within_its_hull() -> None:
    dense = np.random.default_rng(1).uniform(-40, 40, (20_000, 3))
    for shape in (ball((3, 4, 5), (10, 20, 30), frame((1, 1, 0), (0, 0, 1))), Capsule(np.zeros(3), np.array([20.0, 5, 0]), (9, 4))):
        points, radius = shape.hull()
        inside = dense[shape.distance(*dense.T) < 0]
        assert len(inside) > 100
        assert (inside >= points.min(axis=0) - radius).all() and (inside <= points.max(axis=0) + radius).all()


def test_a_tube_runs_through_its_points() -> None:
    knots = np.array([[0.0, 0, 0], [30, 10, 0], [50, -10, 20]])
    distance = union_distance(tube(knots, 4.0, step=2.0), knots)
    assert np.allclose(distance, -4.0, atol=0.6)


def test_mirror_images_have_the_mirrored_distances() -> None:
    parts = [ball((30, 4, 5), (10, 20, 15), frame((1, 1, 0), (0, 0, 1))), Capsule(np.array([20.0, 0, 0]), np.array([40.0, 5, 0]), (9, 4))]
    pair = both(parts)
    assert np.allclose(union_distance(pair, POINTS), union_distance(pair, POINTS * [-1, 1, 1]))
    assert np.allclose(union_distance(pair[len(parts) :], POINTS), union_distance(parts, POINTS * [-1, 1, 1]))


@pytest.mark.parametrize("width", [0.0, 5.0])
def test_the_smooth_minimum_is_never_above_the_minimum_and_equal_far_from_the_crease(width: float) -> None:
    a, b = np.random.default_rng(2).uniform(-20, 20, (2, 1000))
    found, least = smooth_min(a, b, width), np.minimum(a, b)
    assert (found <= least).all()
    assert np.array_equal(found[np.abs(a - b) >= width], least[np.abs(a - b) >= width])
    assert (found >= least - width / 4).all()


def test_branches_reach_every_target_and_scattered_points_keep_apart() -> None:
    targets = scattered(POINTS, 25.0)
    gaps = np.linalg.norm(targets[:, None] - targets[None], axis=2) + np.eye(len(targets)) * 1e3
    assert len(targets) > 10 and gaps.min() > 25
    assert (union_distance(branches((0, 0, 100), targets, 2.0), targets) < 0).all()
