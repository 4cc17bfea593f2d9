"""The module's own classes and its real .ui file over real MRML and Qt; only the application itself is a stand-in."""

from __future__ import annotations

import os
import re
import signal
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
from samples import tissue  # noqa: E402
from scene_files import save  # noqa: E402
from stage import Stage  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.errors import InputError  # noqa: E402
from UniversalAnatomicalEmbeddingLib.geometry import Grid  # noqa: E402
from UniversalAnatomicalEmbeddingLib.volume import Volume  # noqa: E402
from UniversalAnatomicalEmbeddingLib.worker_client import Cancelled, Done, Failed, Progress, WorkerClient  # noqa: E402

MODULE = Path(__file__).resolve().parents[2] / "UniversalAnatomicalEmbedding"
UI = MODULE / "Resources" / "UI" / "UniversalAnatomicalEmbedding.ui"
RESULT = {"notice": "", "model": "fake", "fingerprint": "00", "device": "cpu"}


class FakeClient:
    """A worker that does what the test says."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.cancelled: list[int] = []
        self.events: list[Any] = []
        self.closed = False

    def submit(self, job: dict[str, Any]) -> int:
        self.jobs.append(job)
        return len(self.jobs)

    def poll(self) -> list[Any]:
        events, self.events = self.events, []
        return events

    def cancel(self, job: int) -> None:
        self.cancelled.append(job)

    def restart(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def log(self) -> str:
        return "the worker's last words"


class Panel:
    """The panel of a scene with three volumes, and a worker that obeys."""

    def __init__(self, folder: Path) -> None:
        self.stage = Stage()
        self.scene = self.stage.scene
        self.qt = standins.install(self.scene, folder)
        import qt
        import slicer

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


def test_the_panel_opens_without_torch_and_the_button_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from UniversalAnatomicalEmbeddingLib import dependencies

    torch = dependencies.Problem(dependencies.REQUIREMENTS[0], None)
    problems = [torch]
    monkeypatch.setattr(dependencies, "find_problems", lambda *_: list(problems))
    panel = Panel(tmp_path)
    assert panel.ui.prepareButton.text() == "Install what is missing..." and "torch 2.4 or newer (missing)" in panel.ui.nextStepLabel.text()
    installed = []
    monkeypatch.setattr(panel.slicer.util, "confirmOkCancelDisplay", lambda text, **_: "torch 2.4" in text)
    monkeypatch.setattr(dependencies, "install", lambda found, installer: (installed.extend(found), problems.clear()))
    panel.ui.prepareButton.click()
    assert installed == [torch] and panel.ui.prepareButton.text() == "Prepare 3 volumes"
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


def test_importing_a_weights_file(panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import qt

    from UniversalAnatomicalEmbeddingLib.choices import model_choices

    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(model_choices()[0].path.read_bytes())
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", staticmethod(lambda *_: str(copy)))
    panel.ui.importModelButton.click()
    assert panel.logic.model == str(copy) and panel.ui.modelSelector.count() == len(model_choices()) + 1
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", staticmethod(lambda *_: str(tmp_path / "bad.safetensors")))
    panel.ui.importModelButton.click()
    assert panel.logic.model == str(copy), "a file that cannot be used changes nothing"


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
    actions = {a.text(): a for a in panel.ui.exportButton.menu().actions()}
    actions[".mrk.json"].triggered.emit()
    assert {p.name for p in tmp_path.glob("*.mrk.json")} == {"t.mrk.json", "t_in_B.mrk.json", "t_in_C.mrk.json"}
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


def test_errors_are_shown_not_raised(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    import slicer

    said: list[str] = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **_: said.append(text))
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


REPORT = {"stage": "affine", "inliers": 40, "pairs": 50, "expected_tre_mm": 1.25, "folding": 0.0, "note": ""}


def answer(panel: Panel, shift: tuple[float, float, float]) -> None:
    """The worker finishes the registration that was asked for last."""
    from UniversalAnatomicalEmbeddingLib.registration import Transform, write_transform

    matrix = np.eye(4)
    matrix[:3, 3] = shift
    write_transform(Transform(matrix), panel.client.jobs[-1]["out"])
    panel.client.events = [Done(len(panel.client.jobs), {"report": REPORT, "notice": "", "transform": ""})]


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
    assert "40 of 50 pairs agree" in ui.registrationLabel.text() and b.GetTransformNodeID()
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
