"""Section "Settings and diagnostics"."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

from UniversalAnatomicalEmbeddingLib import system
from UniversalAnatomicalEmbeddingLib.worker import Done, Failed


class DiagnosticsSection:
    """What is installed here, which devices compute, how much disk the embeddings take; all of it as text to copy."""

    def __init__(self, ui: Any, panel: Any) -> None:
        self.ui, self.panel, self.logic = ui, panel, panel.logic
        self.found: dict[str, Any] = {}
        ui.probeButton.connect("clicked()", self.onProbe)
        ui.copyReportButton.connect("clicked()", lambda: qt.QApplication.clipboard().setText(self.text()))
        ui.clearCacheButton.connect("clicked()", self.onClear)
        ui.diagnosticsButton.connect("contentsCollapsed(bool)", lambda collapsed: collapsed or self.show())

    def text(self) -> str:
        """The report."""
        found = self.found or {"versions": system.versions()}
        try:
            from UniversalAnatomicalEmbeddingLib.embedding import Cache, default_folder
        except ImportError:  # torch is not installed yet, so there are no embeddings either
            return system.diagnostics_text(found, "-", [], 0, self.logic.client.log())
        cache = Cache(default_folder())
        return system.diagnostics_text(found, str(cache.folder), cache.entries(), cache.cap_bytes, self.logic.client.log())

    def show(self) -> None:
        """Write the report into the panel."""
        self.ui.diagnosticsText.setPlainText(self.text())

    def onProbe(self) -> None:
        """Ask the worker, so that a device that crashes takes nothing with it."""
        self.ui.probeButton.setEnabled(False)
        self.ui.diagnosticsText.setPlainText(_("Testing devices..."))
        self.logic.desk.submit({"job": "probe"}, self._heard)
        self.panel.keepPolling()

    def onClear(self) -> None:
        """Delete all stored embeddings; those in use stay in memory."""
        with self.panel.shown(_("The cache cannot be cleared.")):
            from UniversalAnatomicalEmbeddingLib.embedding import Cache, default_folder

            Cache(default_folder()).clear()
            self.show()

    def _heard(self, event: Any) -> None:
        if isinstance(event, Done):
            self.found = event.result
            self.panel.volumes.fillDevices(event.result["devices"])
        if isinstance(event, (Done, Failed)):
            self.ui.probeButton.setEnabled(True)
            self.ui.diagnosticsText.setPlainText(event.sentence if isinstance(event, Failed) else self.text())
