"""Nodes of a scene and the transforms they lie under."""

from __future__ import annotations

from typing import Any

import numpy as np
import requires

requires.needs_mrml()

import slicer  # noqa: E402
import vtk  # noqa: E402
from samples import OBLIQUE  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.grid import Grid  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.volume import Volume  # noqa: E402


def volume(scene: Any, affine_lps: np.ndarray = OBLIQUE) -> Any:
    """A node whose voxels are their own numbers, on a grid given in LPS."""
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    return mrml.volume_to_node(scene, Volume(array, Grid((4, 5, 6), affine_lps), None, "scan"))


def rotation(scene: Any, name: str = "turn") -> Any:
    """A rotation about two axes with a shift: no sign error goes unseen."""
    turn = vtk.vtkTransform()
    turn.Translate(10, 20, 40)
    turn.RotateX(35)
    turn.RotateZ(50)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", name)
    node.SetMatrixTransformToParent(turn.GetMatrix())
    return node


def warp(scene: Any) -> Any:
    """A thin-plate spline."""
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for point in np.ndindex(2, 2, 2):
        corner = np.array(point) * 200.0 - 100
        source.InsertNextPoint(*corner)
        target.InsertNextPoint(*(corner + [8 * point[1], -12 * point[2], 15 * point[0] * point[1]]))
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    spline.SetBasisToR()
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "warp")
    node.SetAndObserveTransformToParent(spline)
    return node


def world_of_voxel(node: Any, xyz: tuple[int, int, int]) -> np.ndarray:
    """What the scene itself says about where a voxel is, LPS."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    local = matrix.MultiplyPoint([*xyz, 1.0])[:3]
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), None, transform)
    x, y, z = transform.TransformPoint(local)
    return np.array([-x, -y, z])


def fiducials(scene: Any, name: str = "F") -> Any:
    return scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
