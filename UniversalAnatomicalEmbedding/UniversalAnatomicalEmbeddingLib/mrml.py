"""Bridge to 3D Slicer's data model: MRML nodes to core objects and back.

Nodes speak RAS millimetres, the package LPS: the change happens in this file and in ``views.py`` that shows points, nowhere else. Nodes and
scenes are passed in. Every node has its *own frame*, in which its coordinates are stored, and may lie under a parent transform (also a
rotating or a non-linear one) that takes them to the *world*, which is what slice views show.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError
from .geometry import FloatArray, Grid
from .language import tr as _
from .points import Point, PointList, Position
from .table import Cell, CellStatus
from .volume import DICOM_MODALITIES, Modality, Volume, from_array

ATTRIBUTE = "UniversalAnatomicalEmbedding."
CONFIDENCE = "confidence"
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
DEFINED, MISSING = 2, 3  # vtkMRMLMarkupsNode::PositionDefined, PositionMissing
Node = Any


# --- frames ---------------------------------------------------------------------------------------------------------------------------


def flipped(points: ArrayLike) -> FloatArray:
    """RAS millimetres (N, 3) to LPS, or LPS to RAS."""
    return np.asarray(points, dtype=np.float64).reshape(-1, 3) * [-1.0, -1.0, 1.0]


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


# --- point lists ----------------------------------------------------------------------------------------------------------------------


def position(node: Node, index: int) -> Position | None:
    """A control point in the list's own frame, LPS mm; None where it is not defined."""
    if node.GetNthControlPointPositionStatus(index) != DEFINED:
        return None
    return cast("Position", tuple(flipped(node.GetNthControlPointPosition(index))[0].tolist()))


def set_position(node: Node, index: int, position_lps: Position | None, missing: bool = False) -> None:
    """Put a control point somewhere, or declare it undefined, or ``missing``: looked for and not there."""
    if position_lps is not None:
        node.SetNthControlPointPosition(index, *flipped(position_lps)[0].tolist(), DEFINED)
    elif missing:
        node.SetNthControlPointPositionMissing(index)
    else:
        node.UnsetNthControlPointPosition(index)


def read_landmarks(node: Node) -> list[tuple[str, str, Position | None]]:
    """(control point id, label, position in the list's own frame) of a list; points hovering under the mouse are left out."""
    preview = 1
    rows = [i for i in range(node.GetNumberOfControlPoints()) if node.GetNthControlPointPositionStatus(i) != preview]
    return [(node.GetNthControlPointID(i), node.GetNthControlPointLabel(i), position(node, i)) for i in rows]


def write_landmarks(node: Node, rows: Sequence[tuple[str, Position | None]]) -> list[str]:
    """Make a list hold exactly these (label, position) rows; returns the ids of its control points."""
    _resize(node, len(rows))
    for i, (label, where) in enumerate(rows):
        if node.GetNthControlPointLabel(i) != label:
            node.SetNthControlPointLabel(i, label)
        if position(node, i) != where:
            set_position(node, i, where)
    return [node.GetNthControlPointID(i) for i in range(len(rows))]


def read_matches(node: Node) -> list[tuple[str, Cell]]:
    """The (label, match) rows of a list: what :func:`write_matches` wrote, and what people did to it since.

    A defined point whose description does not say what it is was put there by a person: corrected.
    """
    measurement = node.GetMeasurement(CONFIDENCE)
    values = measurement.GetControlPointValues() if measurement else None
    rows = []
    for i in range(node.GetNumberOfControlPoints()):
        word, _separator, note = node.GetNthControlPointDescription(i).partition("; ")
        status, where = cast(CellStatus, word), position(node, i)
        if where is not None:
            status = status if status in ("found", "uncertain", "accepted", "rejected") else "corrected"
        elif node.GetNthControlPointPositionStatus(i) == MISSING:
            status = status if status == "accepted" else "absent"
        else:
            status = status if status == "failed" else "waiting"
        value = values.GetValue(i) if values is not None and i < values.GetNumberOfValues() else math.nan
        rows.append((node.GetNthControlPointLabel(i), Cell(status, where, None if math.isnan(value) else value, note)))
    return rows


