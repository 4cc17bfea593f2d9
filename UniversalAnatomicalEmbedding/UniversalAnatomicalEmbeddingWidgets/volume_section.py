"""Section "Volumes and model"."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from UniversalAnatomicalEmbeddingLib import mrml, system
from UniversalAnatomicalEmbeddingLib.models import ModelChoice, model_choices
from UniversalAnatomicalEmbeddingLib.system import InputError
from UniversalAnatomicalEmbeddingLib.workbench import Gate
from UniversalAnatomicalEmbeddingLib.worker import Done, Failed, Progress

from .tables import enable, put, resize, silenced

SETTING = "UniversalAnatomicalEmbedding/"


class VolumeSection:
    """Template, targets, model and device; the button that prepares and cancels."""

    def __init__(self, ui: Any, panel: Any) -> None:
        self.ui, self.panel = ui, panel
        self.logic, self.presenter = panel.logic, panel.logic.presenter
        self.settings = slicer.app.userSettings()
        self.choices: list[ModelChoice] = []
        self.devices: list[str] = ["auto", "cpu"]
        self._rows: list[str] = []
        self._importing = self._details = ""
        self._devicesListed = False
        ui.templateSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onTemplate)
        ui.volumeTable.connect("itemChanged(QTableWidgetItem*)", self.onItem)
        ui.modelSelector.connect("currentIndexChanged(int)", self.onModel)
        ui.deviceSelector.connect("currentIndexChanged(int)", self.onDevice)
        ui.importModelButton.connect("clicked()", self.onImport)
        ui.prepareButton.connect("clicked()", self.onPrepare)
        ui.layoutButton.connect("clicked()", self.onLayout)
        self.fillModels()
        self.fillDevices()

    # --- what is chosen ----------------------------------------------------------------------------------------------------------------

    def fillModels(self, model: str | None = None) -> None:
        """List the catalogue; choose ``model``, else the one of the last time."""
        self.choices = model_choices(self.panel.report)
        wanted = model or self.settings.value(SETTING + "model")
        names = [c.id for c in self.choices]
        at = names.index(wanted) if wanted in names else 0
        with silenced(self.ui.modelSelector):
            self.ui.modelSelector.clear()
            for choice in self.choices:
                self.ui.modelSelector.addItem(choice.text)
            self.ui.modelSelector.setCurrentIndex(at)
        self.onModel(at)

    def fillDevices(self, found: list[dict] | None = None) -> None:
        """List automatic, CPU and, once they were tested, the devices that compute."""
        titles = {"auto": _("Automatic"), "cpu": _("CPU")}
        for device in found or []:
            if device["ok"]:
                titles[device["device"]] = f"{device['device']}: {device['title']}"
        self.devices = list(titles)
        wanted = self.settings.value(SETTING + "device") or "auto"
        at = self.devices.index(wanted) if wanted in self.devices else 0
        with silenced(self.ui.deviceSelector):
            self.ui.deviceSelector.clear()
            for title in titles.values():
                self.ui.deviceSelector.addItem(title)
            self.ui.deviceSelector.setCurrentIndex(at)
        self.logic.device = self.devices[at]
        torch = system.versions()["torch"]
        self.ui.torchLabel.setText(f"torch {torch}" if torch else _("torch is not installed"))

    def listDevices(self) -> None:
        """List what torch sees, once it is loaded (by the first embedding); whether it works is what "Test devices" finds out."""
        if sys.modules.get("torch") and not self._devicesListed:
            self._devicesListed = True
            self.fillDevices([{"device": d, "title": _("not tested"), "ok": d != "cpu"} for d in system.devices()])

    def onTemplate(self, node: Any) -> None:
        if node is not None and node.GetID() in self.presenter.volumes:
            self.logic.setTemplate(node)

    def onItem(self, item: Any) -> None:
        if item.column() == 0 and item.row() > 0:
            self.presenter.check_target(self._rows[item.row()], item.checkState() == qt.Qt.Checked)

    def onModel(self, index: int) -> None:
        if 0 <= index < len(self.choices):
            choice = self.choices[index]
            self.logic.model = choice.id
            self.settings.setValue(SETTING + "model", choice.id)
            self._details = choice.details
            self.ui.modelDetailsLabel.setText(self._details)
            if self.presenter.model is not None:
                self.logic.forgetOtherModels()

    def onDevice(self, index: int) -> None:
        self.logic.device = self.devices[index]
        self.settings.setValue(SETTING + "device", self.devices[index])

    def onImport(self) -> None:
        """Have the worker read, convert and keep a weights file; the panel stays alive meanwhile."""
        path = qt.QFileDialog.getOpenFileName(None, _("Import weights file"), "", _("Weights") + " (*.pth *.pt *.safetensors)")
        if path:
            with self.panel.shown(_("The weights file cannot be used.")):
                self.logic.desk.submit({"job": "import", "path": path}, self._heard)
                self._importing = Path(path).name
                self.panel.keepPolling()
                self.refresh()

    def _heard(self, event: Any) -> None:
        if isinstance(event, Progress):
            return
        self._importing = ""
        if isinstance(event, Done):
            self.fillModels(event.result["model"])
        self.refresh()
        if isinstance(event, Failed):
            self.panel.report(InputError(event.sentence))
        elif isinstance(event, Done) and event.result["notices"]:
            slicer.util.infoDisplay("\n\n".join(event.result["notices"]))

    # --- what is done ------------------------------------------------------------------------------------------------------------------

    def onPrepare(self) -> None:
        action = self.presenter.prepare_button.action
        with self.panel.shown(_("The volumes cannot be prepared.")):
            if action == "install":
                self.panel.install()
            elif action == "cancel":
                self.logic.preparation.cancel()
            elif action == "prepare":
                self.logic.prepare(wait=False)
                self.panel.keepPolling()

    def onLayout(self) -> None:
        with self.panel.shown(_("The layout cannot be shown.")):
            mrml.use_layout(slicer.mrmlScene, [self.logic.bench.scans.node(v) for v in self.presenter.used])
            self.logic.bench.refresh()

    # --- what is shown -----------------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show what the presenter says."""
        self.listDevices()
        button = self.presenter.prepare_button
        self.ui.prepareButton.setText(button.text)
        self.ui.prepareButton.setEnabled(button.enabled)
        self.ui.layoutButton.setEnabled(bool(self.presenter.used))
        importing = _("Importing {file}...").format(file=self._importing) if self._importing else ""
        enable(self.ui.importModelButton, Gate(False, importing) if importing else self.presenter.can_import)
        self.ui.modelDetailsLabel.setText(importing or self._details)
        template = self.presenter.template
        if template is not None:
            with silenced(self.ui.templateSelector):
                self.ui.templateSelector.setCurrentNode(slicer.mrmlScene.GetNodeByID(template))
        self._rows = ([] if template is None else [template]) + list(self.presenter.candidates)
        table = self.ui.volumeTable
        with silenced(table):
            resize(table, [_("Volume"), _("State")], [_("template") if v == template else _("target") for v in self._rows])
            for row, volume in enumerate(self._rows):
                status = self.presenter.readiness.status(volume)
                checked = None if volume == template else volume in self.presenter.targets
                put(table, row, 0, self.presenter.volumes[volume], checked=checked)
                hint = "\n".join(filter(None, (status.reason or status.step, self.presenter.readiness.taken(volume))))
                put(table, row, 1, status.text, status.state, hint)
            table.horizontalHeader().setStretchLastSection(True)
            table.resizeColumnToContents(0)
