"""The page: its template, and what it shows when the connection is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trame_client.ui.html import DivLayout

WWW = Path(__file__).with_name("www")
LOST = '<div data-uae-lost style="position: fixed; inset: 0; background: #121517"></div>'


def build(server: Any) -> None:
    """Give the server its page. Everything in it is drawn from the state of :mod:`.state` and answers with the trigger ``do``."""
    server.state.trame__title = "Universal Anatomical Embedding"
    server.state.trame__favicon = "/logo.png"
    server.state.trame__template_error = LOST
    with DivLayout(server) as layout:
        layout.root.add_child((WWW / "page.html").read_text(encoding="utf-8"))
