"""Section "Landmarks"."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from UniversalAnatomicalEmbeddingLib import mrml
from UniversalAnatomicalEmbeddingLib.workbench import EXPORTS

from .tables import enable, put, resize, silenced


class LandmarkSection:
    """Placing, matching and reviewing landmarks."""

    def __init__(self, ui: Any, panel: Any) -> None:
        self.ui, self.panel = ui, panel
        self.logic, self.presenter, self.bench = panel.logic, panel.logic.presenter, panel.logic.bench
        self._columns: list[str] = []
        self._overlay: tuple[int, str, Any] | None = None
        self._overlayAt = 0
        self._overlayTargets: list[str] = []
        ui.listSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onList)
        ui.newListButton.connect("clicked()", lambda: self._do(lambda: self.bench.lists.new(_("Landmarks"))))
        ui.loadListButton.connect("clicked()", self.onLoad)
        ui.placeButton.connect("toggled(bool)", self.onPlace)
        ui.matchAllButton.connect("clicked()", lambda: self._do(self.logic.matchAll))
        ui.landmarkTable.connect("cellClicked(int,int)", self.onCell)
        ui.previousButton.connect("clicked()", lambda: self.onStep(-1))
        ui.nextButton.connect("clicked()", lambda: self.onStep(1))
        ui.acceptButton.connect("clicked()", self.onAccept)
        ui.rejectButton.connect("clicked()", self.onReject)
        ui.correctButton.connect("clicked()", self.onCorrect)
        ui.deleteButton.connect("clicked()", self.onDelete)
        ui.undoButton.connect("clicked()", self.onUndo)
        ui.redoButton.connect("clicked()", self.onRedo)
        menu = qt.QMenu(ui.exportButton)
        for extension in EXPORTS:
            menu.addAction(extension).connect("triggered()", lambda extension=extension: self.onExport(extension))
        ui.exportButton.setMenu(menu)
        ui.liveCursorCheckBox.connect("toggled(bool)", self.onLiveCursor)
        ui.overlayCheckBox.connect("toggled(bool)", lambda on: self._do(self.refreshOverlay))
        ui.overlaySelector.connect("currentIndexChanged(int)", self.onOverlayTarget)
        self.keys = {
            "A": self.onAccept,
            "R": self.onReject,
            "C": self.onCorrect,
            "N": lambda: self.onStep(1),
            "P": lambda: self.onStep(-1),
            "Del": self.onDelete,
            "Ctrl+Z": self.onUndo,
            "Ctrl+Y": self.onRedo,
        }

    def _do(self, job: Any) -> None:
        with self.panel.shown(_("This could not be done.")):
            job()

    # --- lists -------------------------------------------------------------------------------------------------------------------------

    def onList(self, node: Any) -> None:
        if node is not self.bench.lists.template:
            self._do(lambda: self.bench.lists.use(node))
            self._do(self.bench.match)
            self.refresh()

    def onLoad(self) -> None:
        path = qt.QFileDialog.getOpenFileName(None, _("Load a template list"), "", _("Landmarks") + " (*.mrk.json *.fcsv *.csv)")
        if path:
            self._do(lambda: self.bench.import_points(path))

    def onExport(self, extension: str) -> None:
        folder = qt.QFileDialog.getExistingDirectory(None, _("Export landmarks of every volume"), "")
        if folder:
            self._do(lambda: self.bench.export(folder, extension))

    def onPlace(self, on: bool) -> None:
        if on:
            self._do(lambda: mrml.start_placing(slicer.mrmlScene, self.bench.placing_list()))
        elif mrml.is_placing(slicer.mrmlScene, self.bench.lists.template):
            mrml.stop_placing(slicer.mrmlScene)

    # --- review ------------------------------------------------------------------------------------------------------------------------

    def onCell(self, row: int, column: int) -> None:
        key, volume = self.presenter.table.keys[row], self._columns[column]
        self.presenter.select(key, volume)
        self._do(lambda: self.bench.jump_to(key))

    def onStep(self, by: int) -> None:
        key = self.presenter.step(by)
        if key is not None:
            self._do(lambda: self.bench.jump_to(key))

    def onAccept(self) -> None:
        if self.presenter.can_accept.enabled:
            self._do(lambda: self.bench.accept(self.presenter.selected, self.presenter.selected_volume))

    def onReject(self) -> None:
        if self.presenter.can_reject.enabled:
            self._do(lambda: self.bench.reject(self.presenter.selected, self.presenter.selected_volume))

    def onCorrect(self) -> None:
        if self.presenter.can_correct.enabled:
            self._do(lambda: self.bench.place_match(self.presenter.selected, self.presenter.selected_volume))

    def onDelete(self) -> None:
        if self.presenter.can_delete.enabled:
            self._do(lambda: self.bench.delete(self.presenter.selected))

    def onUndo(self) -> None:
        self._do(self.bench.undo)

    def onRedo(self) -> None:
        self._do(self.bench.redo)

    # --- live --------------------------------------------------------------------------------------------------------------------------

    def onLiveCursor(self, on: bool) -> None:
        if not on:
            self.logic.cursor.hide()

    def onCrosshair(self, crosshair: Any) -> None:
        """Shift and the mouse have moved: follow once, when the events that are queued have been dealt with."""
        if self.ui.liveCursorCheckBox.isChecked() and self.logic.cursor.offer_crosshair(crosshair):
            qt.QTimer.singleShot(0, lambda: self._do(self.logic.cursor.follow))

    def onOverlayTarget(self, index: int) -> None:
        self._overlayAt = max(index, 0)
        self._do(self.refreshOverlay)

    def refreshOverlay(self) -> None:
        """Show the similarity map that is asked for now, when it is another one than before."""
        wanted = None
        if self.ui.overlayCheckBox.isChecked() and self.presenter.can_overlay.enabled and self._overlayTargets:
            volume = self._overlayTargets[self._overlayAt]
            where = self.bench.world(self.presenter.selected)
            wanted = (self.presenter.selected, volume, where) if self.presenter.readiness.status(volume).usable else None
        if wanted != self._overlay:
            self._overlay = wanted  # first, because showing it changes the scene and so comes back here
            self.logic.overlay.hide()
            if wanted is not None:
                self.logic.overlay.show(wanted[0], wanted[1])

    # --- what is shown -----------------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show what the presenter says."""
        ui, presenter = self.ui, self.presenter
        with silenced(ui.listSelector):
            ui.listSelector.setCurrentNode(self.bench.lists.template)
        self.refreshPlacing()
        enable(ui.placeButton, presenter.can_place)
        enable(ui.matchAllButton, presenter.can_match)
        enable(ui.acceptButton, presenter.can_accept)
        enable(ui.rejectButton, presenter.can_reject)
        enable(ui.correctButton, presenter.can_correct)
        enable(ui.deleteButton, presenter.can_delete)
        enable(ui.exportButton, presenter.can_export)
        enable(ui.liveCursorCheckBox, presenter.can_search)
        enable(ui.overlayCheckBox, presenter.can_overlay)
        ui.undoButton.setEnabled(presenter.history.can_undo)
        ui.redoButton.setEnabled(presenter.history.can_redo)
        self._refreshTable()
        self._refreshOverlayTargets()
        self._do(self.refreshOverlay)

    def refreshPlacing(self) -> None:
        """The button is pressed as long as clicks place landmarks, whoever started or ended that."""
        with silenced(self.ui.placeButton):
            self.ui.placeButton.setChecked(mrml.is_placing(slicer.mrmlScene, self.bench.lists.template))

    def _refreshTable(self) -> None:
        presenter, table = self.presenter, self.ui.landmarkTable
        self._columns = list(presenter.used)
        with silenced(table):
            resize(table, [presenter.volumes[v] for v in self._columns], [r.label for r in presenter.table.landmarks])
            for row, landmark in enumerate(presenter.table.landmarks):
                for column, volume in enumerate(self._columns):
                    if volume == presenter.template:
                        put(table, row, column, _("placed") if landmark.position_lps else _("not placed"))
                    else:
                        cell = landmark.cell(volume)
                        put(table, row, column, cell.text, cell.status, cell.note)
            table.resizeColumnsToContents()
            for row, landmark in enumerate(presenter.table.landmarks):
                if landmark.key == presenter.selected:
                    chosen = presenter.selected_volume
                    table.setCurrentCell(row, self._columns.index(chosen) if chosen in self._columns else 0)

    def _refreshOverlayTargets(self) -> None:
        targets = list(self.presenter.targets)
        if targets != self._overlayTargets:
            self._overlayTargets, self._overlayAt = targets, 0
            with silenced(self.ui.overlaySelector):
                self.ui.overlaySelector.clear()
                for volume in targets:
                    self.ui.overlaySelector.addItem(self.presenter.volumes[volume])
