"""What the parts of the page (loading, tools, registering) may ask of the whole; the logic that is made of them fulfils it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from UniversalAnatomicalEmbeddingLib.workbench import Presenter, Workbench
from UniversalAnatomicalEmbeddingLib.worker import Desk

from .options import ServeOptions
from .rows import Rows


class Overlaying(Protocol):
    """Lays a similarity map over a scan."""

    def stop_overlay(self) -> None:
        """Take it away."""


class Showing(Protocol):
    """Lays a registered scan over the fixed one."""

    def show(self, what: str) -> None:
        """Show one of the pictures, or "off"."""


class Page(Protocol):
    """The one session of a server as its parts see it."""

    server: Any
    scene: Any
    options: ServeOptions
    rows: Rows
    bench: Workbench
    presenter: Presenter
    desk: Desk

    @property
    def tools(self) -> Overlaying:
        """What lies over the scans."""

    @property
    def registering(self) -> Showing:
        """Registration on the page."""

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin work that goes on beside the page."""

    def tell(self, text: str, kind: str = "info") -> None:
        """Show a sentence at the bottom of the page."""

    def refresh(self) -> None:
        """Show what has changed."""
