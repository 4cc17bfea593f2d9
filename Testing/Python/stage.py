"""Real Slicer slice views without the Slicer application: MRML scene, displayable managers, a mouse."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from trame_slicer.core import SlicerApp
from trame_slicer.views import SliceView
from trame_slicer.views.abstract_view import ViewProps
from trame_slicer.views.render_scheduler import NoScheduleRendering

ORIENTATIONS = ("Axial", "Sagittal", "Coronal")


class Stage:
    """A scene, the logics of the modules that are used, and slice views that are drawn when asked."""

    def __init__(self) -> None:
        self.app = SlicerApp()
        self.scene = self.app.scene
        self.views: dict[str, SliceView] = {}
        self.interaction = self.scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")

    def volume(self, array_zyx: np.ndarray, ijk_to_ras: np.ndarray, name: str) -> Any:
        """A volume node with a display node."""
        node = self.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        slicer.util.updateVolumeFromArray(node, array_zyx)
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(np.asarray(ijk_to_ras, dtype=float).ravel().tolist())
        node.SetIJKToRASMatrix(matrix)
        node.CreateDefaultDisplayNodes()
        return node

    def view(self, name: str, volume: Any, orientation: str = "Axial", group: int = 0, size: tuple[int, int] = (300, 300)) -> SliceView:
        """A slice view of a volume."""
        view = SliceView(self.scene, self.app.app_logic, name, scheduled_render_strategy=NoScheduleRendering())
        view.render_window().SetSize(*size)
        view.set_view_properties(ViewProps(label=name, orientation=orientation, group=group))
        view.set_background_volume_id(volume.GetID() if volume else None)
        view.update_size(*size)
        view.fit_view_to_content()
        view.render()
        self.views[name] = view
        return view

    def node(self, name: str) -> Any:
        """The slice node of a view."""
        return self.views[name].get_view_node()

    def render(self) -> None:
        """Draw all views."""
        for view in self.views.values():
            view.render()

    def pixel(self, name: str, ras: Iterable[float]) -> tuple[int, int]:
        """Where a world position is in a view."""
        to_xy = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.node(name).GetXYToRAS(), to_xy)
        x, y, _, _ = to_xy.MultiplyPoint([*ras, 1.0])
        return round(x), round(y)

    def ras(self, name: str, pixel: tuple[int, int]) -> np.ndarray:
        """The world position of a pixel of a view."""
        return np.array(self.node(name).GetXYToRAS().MultiplyPoint([*pixel, 0.0, 1.0])[:3])

    def mouse(self, name: str, pixel: tuple[int, int], *events: str, shift: bool = False) -> None:
        """Mouse events at a pixel of a view, such as "LeftButtonPressEvent"."""
        interactor = self.views[name].interactor()
        for event in events:
            interactor.SetEventInformation(*pixel, 0, int(shift), "\0", 0, None)
            interactor.InvokeEvent(event)

    def click(self, name: str, pixel: tuple[int, int]) -> None:
        """Come into a view, hover, press and release, as a hand does."""
        self.mouse(name, (pixel[0] - 2, pixel[1] - 3), "EnterEvent", "MouseMoveEvent")
        self.mouse(name, pixel, "MouseMoveEvent", "LeftButtonPressEvent", "LeftButtonReleaseEvent")
        self.mouse(name, pixel, "LeaveEvent")

    def drag(self, name: str, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Take what is at a pixel and put it down elsewhere."""
        self.mouse(name, start, "EnterEvent", "MouseMoveEvent", "LeftButtonPressEvent")
        for share in (0.3, 0.7, 1.0):
            between = (round(start[0] + share * (end[0] - start[0])), round(start[1] + share * (end[1] - start[1])))
            self.mouse(name, between, "MouseMoveEvent")
        self.mouse(name, end, "LeftButtonReleaseEvent")
        self.mouse(name, end, "LeaveEvent")

    def shift_move(self, name: str, pixel: tuple[int, int]) -> None:
        """Move the mouse with Shift held."""
        interactor = self.views[name].interactor()
        self.mouse(name, pixel, "EnterEvent", shift=True)
        interactor.SetKeySym("Shift_L")
        interactor.InvokeEvent("KeyPressEvent")
        self.mouse(name, pixel, "MouseMoveEvent", shift=True)

    def image(self, name: str, path: Path | None = None) -> np.ndarray:
        """The picture (height, width, 3) of a view, optionally kept as a file."""
        from vtk.util.numpy_support import vtk_to_numpy

        self.views[name].render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.views[name].render_window())
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()
        if path is not None:
            from PIL import Image

            Image.fromarray(pixels).save(path)
        return pixels
