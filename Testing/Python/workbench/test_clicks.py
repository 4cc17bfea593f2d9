"""A real mouse in real slice views: place mode, dragging, Shift, over the panel of the module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requires

requires.needs_views()

from fake_engine import SHIFT, FakeEngine  # noqa: E402
from stage import Stage  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.mrml import views  # noqa: E402
from UniversalAnatomicalEmbeddingLib.workbench.overlays import LiveCursor  # noqa: E402
from UniversalAnatomicalEmbeddingLib.workbench.workbench import Workbench  # noqa: E402

A_POSE = np.array([[1.0, 0, 0, 0], [0, np.cos(0.5), -np.sin(0.5), 10], [0, np.sin(0.5), np.cos(0.5), 30], [0, 0, 0, 1]])
SHIFT_RAS = SHIFT * [-1, -1, 1]


class Room:
    """Two volumes, the target under a rotating transform, two views each, a workbench with an engine whose answers are known."""

    def __init__(self) -> None:
        self.stage = Stage()
        scene = self.stage.scene
        array = np.zeros((60, 60, 60), np.int16)
        array[10:50, 10:50, 10:50] = 100
        affine = np.diag([-2.0, -2.0, 2.0, 1.0])
        self.a, self.b = self.stage.volume(array, affine, "A"), self.stage.volume(array, affine, "B")
        transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", "turn")
        transform.SetMatrixTransformToParent(mrml.frames._vtk(A_POSE))
        self.b.SetAndObserveTransformNodeID(transform.GetID())
        for name, volume, orientation, group in (
            ("A1", self.a, "Axial", 100),
            ("A2", self.a, "Coronal", 100),
            ("B1", self.b, "Axial", 101),
        ):
            self.stage.view(name, volume, orientation, group)
        self.errors: list[Exception] = []
        self.bench = Workbench(scene, report=self.errors.append)
        self.engine = FakeEngine()
        self.bench.use_engine(self.engine, {})
        for node in (self.a, self.b):
            snapshot = self.bench.scans.snapshot(node.GetID())
            self.bench.ready(node.GetID(), snapshot, snapshot.volume)

    def offsets(self) -> dict[str, list[float]]:
        return {n: [self.stage.node(n).GetSliceToRAS().GetElement(i, 3) for i in range(3)] for n in self.stage.views}

    def cell(self, row: int) -> Any:
        return self.bench.presenter.table.landmarks[row].cell(self.b.GetID())

    def world_ras(self, node: Any, index: int) -> np.ndarray:
        """What the node itself says."""
        ras = [0.0] * 3
        node.GetNthControlPointPositionWorld(index, ras)
        return np.array(ras)

    @property
    def matches(self) -> Any:
        return self.bench.lists.matches[self.b.GetID()]


@pytest.fixture(scope="module")
def shared() -> Iterator[Room]:
    room = Room()
    yield room
    room.bench.close()


@pytest.fixture
def room(shared: Room) -> Iterator[Room]:
    views.stop_placing(shared.stage.scene)
    shared.bench.lists.use(None)
    scene = shared.stage.scene
    for node in [n for n in (scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())) if n.IsA("vtkMRMLMarkupsFiducialNode")]:
        scene.RemoveNode(node)
    shared.engine.calls.clear()
    yield shared
    assert shared.errors == []


def place(room: Room, *pixels: tuple[int, int]) -> list[np.ndarray]:
    """Click in the template's axial view in place mode; returns the clicked world positions, RAS."""
    views.start_placing(room.stage.scene, room.bench.placing_list())
    clicked = []
    for pixel in pixels:
        clicked.append(room.stage.ras("A1", pixel))
        room.stage.click("A1", pixel)
    views.stop_placing(room.stage.scene)
    return clicked


def test_a_click_in_the_template_shows_up_at_the_right_place_in_the_target(room: Room) -> None:
    before = room.offsets()
    (clicked,) = place(room, (150, 130))
    assert [r.label for r in room.bench.presenter.table.landmarks] == ["Landmarks-1"]
    assert np.allclose(room.world_ras(room.bench.lists.template, 0), clicked, atol=1e-6)
    assert np.allclose(room.world_ras(room.matches, 0), clicked + SHIFT_RAS, atol=1e-6), "RAS in the world, through the rotation"
    assert room.cell(0).status == "found" and room.engine.calls == [1]
    after = room.offsets()
    assert np.allclose(after["B1"], clicked + SHIFT_RAS), "the target looks there"
    assert after["A1"] == before["A1"] and after["A2"] == before["A2"], "the clicked views stay"


def test_several_clicks_all_go_to_the_template_list(room: Room) -> None:
    clicked = place(room, (150, 130), (170, 160), (120, 140))
    assert len(room.bench.presenter.table) == 3 and room.matches.GetNumberOfDefinedControlPoints() == 3
    assert np.allclose([room.world_ras(room.matches, i) for i in range(3)], np.array(clicked) + SHIFT_RAS, atol=1e-6)


def test_a_click_in_a_target_places_nothing(room: Room) -> None:
    views.start_placing(room.stage.scene, room.bench.placing_list())
    room.stage.click("B1", (150, 150))
    assert len(room.bench.presenter.table) == 0 and room.engine.calls == []


