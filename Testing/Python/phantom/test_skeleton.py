"""The bony frame: one wall seen as points and as a field, and bones where they belong."""

from __future__ import annotations

import numpy as np

from UniversalAnatomicalEmbeddingLib.phantom.shapes import union_distance
from UniversalAnatomicalEmbeddingLib.phantom.skeleton import (
    SPINE,
    cage_angle,
    cage_distance,
    cage_point,
    skeleton,
    spine_at,
)

BONES = {structure.name: structure for structure in skeleton()}


def test_points_of_the_wall_lie_on_the_zero_of_its_field() -> None:
    angles = np.linspace(0, np.pi, 40)
    for z in (-300.0, -90.0, 30.0):
        heights = np.full(40, z)
        assert np.abs(cage_distance(*cage_point(angles, heights, 0.0).T)).max() < 1.5
        assert (cage_distance(*cage_point(angles, heights, 10.0).T) > 5).all()
        assert (cage_distance(*cage_point(angles, heights, -10.0).T) < -5).all()


def test_the_angle_of_the_front_finds_its_lateral_position() -> None:
    for x in (20.0, 60.0):
        angle = cage_angle(x, -60.0, 4.0)
        assert np.pi / 2 <= angle <= np.pi
        assert abs(cage_point([angle], [-60.0], 4.0)[0, 0] - x) < 1.5


def test_the_column_passes_through_the_middle_of_every_vertebra() -> None:
    centre_y, half_width, half_depth = spine_at(SPINE[:, 0])
    assert np.allclose([centre_y, half_width, half_depth], SPINE[:, 1:].T)
    bodies = np.stack([np.zeros(len(SPINE)), SPINE[:, 1], SPINE[:, 0]], axis=1)
    assert (union_distance(BONES["vertebrae"].parts, bodies) < 0).all()


def test_bones_are_symmetric_and_each_is_there_once() -> None:
    assert len(BONES) == len(list(skeleton()))
    points = np.random.default_rng(1).uniform((5, -130, -350), (190, 110, 150), (400, 3))
    for name in ("ribs", "shoulder_blades", "humeri", "clavicles", "cartilage"):
        parts = BONES[name].parts
        assert np.allclose(union_distance(parts, points), union_distance(parts, points * [-1, 1, 1])), name


def test_the_cord_runs_inside_its_canal() -> None:
    cord, canal = BONES["spinal_cord"].parts, BONES["spinal_canal"].parts
    points = np.random.default_rng(2).uniform((-15, 20, -150), (15, 90, 100), (20_000, 3))
    inside = points[union_distance(cord, points) < 0]
    assert len(inside) > 100 and (union_distance(canal, inside) < 0).all()
