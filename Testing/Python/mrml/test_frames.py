"""Own frame and world of a node, exact after it has moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import requires

requires.needs_mrml()


from scene_nodes import fiducials, rotation, volume, warp, world_of_voxel  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402


def test_points_follow_a_volume_that_moves_after_it_was_embedded(scene: Any) -> None:
    node = volume(scene)
    node.SetAndObserveTransformNodeID(rotation(scene).GetID())
    then, grid = mrml.pose(node), mrml.volume_from_node(node).grid
    moved = rotation(scene, "later")
    moved.ApplyTransformMatrix(moved.GetMatrixTransformToParent())
    for transform in (moved.GetID(), warp(scene).GetID(), None):
        node.SetAndObserveTransformNodeID(transform)
        world = world_of_voxel(node, (1, 2, 3))
        in_scan = mrml.scan_from_world(node, then, world)
        assert np.abs(grid.world_to_index(in_scan) - [3, 2, 1]).max() < 1e-3
        assert np.abs(mrml.world_from_scan(node, then, in_scan) - world).max() < 1e-3


def test_positions_are_ras_in_the_node(scene: Any) -> None:
    node = fiducials(scene)
    node.AddControlPoint([11.0, 21.0, -389.0], "p")
    assert mrml.position(node, 0) == (-11.0, -21.0, -389.0)
    mrml.set_position(node, 0, (1.0, 2.0, 3.0))
    assert node.GetNthControlPointPosition(0) == (-1.0, -2.0, 3.0)
