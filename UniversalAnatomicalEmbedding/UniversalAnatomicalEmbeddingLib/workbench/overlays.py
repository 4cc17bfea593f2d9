"""What follows the mouse or a selection without being kept: the cross-hair in the targets, the similarity map over one of them."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from .. import mrml
from ..mrml import views
from ..system.language import tr as _
from .lists import FIDUCIALS, as_position
from .workbench import Workbench

Node = Any


class LiveCursor:
    """A cross-hair in every prepared target at the place that matches a position of the template.

    The face calls :meth:`offer` with every mouse position and :meth:`follow` when it has time: only the last position is ever looked up.
    """

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._crosses: dict[str, Node] = {}
        self._waiting: tuple[float, float, float] | None = None

    def offer(self, point_lps: ArrayLike) -> bool:
        """Remember a world position, LPS mm; True when :meth:`follow` has to be called (it is not on its way already)."""
        idle, self._waiting = self._waiting is None, as_position(point_lps)
        return idle

    def offer_crosshair(self, crosshair: Node) -> bool:
        """As :meth:`offer`, from the scene's cross-hair node: what Shift and the mouse moved. False where that is not over the template."""
        template = self.bench.presenter.template
        view = crosshair.GetCursorPositionXYZ([0.0, 0.0, 0.0])
        if view is None or template is None:
            return False
        over = [v.GetID() for v in views.views_of(self.bench.scene, self.bench.scans.node(template))]
        return view.GetID() in over and self.offer(mrml.flipped(crosshair.GetCrosshairRAS()))

    def follow(self) -> None:
        """Look the last offered position up in all prepared targets, put the cross-hairs there and let the views look there."""
        point, self._waiting = self._waiting, None
        if point is None or not self.bench.presenter.can_search.enabled:
            return
        for volume in self.bench.presenter.targets:
            if self.bench.presenter.readiness.status(volume).usable:
                cell = self.bench.scans.find([point], volume)[0]
                shown = views.views_of(self.bench.scene, self.bench.scans.node(volume))
                cross = self._cross(volume)
                cross.SetNthControlPointSelected(0, cell.status != "uncertain")
                mrml.set_position(cross, 0, cell.position_lps)
                views.show_only_in(cross, shown)
                if cell.position_lps is not None:
                    views.jump(shown, cell.position_lps)

    def hide(self) -> None:
        """Take the cross-hairs away."""
        self._waiting = None
        for cross in self._crosses.values():
            self.bench.scene.RemoveNode(cross)
        self._crosses.clear()

    def _cross(self, volume: str) -> Node:
        if volume not in self._crosses or not self.bench.scene.IsNodePresent(self._crosses[volume]):
            node = views.passing_node(self.bench.scene, FIDUCIALS, _("Live cursor"))
            mrml.write_landmarks(node, [("", None)])
            views.style_cursor(node)
            self._crosses[volume] = node
        return self._crosses[volume]


class Overlay:
    """The similarity of every place of a target to one landmark, as a colour map over its views."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.node: Node | None = None

    def show(self, key: int, volume: str) -> Node:
        """Show the map of a landmark over a target; returns its node."""
        self.hide()
        point = self.bench.world(key)
        scene, target = self.bench.scene, self.bench.scans.node(volume)
        node = views.passing_node(scene, "vtkMRMLScalarVolumeNode", _("Similarity"))
        self.node = node
        self.bench.scans.similarity(point, volume, node)  # type: ignore[arg-type]
        views.style_overlay(node)
        views.show_overlay(scene, node, target)
        return node

    def hide(self) -> None:
        """Take the map away."""
        if self.node is not None:
            views.hide_overlay(self.bench.scene, self.node)
            self.bench.scene.RemoveNode(self.node)
            self.node = None
