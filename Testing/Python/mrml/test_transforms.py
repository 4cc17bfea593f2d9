"""A registration as a transform node: what lies under it lies where the fixed points are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import requires

requires.needs_mrml()

from samples import OBLIQUE  # noqa: E402
from scene_nodes import fiducials, rotation, volume  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.grid import Grid  # noqa: E402
from UniversalAnatomicalEmbeddingLib.mrml import transforms  # noqa: E402
from UniversalAnatomicalEmbeddingLib.registration.transform import Transform  # noqa: E402

POINTS = np.random.default_rng(0).uniform(-60, 60, (50, 3))


def matrix(angles: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    made = np.eye(4)
    made[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    made[:3, 3] = shift
    return made


RIGID = Transform(matrix((20, -35, 50), (12, -25, 40)))


def field() -> Transform:
    """A smooth displacement on an oblique grid around everything, then a rotation."""
    affine = matrix((10, 20, 30), (-150, -200, -150)) @ np.diag([12.0, 11.0, 10.0, 1.0])
    grid = Grid((38, 37, 36), affine)
    x, y, z = grid.index_to_world(np.argwhere(np.ones(grid.shape_zyx))).T
    u = np.stack([6 * np.sin(y / 30), 5 * np.cos(z / 25), 7 * np.sin(x / 35)], axis=1)
    return Transform(RIGID.matrix, u.reshape(*grid.shape_zyx, 3), grid)


@pytest.mark.parametrize("transform", [RIGID, field()], ids=["rigid", "deformable"])
def test_what_lies_under_the_node_lies_where_the_fixed_points_are(scene: Any, transform: Transform) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "registered")
    transforms.write_transform_node(node, transform)
    under = fiducials(scene)
    under.SetAndObserveTransformNodeID(node.GetID())
    assert np.abs(mrml.to_world(under, transform(POINTS)) - POINTS).max() < 0.02
    assert np.abs(mrml.from_world(under, POINTS) - transform(POINTS)).max() < 0.02


@pytest.mark.parametrize("transform", [RIGID, field()], ids=["rigid", "deformable"])
def test_between_frames_takes_own_frames_to_own_frames(transform: Transform) -> None:
    """A scan point is its pose applied to the point in the node's own frame."""
    fixed_pose, moving_pose = matrix((5, 10, -20), (3, 4, 5)), matrix((-15, 30, 8), (-7, 9, 2))
    own = transforms.between_frames(transform, fixed_pose, moving_pose)
    scan = POINTS @ fixed_pose[:3, :3].T + fixed_pose[:3, 3]
    back = np.linalg.inv(moving_pose)
    expected = transform(scan) @ back[:3, :3].T + back[:3, 3]
    assert np.abs(own(POINTS) - expected).max() < 1e-6


def test_a_volume_resampled_to_itself_is_itself_wherever_both_lie(scene: Any) -> None:
    fixed = volume(scene, OBLIQUE)
    fixed.SetAndObserveTransformNodeID(rotation(scene).GetID())
    found, shown, index_to_ras = transforms.resampled(fixed, fixed)
    assert np.abs(found - shown).max() < 1e-2 and np.array_equal(shown.ravel(), np.arange(4 * 5 * 6))
    assert np.allclose(mrml.FLIP @ index_to_ras, OBLIQUE)
