"""A row of axial, coronal and sagittal views for each scan, in a view group of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from trame_client.widgets import html
from trame_slicer.rca_view import RemoteSliceViewFactory
from trame_slicer.views import ViewLayoutDefinition, ViewProps, ViewType

ORIENTATIONS = ("Axial", "Coronal", "Sagittal")
# Letters at the left, right, top and bottom edge of a view; the patient's right is on the left of axial and coronal views.
EDGES = {"Axial": "RLAP", "Coronal": "RLSI", "Sagittal": "APSI"}
QUALITY = 92
PRESETS: dict[str, dict[str, tuple[float, float]]] = {
    "ct": {"Soft tissue": (400, 40), "Lung": (1500, -600), "Bone": (2000, 500), "Mediastinum": (350, 50), "Liver": (150, 90), "Brain": (80, 40)},
    "mr": {},
}
AUTO, BRIGHT = "Auto", "Full range"


@dataclass(frozen=True)
class Row:
    """The views of one scan: number of the row, MRML id of the volume, the views' tags and MRML slice nodes."""

    number: int
    volume: str
    tags: tuple[str, ...]
    views: tuple[Any, ...]

    @property
    def nodes(self) -> tuple[Any, ...]:
        """The slice nodes."""
        return tuple(view.get_view_node() for view in self.views)


class Rows:
    """Makes, fills, empties and reuses rows; their order on the page is that of the scans."""

    def __init__(self, server: Any, slicer_app: Any) -> None:
        self._app = slicer_app
        self._factory = RemoteSliceViewFactory(server, populate_view_ui_f=_decorate, interactive_quality=QUALITY, target_fps=25, rca_encoder="jpeg")
        slicer_app.view_manager.register_factory(self._factory)
        self._rows: dict[str, Row] = {}
        self._free: list[Row] = []

    def __iter__(self) -> Any:
        return iter(self._rows.values())

    def get(self, volume: str) -> Row | None:
        """The row of a volume."""
        return self._rows.get(volume)

    def of_view(self, node_id: str) -> Row | None:
        """The row that a slice node belongs to."""
        return next((row for row in self for node in row.nodes if node.GetID() == node_id), None)

    def open(self, node: Any) -> Row:
        """Show a volume node in a row of its own."""
        row = self._free.pop() if self._free else self._make(len(self._rows))
        row = Row(row.number, node.GetID(), row.tags, row.views)
        self._rows[node.GetID()] = row
        for view in row.views:
            view.set_background_volume_id(node.GetID())
        self.fit()
        return row

    def close(self, volume: str) -> None:
        """Empty the row of a volume and keep it for the next."""
        row = self._rows.pop(volume, None)
        if row is not None:
            for view in row.views:
                view.set_background_volume_id(None)
                view.set_foreground_volume_id(None)
            self._free.append(row)
            self.fit()

    def fit(self) -> None:
        """Show every scan whole; again as soon as a view gets another size, which it does when rows come and go."""
        for row in self:
            for view in row.views:
                view.fit_view_to_content()
                view.uae_fit = True
                view.schedule_render()

    def _make(self, number: int) -> Row:
        tags = tuple(f"row{number}{orientation.lower()}" for orientation in ORIENTATIONS)
        views = tuple(self._view(tag, orientation, number + 1) for tag, orientation in zip(tags, ORIENTATIONS, strict=True))
        return Row(number, "", tags, views)

    def _view(self, tag: str, orientation: Any, group: int) -> Any:
        properties = ViewProps(label=tag, orientation=orientation, group=group, color="#6fb1c4")
        view = self._app.view_manager.create_view(ViewLayoutDefinition(tag, ViewType.SLICE_VIEW, properties))
        adapter = self._factory.get_factory_view(tag).view_adapter
        adapter.update_quality(QUALITY, QUALITY)  # equal: each change is drawn once, not once more when the mouse rests
        view.uae_fit = True
        view.interactor().AddObserver("ConfigureEvent", lambda *_: _refit(view))
        return view


def presets(modality: str) -> tuple[str, ...]:
    """Names of the window/level settings of a modality."""
    return (AUTO, *PRESETS.get(modality, {}), BRIGHT)


def apply_preset(node: Any, name: str, modality: str) -> None:
    """Set window and level of a volume node by name."""
    node.CreateDefaultDisplayNodes() if node.GetDisplayNode() is None else None
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    if name in PRESETS.get(modality, {}):
        display.SetWindowLevel(*PRESETS[modality][name])
        return
    low, high = node.GetImageData().GetScalarRange()
    if name == AUTO:
        from vtk.util.numpy_support import vtk_to_numpy

        values = vtk_to_numpy(node.GetImageData().GetPointData().GetScalars())[::17]
        values = values[values > low]
        low, high = np.percentile(values if len(values) else [low, high], (1, 99.5))
    display.SetWindowLevel(max(high - low, 1e-3), (high + low) / 2)


def _refit(view: Any) -> None:
    if view.uae_fit:
        view.fit_view_to_content()


def _decorate(server: Any, view_id: str, view: Any) -> None:
    """Edge letters and the slice slider."""
    from trame_slicer.app.logic.slice_view_logic import connect_slice_view_slider_to_state

    letters = EDGES[view.get_orientation() if view.get_orientation() in EDGES else "Axial"]
    for letter, edge in zip(letters, ("left", "right", "top", "bottom"), strict=True):
        html.Span(letter, classes=f"edge {edge}")
    slider = connect_slice_view_slider_to_state(server, view)
    html.Input(
        type="range",
        classes="slice",
        raw_attrs=['tabindex="-1"', 'aria-label="Slice"'],
        v_model_number=(slider.name.value,),
        min=(slider.name.min_value,),
        max=(slider.name.max_value,),
        step=(slider.name.step,),
    )


Listener = Callable[[], None]
