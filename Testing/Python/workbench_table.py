"""A scene with three volumes and a workbench at it."""

from __future__ import annotations

from typing import Any

import numpy as np
import requires

requires.needs_mrml()

import slicer  # noqa: E402
import vtk  # noqa: E402
from fake_engine import FakeEngine  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.grid import Grid  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.volume import Volume  # noqa: E402
from UniversalAnatomicalEmbeddingLib.workbench.workbench import Workbench  # noqa: E402


def add_view(scene: Any, name: str, volume: Any) -> Any:
    """A slice node and its composite node, as a layout makes them."""
    view = scene.AddNode(slicer.vtkMRMLSliceNode())
    view.SetLayoutName(name)
    composite = scene.AddNode(slicer.vtkMRMLSliceCompositeNode())
    composite.SetLayoutName(name)
    composite.SetBackgroundVolumeID(volume.GetID() if volume else None)
    return view


POINT = np.array([20.0, 30.0, 40.0])


def add_volume(scene: Any, name: str, spacing: float = 2.0) -> Any:
    size = round(100 / spacing)
    affine = np.diag([spacing] * 3 + [1.0])
    return mrml.volume_to_node(scene, Volume(np.zeros((size, size, size), np.int16), Grid((size, size, size), affine), "ct", name))


def turn(scene: Any, degrees: float = 40.0) -> Any:
    made = vtk.vtkTransform()
    made.Translate(10, 20, 40)
    made.RotateX(degrees)
    made.RotateZ(25)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "turn")
    node.SetMatrixTransformToParent(made.GetMatrix())
    return node


class Table:
    """A scene with a template and two targets, and a workbench at it."""

    def __init__(self) -> None:
        self.scene = slicer.vtkMRMLScene()
        self.logic = slicer.vtkSlicerMarkupsLogic()  # registers the storage nodes of point lists
        self.logic.SetMRMLScene(self.scene)
        self.a, self.b, self.c = (add_volume(self.scene, n) for n in ("A", "B", "C"))
        self.errors: list[Exception] = []
        self.bench = Workbench(self.scene, report=self.errors.append)
        self.presenter, self.engine = self.bench.presenter, FakeEngine()
        self.bench.use_engine(self.engine, {"Model": "fake", "ModelSha256": "00", "Version": "1"})

    def prepare(self, *nodes: Any) -> None:
        for node in nodes or (self.a, self.b, self.c):
            snapshot = self.bench.scans.snapshot(node.GetID())
            self.bench.ready(node.GetID(), snapshot, snapshot.volume)

    def cell(self, key: int, node: Any) -> Any:
        return self.presenter.table.row(key).cell(node.GetID())

    def drag(self, node: Any, index: int, ras: tuple[float, float, float]) -> None:
        """What a hand does: start, many moves, end."""
        node.InvokeEvent(node.PointStartInteractionEvent)
        for share in (0.5, 1.0):
            node.SetNthControlPointPosition(index, *(share * v for v in ras))
        node.InvokeEvent(node.PointEndInteractionEvent)