def test_hovering_asks_nothing(room: Room) -> None:
    views.start_placing(room.stage.scene, room.bench.placing_list())
    room.stage.mouse("A1", (100, 100), "EnterEvent")
    for x in range(100, 140, 4):
        room.stage.mouse("A1", (x, 120), "MouseMoveEvent")
    assert room.bench.lists.template.GetNumberOfControlPoints() == 1, "Slicer's preview point"
    assert room.engine.calls == [] and len(room.bench.presenter.table) == 0
    room.stage.mouse("A1", (140, 120), "LeftButtonPressEvent")
    assert room.engine.calls == []
    room.stage.mouse("A1", (140, 120), "LeftButtonReleaseEvent")
    assert room.engine.calls == [1]


def test_dragging_in_the_template_matches_again_when_let_go(room: Room) -> None:
    place(room, (150, 130))
    room.stage.render()
    room.engine.calls.clear()
    room.stage.drag("A1", (150, 130), (180, 150))
    assert room.engine.calls == [1]
    assert np.allclose(room.world_ras(room.matches, 0), room.stage.ras("A1", (180, 150)) + SHIFT_RAS, atol=1e-6)


def test_dragging_in_the_target_corrects(room: Room) -> None:
    place(room, (150, 130))
    room.stage.render()
    start = room.stage.pixel("B1", room.world_ras(room.matches, 0))
    end = (start[0] + 20, start[1] - 15)
    room.engine.calls.clear()
    room.stage.drag("B1", start, end)
    assert room.cell(0).status == "corrected" and room.engine.calls == []
    corrected = room.world_ras(room.matches, 0)
    assert np.allclose(corrected, room.stage.ras("B1", end), atol=1.0)
    room.bench.match(again=True)
    assert np.allclose(room.world_ras(room.matches, 0), corrected), "never overwritten"
    room.bench.undo()
    assert room.cell(0).status == "found" and not np.allclose(room.world_ras(room.matches, 0), corrected, atol=1)
    room.bench.undo()
    assert len(room.bench.presenter.table) == 0 and room.matches.GetNumberOfControlPoints() == 0


def test_an_absent_match_is_put_where_the_person_sees_it(room: Room) -> None:
    try:
        clicked = place(room, (120, 130), (150, 130), (190, 160))
        room.engine.absent = lambda point: np.linalg.norm(point - clicked[1] * [-1, -1, 1]) < 1
        room.bench.match(again=True)
        rows = [room.cell(i).status for i in range(3)]
        assert rows.count("absent") == 1
        at = rows.index("absent")
        key = room.bench.presenter.table.keys[at]
        others = {i: room.world_ras(room.matches, i).copy() for i in range(3) if i != at}
        room.bench.place_match(key, room.b.GetID())
        pixel = (140, 150)
        where = room.stage.ras("B1", pixel)
        room.stage.click("B1", pixel)
        assert room.cell(at).status == "corrected" and np.allclose(room.world_ras(room.matches, at), where, atol=1e-3)
        assert all(np.allclose(room.world_ras(room.matches, i), place) for i, place in others.items())
        assert room.matches.GetNumberOfControlPoints() == 3 and len(room.bench.presenter.table) == 3
        interaction = room.stage.interaction
        assert interaction.GetCurrentInteractionMode() != interaction.Place, "one click"
        room.bench.undo()
        assert room.cell(at).status == "absent"
    finally:
        room.engine.absent = lambda point: False


def test_an_absent_match_is_no_dot_and_an_uncertain_one_is_amber(room: Room, tmp_path: Path) -> None:
    """Colours of the pixels that are really drawn, in the view of the target."""

    def drawn() -> set[str]:
        image = room.stage.image("B1").astype(float) / 255
        near = {name: np.abs(image - colour).max(axis=2).min() < 0.12 for name, colour in (("green", views.GREEN), ("amber", views.AMBER))}
        return {name for name, there in near.items() if there}

    try:
        place(room, (150, 130))
        assert drawn() == {"green"}
        room.engine.unsure = lambda point: True
        room.bench.match(again=True)
        assert drawn() == {"amber"}
        room.engine.absent = lambda point: True
        room.bench.match(again=True)
        assert drawn() == set() and room.cell(0).status == "absent"
    finally:
        room.engine.absent = room.engine.unsure = lambda point: False


def test_shift_and_mouse_lead_the_live_cursor(room: Room) -> None:
    crosshair = room.stage.scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    cursor, offered = LiveCursor(room.bench), []
    tag = crosshair.AddObserver("ModifiedEvent", lambda *_: offered.append(cursor.offer_crosshair(crosshair)))
    try:
        room.stage.mouse("A1", (150, 150), "EnterEvent", "MouseMoveEvent")
        assert True not in offered, "without Shift nothing follows"
        room.stage.shift_move("A1", (140, 160))
        assert offered.count(True) == 1
        cursor.follow()
        where = room.stage.ras("A1", (140, 160)) + SHIFT_RAS
        assert np.allclose(room.offsets()["B1"], where, atol=1e-6)
        assert np.allclose(room.world_ras(cursor._crosses[room.b.GetID()], 0), where, atol=1e-6)
        offered.clear()
        room.stage.shift_move("B1", (100, 100))
        assert True not in offered, "the mouse is not over the template"
    finally:
        crosshair.RemoveObserver(tag)
        cursor.hide()


def test_rendering_does_not_make_a_volume_stale(room: Room) -> None:
    room.stage.render()
    room.a.GetDisplayNode().SetWindowLevel(100, 50)
    room.stage.render()
    assert [room.bench.presenter.readiness.status(n.GetID()).state for n in (room.a, room.b)] == ["ready", "ready"]
