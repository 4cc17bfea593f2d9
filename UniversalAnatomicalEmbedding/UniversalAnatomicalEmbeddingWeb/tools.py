"""The modes of the mouse and what is laid over the scans: placing, window and level, live cursor, similarity."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from UniversalAnatomicalEmbeddingLib import mrml
from UniversalAnatomicalEmbeddingLib.system import InputError
from UniversalAnatomicalEmbeddingLib.workbench import LiveCursor, Overlay

if TYPE_CHECKING:
    from .page import Page


CURSOR_PAUSE_S = 0.03  # lets the page draw between two questions


class Tools:
    """Each tool is on or off; placing and window/level exclude each other."""

    def __init__(self, logic: Page, slicer_app: Any) -> None:
        import slicer

        self.logic = logic
        self._modes = slicer.vtkMRMLInteractionNode
        self._scene = slicer_app.scene
        self._interaction = slicer_app.scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
        self._interaction.AddObserver(self._modes.InteractionModeChangedEvent, lambda *_: self._show())
        self._crosshair = slicer_app.scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        self._crosshair.AddObserver(slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent, lambda *_: self._moved())
        self._cursor, self._overlay = LiveCursor(logic.bench), Overlay(logic.bench)
        self._cursor_on = False
        self._overlaid: tuple[Any, ...] | None = None  # what is asked for: landmark, its position, target
        self._overlay_on = False
        self.actions: dict[str, Callable[..., Any]] = {
            "place": self.place,
            "window": self.window,
            "cursor": self.cursor,
            "overlay": self.overlay,
            "escape": self.escape,
            "reset_views": logic.rows.fit,
        }

    def place(self) -> None:
        """Click in the template to place landmarks; pressed again: stop."""
        if self._interaction.GetCurrentInteractionMode() == self._modes.Place:
            self.escape()
            return
        gate = self.logic.presenter.can_place
        if not gate.enabled:
            raise InputError(gate.reason)
        mrml.start_placing(self._scene, self.logic.bench.placing_list())

    def window(self) -> None:
        """Drag to change window and level; pressed again: stop."""
        on = self._interaction.GetCurrentInteractionMode() == self._modes.AdjustWindowLevel
        self._interaction.SetCurrentInteractionMode(self._modes.ViewTransform if on else self._modes.AdjustWindowLevel)

    def escape(self) -> None:
        """Back to the plain mouse."""
        mrml.stop_placing(self._scene)

    def cursor(self) -> None:
        """The other scans follow Shift and the mouse; pressed again: stop."""
        self._cursor_on = not self._cursor_on
        if not self._cursor_on:
            self._cursor.hide()
        self._show()

    def overlay(self) -> None:
        """Colour the target of the selected match (else the first one) by similarity to the selected landmark; pressed again: stop."""
        self._overlay_on = not self._overlay_on
        if self._overlay_on:
            self.logic.registering.show("off")
        self.follow()
        self._show()

    def stop_overlay(self) -> None:
        """Something else is laid over the scans."""
        if self._overlay_on:
            self.overlay()

    def follow(self) -> None:
        """Landmarks or the selection have changed: colour anew where that matters."""
        panel = self.logic.presenter
        wanted = None
        if self._overlay_on and panel.can_overlay.enabled and panel.selected is not None:
            usable = [v for v in panel.targets if panel.readiness.status(v).usable]
            volume = panel.selected_volume if panel.selected_volume in usable else usable[0]
            wanted = (panel.selected, self.logic.bench.world(panel.selected), volume)
        if wanted == self._overlaid:
            return
        self._overlaid = wanted
        if wanted is None:
            self._overlay.hide()
        else:
            self._overlay.show(wanted[0], wanted[2])

    def _moved(self) -> None:
        """Look up the place under the mouse when there is time: at most one question waits."""
        if self._cursor_on and self._cursor.offer_crosshair(self._crosshair):
            asyncio.get_running_loop().call_later(CURSOR_PAUSE_S, self._look)

    def _look(self) -> None:
        try:
            self._cursor.follow()
        except InputError:
            self._cursor.hide()  # outside the patient

    def _show(self) -> None:
        mode = self._interaction.GetCurrentInteractionMode()
        with self.logic.server.state as shown:
            shown.placing = mode == self._modes.Place
            shown.windowing = mode == self._modes.AdjustWindowLevel
            shown.cursor_on = self._cursor_on
            shown.overlay_on = self._overlay_on
