"""A row of axial, sagittal and coronal views for each scan, in a view group of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from trame_client.widgets import html
from trame_slicer.rca_view import RemoteSliceViewFactory
from trame_slicer.views import ViewLayoutDefinition, ViewProps, ViewType

from UniversalAnatomicalEmbeddingLib.mrml import ORIENTATIONS, view_group, view_tag

# Letters at the left, right, top and bottom edge of a view; the patient's right is on the left of axial and coronal views.
EDGES = {"Axial": "RLAP", "Sagittal": "APSI", "Coronal": "RLSI"}
ZOOMING = ("RightButtonPressEvent", "MiddleButtonPressEvent")
QUALITY = 92
FRAMES_PER_SECOND = 25
PRESETS: dict[str, dict[str, tuple[float, float]]] = {
    "ct": {
        "Soft tissue": (400, 40),
        "Lung": (1500, -600),
        "Bone": (2000, 500),
        "Mediastinum": (350, 50),
        "Liver": (150, 90),
        "Brain": (80, 40),
    },
    "mr": {},
}
AUTO, WHOLE = "Auto", "Full range"


@dataclass(frozen=True)
class Row:
    """The views of one scan: number of the row, MRML id of the volume, the views by tag."""

    number: int
    volume: str
    views: dict[str, Any]

    @property
    def nodes(self) -> tuple[Any, ...]:
        """The slice nodes."""
        return tuple(view.get_view_node() for view in self.views.values())


class Rows:
    """Makes, fills, empties and reuses rows; their order on the page is that of the scans."""

    def __init__(self, server: Any, slicer_app: Any) -> None:
        self._app = slicer_app
        self._factory = RemoteSliceViewFactory(
            server, populate_view_ui_f=_decorate, interactive_quality=QUALITY, target_fps=FRAMES_PER_SECOND, rca_encoder="jpeg"
        )
        slicer_app.view_manager.register_factory(self._factory)
        self._rows: dict[str, Row] = {}
        self._free: list[Row] = []
        self._made = 0
        self._fitted: set[str] = set()

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def get(self, volume: str) -> Row:
        """The row of a volume."""
        return self._rows[volume]

    def open(self, node: Any) -> Row:
        """Show a volume node in a row of its own."""
        row = replace(self._free.pop() if self._free else self._make(), volume=node.GetID())
        self._rows[row.volume] = row
        for view in row.views.values():
            view.set_background_volume_id(row.volume)
            view.fit_view_to_content()  # to the middle of the scan
        self.fit()
        return row

    def close(self, volume: str) -> None:
        """Empty the row of a volume and keep it for the next."""
        row = self._rows.pop(volume)
        for view in row.views.values():
            view.set_background_volume_id(None)
            view.set_foreground_volume_id(None)
        self._free.append(row)
        self.fit()

    def fit(self) -> None:
        """Show every scan whole, and keep it so when its views change size, until somebody zooms or pans."""
        for row in self:
            for tag in row.views:
                self._fitted.add(tag)
                self._fit(tag)

    def _fit(self, tag: str) -> None:
        view = next((row.views[tag] for row in self if tag in row.views), None)
        if view is None or tag not in self._fitted:
            return
        where = view.get_slice_value()
        view.fit_view_to_content()
        view.set_slice_value(where)
        view.schedule_render()

    def _make(self) -> Row:
        number = self._made
        self._made += 1
        views = {view_tag(number, orientation): orientation for orientation in ORIENTATIONS}
        return Row(number, "", {tag: self._view(tag, orientation, view_group(number)) for tag, orientation in views.items()})

    def _view(self, tag: str, orientation: Any, group: int) -> Any:
        properties = ViewProps(label=tag, orientation=orientation, group=group, color="#6fb1c4")
        view = self._app.view_manager.create_view(ViewLayoutDefinition(tag, ViewType.SLICE_VIEW, properties))
        adapter = self._factory.get_factory_view(tag).view_adapter
        adapter.update_quality(QUALITY, QUALITY)  # equal: each change is drawn once, not once more when the mouse rests
        view.interactor().AddObserver("WindowResizeEvent", lambda *_: self._fit(tag))
        for event in ZOOMING:
            view.interactor().AddObserver(event, lambda *_: self._fitted.discard(tag))
        return view


def preset_names(modality: str) -> tuple[str, ...]:
    """Names of the window/level settings of a modality, the first one for a start."""
    return (*PRESETS.get(modality, {}), AUTO, WHOLE)


def apply_preset(node: Any, name: str, modality: str) -> None:
    """Set window and level of a volume node by name; Auto spans the 1st to 99.5th percentile of what is not background."""
    from vtk.util.numpy_support import vtk_to_numpy

    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    if name in PRESETS.get(modality, {}):
        display.SetWindowLevel(*PRESETS[modality][name])
        return
    low, high = node.GetImageData().GetScalarRange()
    if name == AUTO:
        values = vtk_to_numpy(node.GetImageData().GetPointData().GetScalars())[::17]
        values = values[values > low]
        low, high = np.percentile(values, (1, 99.5)) if len(values) else (low, high)
    display.SetWindowLevel(max(high - low, 1e-3), (high + low) / 2)


def _decorate(server: Any, view_id: str, view: Any) -> None:
    """Edge letters and the slice slider of a view."""
    from trame_slicer.app.logic.slice_view_logic import connect_slice_view_slider_to_state

    letters = next(letters for orientation, letters in EDGES.items() if view_id.endswith(orientation))
    for letter, edge in zip(letters, ("left", "right", "top", "bottom"), strict=True):
        html.Span(letter, classes=f"edge {edge}")
    names = connect_slice_view_slider_to_state(server, view).name
    html.Input(
        type="range",
        classes="slice",
        raw_attrs=['tabindex="-1"', 'aria-label="Slice"'],
        v_model_number=(names.value,),
        min=(names.min_value,),
        max=(names.max_value,),
        step=(names.step,),
    )
