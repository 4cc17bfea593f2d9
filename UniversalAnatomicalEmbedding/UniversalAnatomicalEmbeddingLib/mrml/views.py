"""Slice views of a MRML scene: which of them show a volume, what is visible in them, where they look. No application needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ..images.grid import flipped
from ..landmarks.points import Position
from .attributes import set_attributes

Node = Any
COLOURS = {"Axial": "#F34A33", "Sagittal": "#EDD54C", "Coronal": "#6EB04B"}  # Slicer's
ORIENTATIONS = tuple(COLOURS)
"""The views of a row, from left to right, in the panel's layout and on the page."""
FIRST_GROUP = 100
LAYOUT_ID = 7311
GREEN, AMBER, BLUE = (0.35, 0.85, 0.4), (1.0, 0.7, 0.0), (0.44, 0.75, 0.85)


def slice_views(scene: Any) -> list[tuple[Node, Node]]:
    """All (slice node, slice composite node) pairs of a scene."""
    composites = _all(scene, "vtkMRMLSliceCompositeNode")
    slices = {node.GetLayoutName(): node for node in _all(scene, "vtkMRMLSliceNode")}
    return [(slices[c.GetLayoutName()], c) for c in composites if c.GetLayoutName() in slices]


def views_of(scene: Any, volume: Node) -> list[Node]:
    """The slice nodes whose views show a volume: as the background, or as the foreground where there is no background."""
    shown = [(s, c.GetBackgroundVolumeID() or c.GetForegroundVolumeID()) for s, c in slice_views(scene)]
    return [s for s, volume_id in shown if volume_id == volume.GetID()]


def jump(views: Iterable[Node], point_lps: Position) -> None:
    """Centre views on a world position, LPS mm."""
    ras = flipped(point_lps)[0].tolist()
    for view in views:
        view.JumpSliceByCentering(*ras)


def start_placing(scene: Any, markups: Node, row: int | None = None) -> None:
    """Let every click in a view add a point to a list, until :func:`stop_placing` (or the person) ends it. With ``row`` one click, which gives
    that undefined point its place."""
    selection = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    selection.SetReferenceActivePlaceNodeClassName(markups.GetClassName())
    selection.SetActivePlaceNodeID(markups.GetID())
    interaction = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    interaction.SetPlaceModePersistence(int(row is None))
    if row is not None:
        markups.SetControlPointPlacementStartIndex(row)
    interaction.SetCurrentInteractionMode(interaction.Place)


def stop_placing(scene: Any) -> None:
    """Clicks move views again."""
    interaction = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)


def is_placing(scene: Any, markups: Node | None) -> bool:
    """Whether clicks add points to this list."""
    interaction = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    selection = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    placing = interaction is not None and interaction.GetCurrentInteractionMode() == interaction.Place
    return placing and markups is not None and selection.GetActivePlaceNodeID() == markups.GetID()


@contextmanager
def placing_kept(scene: Any) -> Iterator[None]:
    """The list that clicks add points to stays the same, although a new list comes into the scene (which Slicer would then take)."""
    selection = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    before = None if selection is None else (selection.GetActivePlaceNodeClassName(), selection.GetActivePlaceNodeID())
    yield
    if selection is not None and before is not None and selection.GetActivePlaceNodeID() != before[1]:
        selection.SetReferenceActivePlaceNodeClassName(before[0])
        selection.SetActivePlaceNodeID(before[1])


def show_only_in(markups: Node, views: Sequence[Node]) -> None:
    """Show a point list in these views only; in none when there are none (an empty list of views would mean everywhere)."""
    display = markups.GetDisplayNode()
    if display is None:
        markups.CreateDefaultDisplayNodes()
        display = markups.GetDisplayNode()
    wanted = {view.GetID() for view in views}
    if wanted != set(display.GetViewNodeIDs() or ()):
        display.RemoveAllViewNodeIDs()
        for view_id in sorted(wanted):
            display.AddViewNodeID(view_id)
    display.SetVisibility(bool(wanted))


def style_template(markups: Node) -> None:
    """Landmarks of the template are blue; small glyphs, so that the anatomy under them stays visible."""
    _style_points(markups, BLUE, BLUE)


def style_matches(markups: Node) -> None:
    """Matches are green, uncertain (not selected) ones amber."""
    _style_points(markups, GREEN, AMBER)


def _style_points(markups: Node, selected: tuple[float, float, float], others: tuple[float, float, float]) -> None:
    markups.CreateDefaultDisplayNodes()
    display = markups.GetDisplayNode()
    display.SetSelectedColor(*selected)
    display.SetColor(*others)
    display.SetGlyphScale(2.0)
    display.SetTextScale(2.5)
    display.SetPropertiesLabelVisibility(False)


def style_cursor(markups: Node) -> None:
    """One cross-hair without a name that cannot be dragged."""
    markups.CreateDefaultDisplayNodes()
    display = markups.GetDisplayNode()
    display.SetSelectedColor(*GREEN)
    display.SetColor(*AMBER)
    display.SetGlyphTypeFromString("CrossDot2D")
    display.SetGlyphScale(4.0)
    display.SetPointLabelsVisibility(False)
    display.SetPropertiesLabelVisibility(False)
    markups.SetLocked(True)


