"""Volume nodes of MRML: voxels, geometry and modality to a :class:`.volume.Volume` and back. Nodes and scenes are passed in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..images.grid import FLIP, FloatArray, Grid
from ..images.volume import DICOM_MODALITIES, Modality, Volume, from_array
from ..system.errors import InputError
from ..system.language import tr as _
from .attributes import attribute, set_attributes
from .frames import Node, _numpy, _vtk, from_world, pose, to_world

# --- volumes --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fingerprint:
    """What an embedding was made from, in values that are cheap to read: it is stale when they have changed."""

    voxels: tuple[int, ...]
    geometry: tuple[float, ...]
    pose: tuple[float, ...]


def fingerprint(node: Node) -> Fingerprint:
    """The present fingerprint of a volume node."""
    image = node.GetImageData()
    voxels = (0,) if image is None else (image.GetMTime(), *image.GetDimensions())
    return Fingerprint(voxels, tuple(_ijk_to_ras(node).ravel()), tuple(pose(node).ravel()))


def volume_nodes(scene: Any) -> list[Node]:
    """The scalar volumes of a scene, label maps and this package's own overlays left out, in the order they were loaded."""
    nodes = [scene.GetNthNodeByClass(i, "vtkMRMLScalarVolumeNode") for i in range(scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode"))]
    return [n for n in nodes if not n.IsA("vtkMRMLLabelMapVolumeNode") and not n.GetHideFromEditors() and attribute(n, "Role") is None]


def volume_from_node(node: Node, modality: Modality | None = None) -> Volume:
    """Voxels and geometry of a volume node *as it lies in the world*, so that a scan turned upright by a transform is embedded upright.

    Under a non-linear transform: in the node's own frame. The voxels are shared, not copied. ``modality``: what is known, else what the DICOM
    header said, else None. InputError for a node without one value per voxel.
    """
    from vtk.util.numpy_support import vtk_to_numpy

    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise InputError(_("{name} has no voxels. Load the scan again.").format(name=node.GetName()))
    if image.GetNumberOfScalarComponents() != 1:
        count = image.GetNumberOfScalarComponents()
        sentence = _("{name} has {count} values per voxel; a scalar scan is needed. Extract one component or time point.")
        raise InputError(sentence.format(name=node.GetName(), count=count))
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    header = _header(node)
    known = modality or _kept(node) or DICOM_MODALITIES.get(header)
    volume = from_array(voxels, pose(node) @ FLIP @ _ijk_to_ras(node), known, node.GetName())
    return replace(volume, header=header)


def volume_to_node(scene: Any, volume: Volume) -> Node:
    """A new volume node, with display, that shows a core volume and remembers its modality; the voxels are copied."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", volume.name)
    fill_volume(node, volume.array, volume.grid.affine)
    if volume.modality is not None:
        set_attributes(node, {"Modality": volume.modality})
    node.CreateDefaultDisplayNodes()
    return node


def scan_from_world(node: Node, pose_then: FloatArray, points_lps: ArrayLike) -> FloatArray:
    """World points (N, 3) LPS mm to the frame of :func:`volume_from_node` when :func:`pose` was ``pose_then``: exact although the node has moved."""
    return _affine(pose_then, from_world(node, points_lps))


def world_from_scan(node: Node, pose_then: FloatArray, points_lps: ArrayLike) -> FloatArray:
    """The way back of :func:`scan_from_world`."""
    return to_world(node, _affine(np.linalg.inv(pose_then), points_lps))


def write_overlay(node: Node, array_zyx: NDArray, grid: Grid, volume: Node, pose_then: FloatArray) -> None:
    """Fill volume node ``node`` with values on a grid in the frame of :func:`volume_from_node` of ``volume``, and put it where that volume is."""
    fill_volume(node, array_zyx, np.linalg.inv(pose_then) @ grid.affine)
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())


def fill_volume(node: Node, array_zyx: NDArray, ijk_to_lps: NDArray) -> None:
    """Give a volume node voxels (Z, Y, X), which are copied, and their geometry in its own frame."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    image = vtk.vtkImageData()
    image.SetDimensions(array_zyx.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array_zyx).ravel(), deep=True))
    node.SetIJKToRASMatrix(_vtk(FLIP @ ijk_to_lps))
    node.SetAndObserveImageData(image)


def _affine(matrix: NDArray, points: ArrayLike) -> FloatArray:
    moved: FloatArray = np.asarray(points, dtype=np.float64).reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def _ijk_to_ras(node: Node) -> FloatArray:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return _numpy(matrix)


def _kept(node: Node) -> Modality | None:
    """What :func:`volume_to_node` kept."""
    kept = attribute(node, "Modality")
    return cast(Modality, kept) if kept in get_args(Modality) else None


def _header(node: Node) -> str:
    """The modality code of the DICOM header that the volume was loaded from; "" for none."""
    hierarchy = node.GetScene().GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode") if node.GetScene() else None
    if hierarchy is None or not (item := hierarchy.GetItemByDataNode(node)):
        return ""
    return str(hierarchy.GetItemAttribute(item, "DICOM.Modality") or "")
