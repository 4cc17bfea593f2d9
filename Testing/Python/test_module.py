"""The module's own classes and its real .ui file over real MRML and Qt; only the application itself is a stand-in."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import numpy as np
import pytest
import requires

requires.needs_views()

import standins  # noqa: E402
from fake_engine import SHIFT, FakeEngine  # noqa: E402
from job_client import Client  # noqa: E402
from registration_report import REPORT  # noqa: E402
from released import checkpoint, weights  # noqa: E402
from released import save as save_checkpoint  # noqa: E402
from samples import tiny_model, tissue  # noqa: E402
from scene_files import save  # noqa: E402
from stage import Stage  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.grid import Grid  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.volume import Volume  # noqa: E402
from UniversalAnatomicalEmbeddingLib.models.catalogue import catalogue  # noqa: E402
from UniversalAnatomicalEmbeddingLib.models.model import save_model  # noqa: E402
from UniversalAnatomicalEmbeddingLib.models.published import import_model  # noqa: E402
from UniversalAnatomicalEmbeddingLib.system import dependencies, language  # noqa: E402
from UniversalAnatomicalEmbeddingLib.system.errors import InputError  # noqa: E402
from UniversalAnatomicalEmbeddingLib.worker.client import Cancelled, Done, Failed, Progress, WorkerClient  # noqa: E402

MODULE = Path(__file__).resolve().parents[2] / "UniversalAnatomicalEmbedding"
UI = MODULE / "Resources" / "UI" / "UniversalAnatomicalEmbedding.ui"
RESULT = {"notice": "", "model": "fake", "fingerprint": "00", "device": "cpu"}


class FakeClient(Client):
    """A worker that does what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def restart(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def log(self) -> str:
        return "the worker's last words"


class Panel:
    """The panel of a scene with three volumes, and a worker that obeys."""

    def __init__(self, folder: Path, translate: Any = None) -> None:
        self.stage = Stage()
        self.scene = self.stage.scene
        self.qt = standins.install(self.scene, folder)
        import qt
        import slicer

        if translate:
            slicer.app.translate = translate

        import UniversalAnatomicalEmbedding as module

        self.slicer = slicer
        self.module, self.client, self.engine = module, FakeClient(), FakeEngine()
        array = np.zeros((50, 50, 50), np.int16)
        self.nodes = [mrml.volume_to_node(self.scene, Volume(array, Grid((50, 50, 50), np.diag([2.0, 2, 2, 1])), "ct", n)) for n in "ABC"]
        self.parent = qt.QWidget()
        self.parent.setLayout(qt.QVBoxLayout())
        self.widget = module.UniversalAnatomicalEmbeddingWidget(self.parent)
        with mock.patch.object(module, "WorkerClient", lambda: self.client):
            self.widget.setup()
        self.logic, self.ui, self.presenter = self.widget.logic, self.widget.ui, self.widget.logic.presenter
        self.logic.preparation._load = lambda result: (self.engine, result["volume"])
        self.widget.enter()

    def finish(self, *numbers: int) -> None:
        """The worker finishes these jobs."""
        for number in numbers:
            volume = self.client.jobs[number - 1]["volume"]
            self.client.events.append(Done(number, {**RESULT, "volume": volume}))
        self.widget.onTimer()

    def text(self, table: Any, row: int, column: int) -> str:
        return table.item(row, column).text()

    def prepared(self) -> Panel:
        self.ui.prepareButton.click()
        self.finish(1, 2, 3)
        return self


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model folder of the user."""
    monkeypatch.setenv("UAE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was shown in a window of its own."""
    import slicer

    texts: list[str] = []
    for window in ("errorDisplay", "infoDisplay"):
        monkeypatch.setattr(slicer.util, window, lambda text, **_: texts.append(text))
    return texts


@pytest.fixture
def panel(tmp_path: Path) -> Iterator[Panel]:
    made = Panel(tmp_path)
    yield made
    made.widget.cleanup()
    assert made.client.closed


# --- files ----------------------------------------------------------------------------------------------------------------------------


def sources() -> str:
    files = [MODULE / "UniversalAnatomicalEmbedding.py", *sorted((MODULE / "UniversalAnatomicalEmbeddingWidgets").glob("*.py"))]
    return "\n".join(f.read_text() for f in files)


def test_every_widget_that_the_code_names_is_in_the_ui_file_and_the_other_way_round() -> None:
    named = {w.get("name"): w.get("class") for w in ElementTree.parse(UI).iter("widget")}
    used = set(re.findall(r"\bui\.(\w+)", sources()))
    assert used - named.keys() == set(), "used, but not in the .ui file"
    passive = {"QLabel", "ctkCollapsibleButton", "qMRMLWidget"}
    assert {n for n, kind in named.items() if kind not in passive} - used == set(), "in the .ui file, but nothing happens"


def test_nothing_is_read_in_a_way_that_pythonqt_cannot() -> None:
    """In PythonQt a Qt property is no method: label.text() fails there, although it works in PySide."""
    code = re.sub(r'"[^"\n]*"', '""', sources())
    assert re.findall(r"\.ui\.\w+\.(?:text|currentIndex|currentText|value|checkState|toolTip|isEnabled)\(\)", code) == []


def test_the_module_file_is_short() -> None:
    assert len((MODULE / "UniversalAnatomicalEmbedding.py").read_text().splitlines()) < 400


# --- setting up -----------------------------------------------------------------------------------------------------------------------


def test_the_panel_says_where_it_stands_and_lists_what_there_is(panel: Panel) -> None:
    ui = panel.ui
    assert ui.nextStepLabel.text().startswith("Press Prepare")
    assert ui.prepareButton.text() == "Prepare 3 volumes" and ui.prepareButton.isEnabled()
    assert [panel.text(ui.volumeTable, r, 0) for r in range(3)] == ["A", "B", "C"]
    assert ui.templateSelector.currentNode() is panel.nodes[0]
    assert "MB" in ui.modelSelector.itemText(0) and "CT" in ui.modelSelector.itemText(0) and "licence" in ui.modelDetailsLabel.text()
    assert ui.deviceSelector.itemText(0) == "Automatic" and ui.torchLabel.text().startswith("torch ")
    assert not ui.acceptButton.isEnabled() and "Select a match" in ui.acceptButton.toolTip()
    parent = SimpleNamespace(path=str(MODULE / "UniversalAnatomicalEmbedding.py"))
    panel.module.UniversalAnatomicalEmbedding(parent)
    assert parent.title == "Universal Anatomical Embedding" and parent.contributors and parent.helpText and parent.acknowledgementText


def test_the_sample_data_are_two_patients_with_checksums(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[dict[str, Any]] = []
    logic = SimpleNamespace(registerCustomSampleDataSource=lambda **given: offered.append(given))
    monkeypatch.setitem(sys.modules, "SampleData", SimpleNamespace(SampleDataLogic=logic))
    connected: dict[str, Any] = {}
    monkeypatch.setattr(panel.slicer.app, "connect", lambda signal, called: connected.update({signal: called}))
    panel.module.UniversalAnatomicalEmbedding(SimpleNamespace(path=str(MODULE / "UniversalAnatomicalEmbedding.py")))
    connected["startupCompleted()"]()
    (sample,) = offered
    sums = [re.fullmatch(r"SHA256:([0-9a-f]{64})", checksum)[1] for checksum in sample["checksums"]]  # type: ignore[index]
    assert [uri.rpartition("/")[2] for uri in sample["uris"]] == sums and len(set(sums)) == 2
    assert len(sample["fileNames"]) == len(sample["nodeNames"]) == 2 and Path(sample["thumbnailFileName"]).is_file()


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything of the package is loaded anew, where neither torch, safetensors, scipy nor platformdirs can be."""

    def taken() -> dict[str, Any]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("UniversalAnatomicalEmbedding")}

    for name in ("torch", "safetensors", "scipy", "platformdirs"):
        monkeypatch.setitem(sys.modules, name, None)
    before = taken()
    yield
    taken()
    sys.modules.update(before)


def test_the_panel_opens_without_torch_and_the_button_installs(
    without_torch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from UniversalAnatomicalEmbeddingLib.system import dependencies

    torch = dependencies.Problem(dependencies.REQUIREMENTS[0], None)
    problems = [torch]
    monkeypatch.setattr(dependencies, "find_problems", lambda *_: list(problems))
    panel = Panel(tmp_path)
    ui = panel.ui
    assert ui.prepareButton.text() == "Install what is missing..." and "torch 2.4 or newer (missing)" in ui.nextStepLabel.text()
    assert not ui.importModelButton.isEnabled() and "torch 2.4" in ui.importModelButton.toolTip()
    assert ui.modelSelector.count() >= 1 and "licence" in ui.modelDetailsLabel.text()
    ui.diagnosticsButton.setCollapsed(False)
    assert "torch" in ui.diagnosticsText.toPlainText()
    panel.logic.place("carina", [-20.0, -30.0, 40.0])
    assert panel.text(ui.landmarkTable, 0, 1) == "waiting", "landmarks can be placed meanwhile"
    asked, installed = [], []
    monkeypatch.setattr(panel.slicer.util, "confirmOkCancelDisplay", lambda text, **_: asked.append(text) or len(asked) > 1)
    monkeypatch.setattr(dependencies, "install", lambda found, installer: (installed.extend(found), problems.clear()))
    ui.prepareButton.click()
    assert installed == [] and ui.prepareButton.text() == "Install what is missing...", "the answer was no"
    ui.prepareButton.click()
    assert installed == [torch] and ui.prepareButton.text() == "Prepare 3 volumes" and ui.importModelButton.isEnabled()
    assert len(asked) == 2 and all("torch 2.4" in text for text in asked)
    panel.widget.cleanup()


# --- preparing ------------------------------------------------------------------------------------------------------------------------


def test_preparing_shows_progress_and_ends_ready(panel: Panel) -> None:
    panel.ui.prepareButton.click()
    assert [j["job"] for j in panel.client.jobs] == ["embed"] * 3 and panel.ui.prepareButton.text() == "Cancel"
    assert [j["volume"].name for j in panel.client.jobs] == ["A", "B", "C"] and panel.widget.timer.isActive()
    panel.client.events = [Progress(1, 0.25, "descriptors", 30.0)]
    panel.widget.onTimer()
    assert panel.text(panel.ui.volumeTable, 0, 1) == "preparing 25%, 30 s left"
    panel.finish(1)
    assert panel.text(panel.ui.volumeTable, 0, 1) == "ready"
    panel.client.events = [Failed(2, "It is a projection image.")]
    panel.finish(3)
    assert panel.text(panel.ui.volumeTable, 1, 1) == "failed: It is a projection image."
    assert panel.ui.prepareButton.text() == "Prepare 1 volume" and not panel.widget.timer.isActive()


def test_cancelling(panel: Panel) -> None:
    panel.ui.prepareButton.click()
    panel.finish(1)
    panel.ui.prepareButton.click()
    assert panel.client.cancelled == [2, 3] and panel.ui.prepareButton.text() == "Cancelling..." and not panel.ui.prepareButton.isEnabled()
    panel.client.events = [Cancelled(2), Cancelled(3)]
    panel.widget.onTimer()
    assert [panel.text(panel.ui.volumeTable, r, 1) for r in range(3)] == ["ready", "not prepared", "not prepared"]
    assert panel.ui.prepareButton.text() == "Prepare 2 volumes"


def test_a_volume_deleted_while_it_is_prepared(panel: Panel) -> None:
    panel.ui.prepareButton.click()
    panel.scene.RemoveNode(panel.nodes[1])
    panel.client.events = [Progress(2, 0.5, "tiles", None)]
    panel.widget.onTimer()
    assert panel.client.cancelled == [2]
    panel.client.events = [Cancelled(2)]
    panel.finish(1, 3)
    assert [panel.text(panel.ui.volumeTable, r, 0) for r in range(2)] == ["A", "C"]
    assert panel.ui.prepareButton.text() == "All volumes are prepared"


def test_unticking_a_target(panel: Panel) -> None:
    from PySide6.QtCore import Qt

    panel.ui.volumeTable.item(2, 0).setCheckState(Qt.Unchecked)
    assert panel.presenter.targets == (panel.nodes[1].GetID(),) and panel.ui.prepareButton.text() == "Prepare 2 volumes"


def test_choosing_another_model_or_template(panel: Panel) -> None:
    panel.prepared()
    panel.ui.templateSelector.setCurrentNode(panel.nodes[2])
    assert panel.presenter.template == panel.nodes[2].GetID() and panel.text(panel.ui.volumeTable, 0, 0) == "C"
    panel.logic.model = "another"
    panel.logic.forgetOtherModels()
    assert panel.ui.prepareButton.text() == "Prepare 3 volumes"


def choose(monkeypatch: pytest.MonkeyPatch, path: Path) -> list[str]:
    """The person chooses this file; returns the filters that the dialog offered."""
    import qt

    offered: list[str] = []
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", staticmethod(lambda *given: (offered.append(given[3]), str(path))[1]))
    return offered


def chosen_model(panel: Panel) -> str:
    return panel.ui.modelSelector.itemText(panel.ui.modelSelector.currentIndex())


def test_importing_a_weights_file(panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    """The worker does it; what it entered in the catalogue is listed and chosen, and its notices are shown."""
    ui, path = panel.prepared().ui, tmp_path / "Meine Gewichte.pth"
    offered = choose(monkeypatch, path)
    ui.importModelButton.click()
    assert {"*.pth", "*.pt", "*.safetensors"} <= set(re.findall(r"\*\.\w+", offered[0]))
    assert panel.client.jobs[-1] == {"job": "import", "path": str(path)} and panel.widget.timer.isActive()
    panel.client.events = [Progress(4, 0.0, "reading", None)]
    panel.widget.onTimer()
    assert not ui.importModelButton.isEnabled() and ui.modelDetailsLabel.text() == "Importing Meine Gewichte.pth..."
    assert ui.prepareButton.text() == "All volumes are prepared", "the rest of the panel stays alive"
    save_model(tiny_model(), tmp_path / "tiny.safetensors")
    import_model(tmp_path / "tiny.safetensors")  # as the worker does
    panel.client.events = [Done(4, {"model": "tiny", "notices": ["Unverified: it is not known.", "Taken for sam."]})]
    panel.widget.onTimer()
    assert panel.logic.model == "tiny" and chosen_model(panel).startswith("Tiny") and "tiny" in ui.modelDetailsLabel.text()
    assert ui.importModelButton.isEnabled() and said == ["Unverified: it is not known.\n\nTaken for sam."]
    assert ui.prepareButton.text() == "Prepare 3 volumes", "what another model made does not count"
    ui.prepareButton.click()
    assert panel.client.jobs[-1]["model"] == "tiny"


def test_a_weights_file_that_cannot_be_used(panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    before = panel.logic.model, chosen_model(panel), panel.ui.modelDetailsLabel.text()
    choose(monkeypatch, tmp_path / "bad.pth")
    panel.ui.importModelButton.click()
    panel.client.events = [Failed(1, "bad.pth is damaged. Download it again.")]
    panel.widget.onTimer()
    assert said == ["bad.pth is damaged. Download it again."] and panel.ui.importModelButton.isEnabled()
    assert (panel.logic.model, chosen_model(panel), panel.ui.modelDetailsLabel.text()) == before
    choose(monkeypatch, Path())
    monkeypatch.setattr(panel.module.qt.QFileDialog, "getOpenFileName", staticmethod(lambda *_: ""))
    panel.ui.importModelButton.click()
    assert len(panel.client.jobs) == 1, "the dialog was closed without a choice"


def test_a_damaged_list_of_own_models_is_told_and_the_panel_opens(tmp_path: Path, models: Path, said: list[str]) -> None:
    models.mkdir()
    (models / "catalogue.json").write_text("{}")
    panel = Panel(tmp_path)
    assert "catalogue.json cannot be read" in said[0] and panel.ui.modelSelector.count() >= 1 and panel.ui.prepareButton.isEnabled()
    panel.widget.cleanup()


def test_model_and_device_are_remembered(panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tiny_model(), tmp_path / "tiny.safetensors")
    import_model(tmp_path / "tiny.safetensors")
    panel.widget.volumes.fillModels()
    panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.count() - 1)
    panel.ui.deviceSelector.setCurrentIndex(1)
    assert (panel.logic.model, panel.logic.device) == ("tiny", "cpu")
    again = Panel(tmp_path)
    assert (again.logic.model, again.logic.device) == ("tiny", "cpu") and chosen_model(again).startswith("Tiny")
    again.widget.cleanup()


def test_devices_are_listed_once_torch_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from UniversalAnatomicalEmbeddingLib.system import diagnostics

    monkeypatch.setattr(diagnostics, "devices", lambda: ["cpu", "cuda:0", "cuda:1"])
    torch = sys.modules.pop("torch")
    try:
        panel = Panel(tmp_path)
        assert panel.ui.deviceSelector.count() == 2, "automatic and CPU; torch is not loaded for a list"
    finally:
        sys.modules["torch"] = torch
    panel.widget.refresh()
    assert [panel.ui.deviceSelector.itemText(i) for i in range(4)] == ["Automatic", "CPU", "cuda:0: not tested", "cuda:1: not tested"]
    panel.ui.deviceSelector.setCurrentIndex(3)
    panel.ui.prepareButton.click()
    assert {j["device"] for j in panel.client.jobs} == {"cuda:1"}
    panel.widget.cleanup()


# --- landmarks ------------------------------------------------------------------------------------------------------------------------


def test_place_review_undo_by_buttons_and_keys(panel: Panel) -> None:
    ui = panel.prepared().ui
    panel.logic.place("carina", [-20.0, -30.0, 40.0])
    panel.logic.place("hilum", [-25.0, -30.0, 40.0])
    table = ui.landmarkTable
    assert [table.verticalHeaderItem(r).text() for r in range(2)] == ["carina", "hilum"]
    assert [table.horizontalHeaderItem(c).text() for c in range(3)] == ["A", "B", "C"]
    assert panel.text(table, 0, 1) == "found"
    table.cellClicked.emit(0, 1)
    assert ui.acceptButton.isEnabled() and panel.presenter.selected_volume == panel.nodes[1].GetID()
    keys = {s.key().toString(): s for s in panel.widget._shortcuts}
    assert set(keys) == {"A", "R", "C", "N", "P", "Del", "Ctrl+Z", "Ctrl+Y"}
    keys["A"].activated.emit()
    assert panel.text(table, 0, 1) == "accepted" and not ui.acceptButton.isEnabled()
    keys["C"].activated.emit()
    interaction = panel.stage.interaction
    assert interaction.GetCurrentInteractionMode() == interaction.Place and not ui.placeButton.isChecked(), (
        "of the match, not of the template"
    )
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    keys["N"].activated.emit()
    keys["R"].activated.emit()
    assert panel.text(table, 1, 1) == "rejected"
    ui.undoButton.click()
    assert panel.text(table, 1, 1) == "found"
    keys["Ctrl+Y"].activated.emit()
    assert panel.text(table, 1, 1) == "rejected"
    keys["P"].activated.emit()
    keys["Del"].activated.emit()
    assert table.rowCount() == 1 and table.verticalHeaderItem(0).text() == "hilum"
    for _ in range(6):
        keys["Ctrl+Z"].activated.emit()
    assert table.rowCount() == 0 and not ui.undoButton.isEnabled()
    panel.widget.exit()
    assert panel.widget._shortcuts == []


def test_every_review_button_does_what_it_says(panel: Panel) -> None:
    ui = panel.prepared().ui
    for n, label in enumerate(("one", "two")):
        panel.logic.place(label, [-20.0 - n, -30.0, 40.0])
    ui.landmarkTable.cellClicked.emit(0, 1)
    ui.acceptButton.click()
    assert panel.text(ui.landmarkTable, 0, 1) == "accepted"
    ui.nextButton.click()
    assert panel.presenter.selected == panel.presenter.table.keys[1]
    ui.rejectButton.click()
    assert panel.text(ui.landmarkTable, 1, 1) == "rejected"
    ui.previousButton.click()
    assert panel.presenter.selected == panel.presenter.table.keys[0]
    ui.undoButton.click()
    assert panel.text(ui.landmarkTable, 1, 1) == "found"
    ui.redoButton.click()
    assert panel.text(ui.landmarkTable, 1, 1) == "rejected"
    ui.correctButton.click()
    interaction, selection = panel.stage.interaction, panel.scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    assert selection.GetActivePlaceNodeID() == panel.logic.bench.lists.matches[panel.nodes[1].GetID()].GetID()
    ui.deleteButton.click()
    assert ui.landmarkTable.rowCount() == 1 and ui.landmarkTable.verticalHeaderItem(0).text() == "two"


def test_cells_say_by_their_colour_what_was_found(panel: Panel) -> None:
    panel.engine.absent, panel.engine.unsure = (lambda p: p[0] > 50), (lambda p: p[0] > 30)
    panel.prepared()
    for x in (20.0, 40.0, 60.0):
        panel.logic.place(str(x), [-x, -30.0, 40.0])
    colours = [panel.ui.landmarkTable.item(row, 1).background().color() for row in range(3)]
    texts = [panel.text(panel.ui.landmarkTable, row, 1) for row in range(3)]
    assert texts == ["found", "0.30 uncertain", "absent"]
    green, amber, grey = [(c.red(), c.green(), c.blue()) for c in colours]
    assert green[1] > max(green[0], green[2]) + 50 and amber[0] > amber[1] > amber[2] + 100 and len(set(grey)) == 1


def test_a_cell_leads_all_views_to_its_landmark(panel: Panel) -> None:
    for name, node in zip("ABC", panel.nodes, strict=True):
        panel.stage.view(name, node, "Axial")
    panel.prepared()
    for x in (-20.0, -24.0):
        panel.logic.place(str(x), [x, -30.0, 40.0])
    panel.ui.landmarkTable.cellClicked.emit(0, 2)
    where = [[panel.stage.node(n).GetSliceToRAS().GetElement(i, 3) for i in range(3)] for n in "ABC"]
    found = np.array([-20.0, -30.0, 40.0]) + SHIFT * [-1, -1, 1]
    assert np.allclose(where, [[-20.0, -30.0, 40.0], found, found])


def test_the_button_and_a_click_in_a_real_view(panel: Panel) -> None:
    """From the pressed button to the row of the table and the match in the other volume's list, in world RAS."""
    for name, node in zip("AB", panel.nodes[:2], strict=True):
        panel.stage.view(name, node, "Axial", 100 + ord(name))
    panel.prepared()
    before = [panel.stage.node("A").GetSliceToRAS().GetElement(i, 3) for i in range(3)]
    panel.ui.placeButton.click()
    clicked = panel.stage.ras("A", (150, 140))
    panel.stage.click("A", (150, 140))
    assert panel.ui.placeButton.isChecked(), "more landmarks can follow"
    assert panel.text(panel.ui.landmarkTable, 0, 0) == "placed" and panel.text(panel.ui.landmarkTable, 0, 1) == "found"
    match = [0.0] * 3
    panel.logic.bench.lists.matches[panel.nodes[1].GetID()].GetNthControlPointPositionWorld(0, match)
    assert np.allclose(match, clicked + SHIFT * [-1, -1, 1], atol=1e-6)
    assert np.allclose([panel.stage.node("B").GetSliceToRAS().GetElement(i, 3) for i in range(3)], match)
    assert [panel.stage.node("A").GetSliceToRAS().GetElement(i, 3) for i in range(3)] == before, "the clicked view stays"


def test_the_layout_button_gives_every_volume_its_row(panel: Panel) -> None:
    from UniversalAnatomicalEmbeddingLib.mrml import views

    layout = panel.scene.GetFirstNodeByClass("vtkMRMLLayoutNode") or panel.scene.AddNewNodeByClass("vtkMRMLLayoutNode", "layout")
    tags = [(row, views.view_tag(row, orientation)) for row in range(3) for orientation in views.ORIENTATIONS]
    for _row, tag in tags:  # which the application makes
        panel.stage.view(tag, None)
    panel.ui.layoutButton.click()
    assert layout.GetViewArrangement() == views.LAYOUT_ID
    assert [panel.stage.views[tag].get_background_volume_id() for _row, tag in tags] == [panel.nodes[row].GetID() for row, _tag in tags]
    assert len({panel.stage.node(tag).GetViewGroup() for _row, tag in tags}) == 3


def test_the_place_button_follows_place_mode(panel: Panel) -> None:
    ui, interaction = panel.ui, panel.stage.interaction
    ui.placeButton.click()
    assert interaction.GetCurrentInteractionMode() == interaction.Place and ui.placeButton.isChecked()
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    assert not ui.placeButton.isChecked(), "ended by the right mouse button"
    ui.placeButton.click()
    ui.placeButton.click()
    assert interaction.GetCurrentInteractionMode() != interaction.Place


def test_lists_files_match_all_and_export(panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import qt

    (tmp_path / "t.csv").write_text("label,x,y,z\none,20,30,40\ntwo,25,30,40\n")
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", staticmethod(lambda *_: str(tmp_path / "t.csv")))
    panel.ui.loadListButton.click()
    assert panel.ui.landmarkTable.rowCount() == 2 and not panel.ui.matchAllButton.isEnabled()
    panel.prepared()
    assert panel.text(panel.ui.landmarkTable, 1, 2) == "found", "what waited was matched"
    panel.engine.unsure = lambda p: True
    panel.ui.matchAllButton.click()
    assert panel.text(panel.ui.landmarkTable, 1, 2) == "0.30 uncertain"
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", staticmethod(lambda *_: str(tmp_path)))
    (tmp_path / "t.csv").unlink()
    actions = {a.text(): a for a in panel.ui.exportButton.menu().actions()}
    for extension in (".mrk.json", ".csv", ".fcsv"):
        actions[extension].triggered.emit()
        assert {p.name for p in tmp_path.glob(f"*{extension}")} == {f"t{n}{extension}" for n in ("", "_in_B", "_in_C")}
    panel.ui.newListButton.click()
    assert panel.ui.landmarkTable.rowCount() == 0
    panel.ui.listSelector.setCurrentNode(panel.scene.GetFirstNodeByName("t"))
    assert panel.ui.landmarkTable.rowCount() == 2 and panel.text(panel.ui.landmarkTable, 1, 2) == "0.30 uncertain"


def test_overlay_and_live_cursor_switches(panel: Panel) -> None:
    panel.prepared()
    panel.logic.place("carina", [-20.0, -30.0, 40.0])
    panel.ui.overlayCheckBox.click()
    node = panel.logic.overlay.node
    assert node is not None and panel.ui.overlaySelector.count() == 2
    panel.ui.overlaySelector.setCurrentIndex(1)
    assert panel.logic.overlay.node is not node and not panel.scene.IsNodePresent(node)
    panel.ui.overlayCheckBox.click()
    assert panel.logic.overlay.node is None
    panel.stage.view("A1", panel.nodes[0], "Axial", 100)
    panel.stage.view("B1", panel.nodes[1], "Axial", 101)
    panel.ui.liveCursorCheckBox.click()
    panel.stage.shift_move("A1", (150, 150))
    panel.stage.shift_move("A1", (160, 150))
    panel.engine.calls.clear()
    deadline = time.monotonic() + 2
    while not panel.engine.calls and time.monotonic() < deadline:
        panel.qt.processEvents()
    assert panel.engine.calls == [1, 1], "one question per target for two moves"
    panel.ui.liveCursorCheckBox.click()
    assert panel.scene.GetFirstNodeByName("Live cursor") is None


def test_errors_are_shown_not_raised(panel: Panel, said: list[str]) -> None:
    panel.widget.report(InputError("Place it inside the scan."))
    panel.widget.report(ZeroDivisionError("a defect"))
    assert said == ["Place it inside the scan.", "This could not be done.\n\na defect"]


def test_diagnostics(panel: Panel) -> None:
    panel.ui.diagnosticsButton.setCollapsed(False)
    text = panel.ui.diagnosticsText.toPlainText()
    assert "torch" in text and "cache" in text and "the worker's last words" in text
    panel.ui.probeButton.click()
    assert panel.client.jobs[-1] == {"job": "probe"}
    gpu = {"device": "cuda:0", "title": "A GPU", "ok": True, "seconds": 0.1, "memory_bytes": 0, "free_bytes": 0, "note": ""}
    panel.client.events = [
        Done(1, {"versions": {"torch": "2"}, "devices": [gpu, {**gpu, "device": "cuda:1", "ok": False, "note": "no kernel"}]})
    ]
    panel.widget.onTimer()
    assert "does not work: no kernel" in panel.ui.diagnosticsText.toPlainText()
    assert [panel.ui.deviceSelector.itemText(i) for i in range(3)] == ["Automatic", "CPU", "cuda:0: A GPU"]
    panel.ui.copyReportButton.click()
    assert "no kernel" in panel.qt.clipboard().text()


# --- registration ---------------------------------------------------------------------------------------------------------------------


def answer(panel: Panel, shift: tuple[float, float, float]) -> None:
    """The worker finishes the registration that was asked for last."""
    from UniversalAnatomicalEmbeddingLib.registration import Transform, write_transform

    matrix = np.eye(4)
    matrix[:3, 3] = shift
    write_transform(Transform(matrix), panel.client.jobs[-1]["out"])
    panel.client.events = [Done(len(panel.client.jobs), {"report": {**REPORT, "stage": "affine"}, "notice": "", "transform": ""})]


def test_the_registration_section(panel: Panel) -> None:
    ui, (a, b, _) = panel.prepared().ui, panel.nodes
    for n in range(4):
        panel.logic.place(f"p{n}", [-20.0 - n, -30.0, 40.0])
        panel.logic.accept(f"p{n}", b)
    assert ui.registerButton.text() == "Select a fixed and a moving volume" and not ui.registerButton.isEnabled()
    ui.fixedSelector.setCurrentNode(a)
    ui.movingSelector.setCurrentNode(a)
    assert ui.registerButton.text() == "Fixed and moving volume must not be the same"
    ui.movingSelector.setCurrentNode(b)
    assert ui.registerButton.isEnabled() and ui.treTable.rowCount() == 4
    ui.stageSelector.setCurrentIndex(0)
    ui.sourceSelector.setCurrentIndex(1)
    ui.refineCheckBox.click()
    ui.registerButton.click()
    job = panel.client.jobs[-1]
    assert (job["options"]["stage"], job["options"]["refine"], len(job["landmarks"][0])) == ("rigid", True, 4)
    assert ui.registerButton.text() == "Cancel" and panel.widget.timer.isActive()
    answer(panel, tuple(SHIFT))
    panel.widget.onTimer()
    sentence = "Affine from embeddings: expected error 1.2 mm, 40 of 50 pairs agree to 2.0 mm."
    assert ui.registrationLabel.text() == sentence and b.GetTransformNodeID()
    distance = f"{np.linalg.norm(SHIFT):.1f}"
    assert (panel.text(ui.treTable, 0, 0), panel.text(ui.treTable, 0, 1)) == (distance, "0.0")
    view = panel.stage.view("A1", a, "Axial", 100)
    for index, opacity in ((1, 0.5), (2, 1.0), (3, 1.0)):
        ui.previewSelector.setCurrentIndex(index)
        assert view.get_foreground_volume_id() and view.get_foreground_opacity() == pytest.approx(opacity)
    ui.previewSelector.setCurrentIndex(1)
    ui.fadeSlider.setValue(20)
    assert view.get_foreground_opacity() == pytest.approx(0.2)
    ui.undoRegistrationButton.click()
    assert b.GetTransformNodeID() is None and not ui.undoRegistrationButton.isEnabled()


def test_registering_from_the_console(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, _ = panel.nodes
    submit = panel.client.submit
    monkeypatch.setattr(panel.client, "submit", lambda job: (submit(job), answer(panel, (1.0, 2.0, 3.0)))[0])
    node = panel.logic.register(a, b, stage="rigid")
    assert b.GetTransformNodeID() == node.GetID()
    monkeypatch.setattr(panel.client, "submit", lambda job: (submit(job), panel.client.events.append(Failed(2, "No common anatomy.")))[0])
    with pytest.raises(InputError, match="No common anatomy"):
        panel.logic.register(a, panel.nodes[2])


# --- language -------------------------------------------------------------------------------------------------------------------------


def full_width(context: str, text: str) -> str:
    """A made-up language that can be told from English letter by letter; placeholders stay."""
    return re.sub(r"{\w+}|[A-Za-z]", lambda m: m[0] if m[0].startswith("{") else chr(ord(m[0]) + 0xFEE0), text)


def english_texts(panel: Panel) -> list[str]:
    """What the panel shows in English letters, besides the texts of its .ui file (Qt translates these) and what is no text: names, versions."""
    import qt

    fixed = {node.text for node in ElementTree.parse(UI).iter("string")}
    names = {"ABC", "Landmarks", *"ABC"}
    ui, texts = panel.ui, []
    for widget in panel.parent.findChildren(qt.QWidget):
        texts += [str(widget.property(p) or "") for p in ("text", "toolTip")]
    for table in (ui.volumeTable, ui.landmarkTable, ui.treTable):
        rows, columns = range(table.rowCount()), range(table.columnCount())
        items = [table.item(r, c) for r in rows for c in columns] + [table.horizontalHeaderItem(c) for c in columns]
        items += [table.verticalHeaderItem(r) for r in rows] if table is ui.volumeTable else []
        texts += [t for item in items if item for t in (item.text(), item.toolTip())]
    texts += [ui.deviceSelector.itemText(i) for i in range(ui.deviceSelector.count())]
    lines = [line for text in texts for line in text.split("\n") if line not in fixed | names]
    neutral = (ui.torchLabel.text(), ui.modelDetailsLabel.text())
    return [line for line in lines if re.search("[A-Za-z]{2,}", line) and line not in neutral]


def test_everything_that_the_panel_says_goes_through_the_translation(tmp_path: Path) -> None:
    panel = Panel(tmp_path, full_width)
    ui, (a, b, _) = panel.ui, panel.nodes
    assert english_texts(panel) == []
    assert not re.search("licence|regions", ui.modelDetailsLabel.text())
    problem = dependencies.Problem(dependencies.Requirement("", "2.4", "pip"), None)
    with mock.patch.object(dependencies, "find_problems", lambda *_: [problem]):
        panel.widget.checkDependencies()
        assert "2.4" in ui.nextStepLabel.text() and english_texts(panel) == []
    panel.widget.checkDependencies()
    ui.prepareButton.click()
    panel.client.events = [Progress(1, 0.25, "", 30.0), Progress(2, 0.25, "", None)]
    panel.widget.onTimer()
    assert english_texts(panel) == []
    ui.prepareButton.click()
    assert english_texts(panel) == [], "cancelling"
    panel.client.events = [Cancelled(1), Failed(2, "17"), Cancelled(3)]
    panel.widget.onTimer()
    assert english_texts(panel) == []
    ui.prepareButton.click()
    panel.finish(4, 5, 6)
    assert english_texts(panel) == []
    panel.engine.absent, panel.engine.unsure = (lambda p: p[0] > 50), (lambda p: p[0] > 30)
    for x in (20.0, 40.0, 60.0):
        panel.logic.place(f"{x}", [-x, -30.0, 40.0])
        assert english_texts(panel) == []
    panel.logic.accept("20.0", b)
    panel.logic.reject("40.0", b)
    ui.landmarkTable.cellClicked.emit(0, 1)
    assert english_texts(panel) == []
    ui.fixedSelector.setCurrentNode(a)
    assert english_texts(panel) == []
    ui.movingSelector.setCurrentNode(b)
    ui.registerButton.click()
    panel.client.events = [Progress(7, 0.5, "", 100.0)]
    panel.widget.onTimer()
    assert english_texts(panel) == []
    answer(panel, (1.0, 2.0, 3.0))
    panel.widget.onTimer()
    assert "40" in ui.registrationLabel.text() and english_texts(panel) == []
    assert panel.presenter.readiness.status(b.GetID()).state == "stale"
    ui.undoRegistrationButton.click()
    assert english_texts(panel) == []
    panel.scene.Clear(False)
    assert english_texts(panel) == []
    with pytest.raises(InputError) as error:
        panel.logic.accept("20.0", b)
    assert not re.search("[a-z]", str(error.value))
    panel.widget.cleanup()
    language.use_language(language.english)


# --- console, scenes ------------------------------------------------------------------------------------------------------------------


def test_the_python_console(panel: Panel, tmp_path: Path) -> None:
    logic, (a, b, c) = panel.logic, panel.nodes
    with pytest.raises(InputError, match="Place a landmark"):
        logic.matchAll()
    logic.prepare(wait=False)
    panel.finish(1, 2, 3)
    assert logic.prepare() == {"A": "ready", "B": "ready", "C": "ready"}
    where, confidence, status = logic.match([-20.0, -30.0, 40.0], b)
    assert np.allclose(where, np.array([20, 30, 40] + SHIFT) * [-1, -1, 1]) and confidence is None and status == "found"
    logic.place("carina", [-20.0, -30.0, 40.0])
    assert logic.matchAll() == 2
    logic.accept("carina", b)
    logic.reject("carina", c)
    cells = [logic.presenter.table.landmarks[0].cell(n.GetID()).status for n in (b, c)]
    assert cells == ["accepted", "rejected"]
    assert [p.name for p in logic.export(tmp_path, ".csv")] == ["Landmarks.csv", "Landmarks_in_B.csv", "Landmarks_in_C.csv"]
    with pytest.raises(InputError, match="0 landmarks are called 'nose'"):
        logic.accept("nose", b)
    logic.setTemplate(b)
    assert logic.presenter.template == b.GetID() and a.GetID() in logic.presenter.targets


def test_the_parameter_node_brings_template_and_list_back(panel: Panel) -> None:
    panel.prepared()
    panel.logic.setTemplate(panel.nodes[1])
    panel.logic.place("carina", [-20.0, -30.0, 40.0])
    kept = panel.logic.getParameterNode()
    assert kept.templateVolume is panel.nodes[1] and kept.templateList is panel.logic.bench.lists.template
    panel.logic.bench.lists.use(None)
    kept = panel.logic.getParameterNode()
    kept.templateVolume, kept.templateList = panel.nodes[1], panel.scene.GetFirstNodeByName("Landmarks")
    panel.widget.restore()
    assert panel.ui.landmarkTable.rowCount() == 1 and panel.ui.templateSelector.currentNode() is panel.nodes[1]


def test_a_loaded_scene_is_taken_up_as_it_was_left(panel: Panel, tmp_path: Path) -> None:
    """Two lists of two templates: the parameter node knows which was in use, and what was chosen for registration."""
    panel.prepared()
    panel.logic.place("in A", [-20.0, -30.0, 40.0])
    panel.logic.setTemplate(panel.nodes[1])
    panel.logic.place("in B", [-20.0, -30.0, 40.0])
    panel.ui.fixedSelector.setCurrentNode(panel.nodes[2])
    save(panel.scene, tmp_path)
    panel.scene.Clear(False)
    assert panel.ui.landmarkTable.rowCount() == 0
    panel.scene.SetURL(str(tmp_path / "scene.mrml"))
    panel.scene.Connect()
    assert panel.ui.templateSelector.currentNode().GetName() == "B"
    assert panel.ui.landmarkTable.verticalHeaderItem(0).text() == "in B"
    assert panel.ui.fixedSelector.currentNode().GetName() == "C" and panel.ui.movingSelector.currentNode() is None


def test_closing_the_scene_with_the_panel_open(panel: Panel) -> None:
    panel.prepared()
    panel.logic.place("carina", [-20.0, -30.0, 40.0])
    panel.scene.Clear(False)
    assert panel.ui.nextStepLabel.text() == "Load a template and a target volume."
    assert panel.ui.landmarkTable.rowCount() == panel.ui.volumeTable.rowCount() == 0


# --- with the real worker and the real model ------------------------------------------------------------------------------------------


def test_a_real_worker_killed_mid_way_then_prepared_then_fifty_landmarks_in_three_volumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UAE_CACHE", str(tmp_path / "cache"))
    stage = Stage()
    standins.install(stage.scene, tmp_path)
    import UniversalAnatomicalEmbedding as module

    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    scan = tissue((40, 48, 48))
    nodes = [stage.volume((scan + n).astype(np.int16), affine, f"V{n}") for n in range(4)]
    client = WorkerClient()
    logic = module.UniversalAnatomicalEmbeddingLogic(client=client)
    try:
        logic.prepare(wait=False)
        deadline = time.monotonic() + 60
        while (process := client._supervisor._process) is None or process.pid is None:
            logic.desk.poll()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        states = logic.prepare([])
        assert states["V0"].startswith("failed: ") and "worker" in states["V0"], "the one under way fails with a sentence"
        assert [states[f"V{n}"] for n in (1, 2, 3)] == ["ready"] * 3, "the others go on in a new worker"
        assert logic.prepare() == dict.fromkeys(states, "ready")
        heard: list[Any] = []
        logic.desk.submit({"job": "import", "path": str(save_checkpoint(checkpoint(weights("sam")), tmp_path / "mine.pth"))}, heard.append)
        while logic.desk.poll():
            time.sleep(0.02)
        assert heard[-1].result["model"] == "mine" and catalogue()["mine"].path.parent == tmp_path / "models", "the same worker imports"
        rng = np.random.default_rng(0)
        rows = "".join(f"p{i},{2 * x},{2 * y},{2 * z}\n" for i, (x, y, z) in enumerate(rng.integers(8, 32, (50, 3))))
        (tmp_path / "fifty.csv").write_text("label,x,y,z\n" + rows)
        start = time.process_time()  # of all threads: what other programs do does not count
        logic.bench.import_points(tmp_path / "fifty.csv")
        seconds = time.process_time() - start
        table = logic.presenter.table
        errors = [np.linalg.norm(np.subtract(logic.bench.world(r.key, v.GetID()), r.position_lps)) for r in table.landmarks for v in nodes[1:]
                  if r.cell(v.GetID()).position_lps]  # fmt: skip
        assert len(errors) > 100 and np.median(errors) < 2.0, "the same anatomy, a grey value brighter"
        assert seconds < 2.0, f"50 landmarks in 3 volumes took {seconds:.1f} s"
    finally:
        logic.close()
