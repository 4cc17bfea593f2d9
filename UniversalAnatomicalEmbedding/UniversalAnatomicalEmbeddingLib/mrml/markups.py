"""Point lists of MRML: landmarks and matches to control points and back, in the list's own frame."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

from ..images.grid import flipped
from ..landmarks.points import Point, PointList, Position
from ..landmarks.table import Cell, CellStatus
from .attributes import linked
from .frames import Node

CONFIDENCE = "confidence"

DEFINED, MISSING = 2, 3  # vtkMRMLMarkupsNode::PositionDefined, PositionMissing


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


def match_lists(scene: Any, template_list: Node) -> dict[str, Node]:
    """The match lists that belong to a template list, by the id of their volume."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode")
    lists = [scene.GetNthNodeByClass(i, "vtkMRMLMarkupsFiducialNode") for i in range(count)]
    mine = [n for n in lists if linked(n, "TemplateList") is template_list and linked(n, "Volume") is not None]
    return {linked(n, "Volume").GetID(): n for n in mine}  # type: ignore[union-attr]