def passing_node(scene: Any, kind: str, name: str) -> Node:
    """A node that belongs to this moment: neither listed nor saved."""
    node = scene.CreateNodeByClass(kind)
    node.UnRegister(None)
    node.SetName(name)
    node.SetSaveWithScene(False)
    node.HideFromEditorsOn()
    set_attributes(node, {"Role": "passing"})
    with placing_kept(scene):
        return scene.AddNode(node)


def windowed(volume: Node, values: NDArray) -> NDArray:
    """Values (of this volume) as 0..1 of its display window."""
    display = volume.GetDisplayNode()
    window, level = (display.GetWindow(), display.GetLevel()) if display else (float(np.ptp(values)) or 1.0, float(values.mean()))
    return np.clip((values - level) / (window or 1.0) + 0.5, 0.0, 1.0)


def style_preview(preview: Node) -> None:
    """Grey from 0 to 1; the display node is not saved either."""
    preview.CreateDefaultDisplayNodes()
    display = preview.GetDisplayNode()
    display.SetSaveWithScene(False)
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0.0, 1.0)


def style_overlay(overlay: Node) -> None:
    """Hot colours for the upper half of the similarities, nothing below; the display node is not saved either."""
    overlay.CreateDefaultDisplayNodes()
    display = overlay.GetDisplayNode()
    display.SetSaveWithScene(False)
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeIron")
    low, high = overlay.GetImageData().GetScalarRange()
    middle = (low + high) / 2
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(middle, high)
    display.SetThreshold(middle, high)
    display.ApplyThresholdOn()


def show_overlay(scene: Any, overlay: Node, volume: Node, opacity: float = 0.45) -> None:
    """Lay a volume as the foreground over another in all views of that."""
    ids = {view.GetID() for view in views_of(scene, volume)}
    for view, composite in slice_views(scene):
        if view.GetID() in ids:
            composite.SetForegroundVolumeID(overlay.GetID())
            composite.SetForegroundOpacity(opacity)


def hide_overlay(scene: Any, overlay: Node) -> None:
    """Take a foreground away wherever it is."""
    for _, composite in slice_views(scene):
        if composite.GetForegroundVolumeID() == overlay.GetID():
            composite.SetForegroundVolumeID(None)


def view_tag(row: int, orientation: str) -> str:
    """Name of a view in row 0, 1, ...; the web face makes identifiers of these, so it is letters and digits only."""
    return f"UAE{row + 1}{orientation}"


def view_group(row: int) -> int:
    """Number of the view group of row 0, 1, ...; views of one group move together."""
    return FIRST_GROUP + row


def layout_xml(names: Sequence[str]) -> str:
    """A layout with one row of axial, sagittal and coronal views per volume; each row is a view group of its own, so rows do not move together."""
    rows = ElementTree.Element("layout", type="vertical", split="true")
    for row, name in enumerate(names):
        views = ElementTree.SubElement(ElementTree.SubElement(rows, "item"), "layout", type="horizontal", split="true")
        for orientation in ORIENTATIONS:
            tag = view_tag(row, orientation)
            view = ElementTree.SubElement(ElementTree.SubElement(views, "item"), "view", {"class": "vtkMRMLSliceNode", "singletontag": tag})
            values = {
                "orientation": orientation,
                "viewlabel": f"{name[:12]} {orientation[0]}",
                "viewcolor": COLOURS[orientation],
                "viewgroup": str(view_group(row)),
            }
            for key, value in values.items():
                ElementTree.SubElement(view, "property", name=key, action="default").text = value
    return ElementTree.tostring(rows, encoding="unicode")


def use_layout(scene: Any, volumes: Sequence[Node]) -> None:
    """Switch to :func:`layout_xml` and fill it. The application makes the views when the layout node changes."""
    layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    xml = layout_xml([v.GetName() for v in volumes])
    if layout.IsLayoutDescription(LAYOUT_ID):
        layout.SetLayoutDescription(LAYOUT_ID, xml)
    else:
        layout.AddLayoutDescription(LAYOUT_ID, xml)
    layout.SetViewArrangement(LAYOUT_ID)
    fill_layout(scene, volumes)


def fill_layout(scene: Any, volumes: Sequence[Node]) -> None:
    """Show each volume in its row of the layout."""
    by_name = {view.GetLayoutName(): (view, composite) for view, composite in slice_views(scene)}
    for row, volume in enumerate(volumes):
        for orientation in ORIENTATIONS:
            if view_tag(row, orientation) in by_name:
                view, composite = by_name[view_tag(row, orientation)]
                view.SetViewGroup(view_group(row))
                composite.SetBackgroundVolumeID(volume.GetID())
                bounds = [0.0] * 6
                volume.GetRASBounds(bounds)
                view.JumpSliceByCentering(*((bounds[i] + bounds[i + 1]) / 2 for i in (0, 2, 4)))


def _all(scene: Any, kind: str) -> list[Node]:
    return [scene.GetNthNodeByClass(i, kind) for i in range(scene.GetNumberOfNodesByClass(kind))]
