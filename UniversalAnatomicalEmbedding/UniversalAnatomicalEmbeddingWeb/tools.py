"""The modes of the mouse and what is laid over the scans: placing, window and level, live cursor, similarity."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from UniversalAnatomicalEmbeddingLib import mrml, views
from UniversalAnatomicalEmbeddingLib.errors import InputError

if TYPE_CHECKING:
    from .logic import Logic


class Tools:
    """Each tool is on or off; placing and window/level exclude each other."""

    def __init__(self, logic: Logic, slicer_app: Any) -> None:
        import slicer

        self.logic = logic
        self._modes = slicer.vtkMRMLInteractionNode
        self._markups = slicer_app.markups_logic
        self._interaction = slicer_app.scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
        self._interaction.AddObserver(self._modes.InteractionModeChangedEvent, lambda *_: self._mode_changed())
        self.actions: dict[str, Callable[..., Any]] = {
            "place": self.place,
            "window": self.window,
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
        self._markups.place_node(self.logic.bench.placing_list(), persistent=True)

    def window(self) -> None:
        """Drag to change window and level; pressed again: stop."""
        on = self._interaction.GetCurrentInteractionMode() == self._modes.AdjustWindowLevel
        self._interaction.SetCurrentInteractionMode(self._modes.ViewTransform if on else self._modes.AdjustWindowLevel)

    def escape(self) -> None:
        """Back to the plain mouse."""
        self._interaction.SetCurrentInteractionMode(self._modes.ViewTransform)

    def follow(self) -> None:
        """Something changed: keep what is laid over the scans in step."""

    def _mode_changed(self) -> None:
        mode = self._interaction.GetCurrentInteractionMode()
        with self.logic.server.state as shown:
            shown.placing = mode == self._modes.Place
            shown.windowing = mode == self._modes.AdjustWindowLevel