def write_matches(node: Node, rows: Sequence[tuple[str, Cell]]) -> None:
    """Make a list hold exactly these (label, match) rows, so that row i of every list is the same landmark.

    Absent: position status "missing". Uncertain: not "selected", which the display shows in its other colour. Rejected: hidden. The
    description says the status and any note; the confidence is a measurement with one value per point, so a saved file keeps everything.
    """
    _resize(node, len(rows))
    for i, (label, cell) in enumerate(rows):
        if node.GetNthControlPointLabel(i) != label:
            node.SetNthControlPointLabel(i, label)
        missing = cell.position_lps is None and cell.status in ("absent", "accepted")
        if position(node, i) != cell.position_lps or missing != (node.GetNthControlPointPositionStatus(i) == MISSING):
            set_position(node, i, cell.position_lps, missing)
        node.SetNthControlPointDescription(i, f"{cell.status}; {cell.note}" if cell.note else cell.status)
        node.SetNthControlPointSelected(i, cell.status != "uncertain")
        node.SetNthControlPointVisibility(i, cell.status != "rejected")
    _set_confidence(node, [math.nan if cell.confidence is None else cell.confidence for _label, cell in rows])


def point_list(node: Node) -> PointList:
    """A list as core points in its own frame, for :func:`.points.write_points`."""
    points = []
    for i, (label, cell) in enumerate(read_matches(node)):
        status = "defined" if cell.position_lps else "missing" if node.GetNthControlPointPositionStatus(i) == MISSING else "undefined"
        values = None if cell.confidence is None else {CONFIDENCE: cell.confidence}
        description, identifier = node.GetNthControlPointDescription(i), node.GetNthControlPointID(i)
        points.append(Point(label, cell.position_lps, description, identifier, status, values))  # type: ignore[arg-type]
    return PointList(tuple(points), node.GetName())


def _resize(node: Node, count: int) -> None:
    while node.GetNumberOfControlPoints() > count:
        node.RemoveNthControlPoint(node.GetNumberOfControlPoints() - 1)
    while node.GetNumberOfControlPoints() < count:
        node.UnsetNthControlPointPosition(node.AddControlPoint([0.0, 0.0, 0.0]))


def _set_confidence(node: Node, values: Iterable[float]) -> None:
    import slicer
    import vtk

    column = vtk.vtkDoubleArray()
    column.SetName(CONFIDENCE)
    for value in values:
        column.InsertNextValue(value)
    measurement = node.GetMeasurement(CONFIDENCE)
    if measurement is None:
        measurement = slicer.vtkMRMLStaticMeasurement()
        measurement.SetName(CONFIDENCE)
        measurement.SetPrintFormat("%5.3f %s")
        node.AddMeasurement(measurement)
    measurement.SetControlPointValues(column)


# --- provenance -----------------------------------------------------------------------------------------------------------------------


def attribute(node: Node, name: str) -> str | None:
    """An attribute that this package keeps on a node."""
    value = node.GetAttribute(ATTRIBUTE + name)
    return None if value is None else str(value)


def set_attributes(node: Node, values: Mapping[str, str]) -> None:
    """Keep values on a node; they are saved with the scene."""
    for name, value in values.items():
        node.SetAttribute(ATTRIBUTE + name, value)


def linked(node: Node, role: str) -> Node | None:
    """The node that this one refers to in a role of this package."""
    return node.GetNodeReference(ATTRIBUTE + role)


def link(node: Node, role: str, other: Node | None) -> None:
    """Refer to another node, in a way that survives saving, loading and renaming."""
    node.SetNodeReferenceID(ATTRIBUTE + role, None if other is None else other.GetID())


def match_lists(scene: Any, template_list: Node) -> dict[str, Node]:
    """The match lists that belong to a template list, by the id of their volume."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode")
    lists = [scene.GetNthNodeByClass(i, "vtkMRMLMarkupsFiducialNode") for i in range(count)]
    mine = [n for n in lists if linked(n, "TemplateList") is template_list and linked(n, "Volume") is not None]
    return {linked(n, "Volume").GetID(): n for n in mine}  # type: ignore[union-attr]
