"""Frames of MRML nodes: RAS or LPS, a node's own frame or the world, which is what slice views show.

Every node has its *own frame*, in which its coordinates are stored, and may lie under a parent transform (also a rotating or a
non-linear one) that takes them to the *world*."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..images.grid import FLIP, FloatArray, flipped

Node = Any


def to_world(node: Node, points_lps: ArrayLike) -> FloatArray:
    """Points (N, 3) LPS mm from the node's own frame to the world, through all parent transforms."""
    return _transformed(node, points_lps, "GetTransformToWorld")


def from_world(node: Node, points_lps: ArrayLike) -> FloatArray:
    """Points (N, 3) LPS mm from the world to the node's own frame."""
    return _transformed(node, points_lps, "GetTransformFromWorld")


def pose(node: Node) -> FloatArray:
    """4x4 LPS matrix from the node's own frame to the world; the identity where a parent transform is not linear."""
    import vtk

    parent = node.GetParentTransformNode()
    if parent is None or not parent.IsTransformToWorldLinear():
        return np.eye(4)
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return FLIP @ _numpy(matrix) @ FLIP


def through(transform_node: Node, points_lps: ArrayLike, direction: str = "GetTransformToWorld") -> FloatArray:
    """Points (N, 3) LPS mm of what lies under a transform node, in the world."""
    import vtk

    transform = vtk.vtkGeneralTransform()
    getattr(transform_node, direction)(transform)
    return flipped([transform.TransformPoint(p) for p in flipped(points_lps).tolist()])


def _transformed(node: Node, points_lps: ArrayLike, direction: str) -> FloatArray:
    parent = node.GetParentTransformNode()
    return np.array(points_lps, dtype=np.float64).reshape(-1, 3) if parent is None else through(parent, points_lps, direction)


def _numpy(matrix: Any) -> FloatArray:
    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])


def _vtk(matrix: ArrayLike) -> Any:
    import vtk

    made = vtk.vtkMatrix4x4()
    made.DeepCopy(np.asarray(matrix, dtype=np.float64).ravel().tolist())
    return made
