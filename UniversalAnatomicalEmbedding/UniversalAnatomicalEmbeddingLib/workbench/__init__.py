"""The landmarks of a scene at work, a face without pixels: what can be done, what is done, and what
follows from it. Every face drives it; no toolkit is known here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.doors import open_door

if TYPE_CHECKING:
    from .overlays import LiveCursor, Overlay
    from .preparation import Loader, Preparation
    from .presenter import Gate, Presenter
    from .readiness import duration
    from .registration_job import Registering
    from .scans import Snapshot
    from .workbench import EXPORTS, Workbench

__all__, __getattr__ = open_door(__name__)
