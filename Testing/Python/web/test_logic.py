"""The page's actions on a real scene, without a page: what each does, and to which scan."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import requires

requires.needs_mrml()
requires.needs("trame_slicer", "UAE_REQUIRE_GUI")

import slicer  # noqa: E402
from fake_engine import SHIFT, FakeEngine  # noqa: E402
from job_client import Client  # noqa: E402
from registration_report import REPORT  # noqa: E402
from samples import tissue_volume  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402
from workbench_table import add_view  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.grid import Grid  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.volume import Volume  # noqa: E402
from UniversalAnatomicalEmbeddingLib.mrml import views  # noqa: E402
from UniversalAnatomicalEmbeddingLib.registration import Transform, write_transform  # noqa: E402
from UniversalAnatomicalEmbeddingLib.system.errors import InputError  # noqa: E402
from UniversalAnatomicalEmbeddingLib.worker.client import Done  # noqa: E402
from UniversalAnatomicalEmbeddingWeb import logic as module  # noqa: E402

POINT = np.array([20.0, 30.0, 40.0])
TURN = np.eye(4)
TURN[:3, :3] = Rotation.from_euler("xyz", (4, -3, 5), degrees=True).as_matrix()
TURN[:3, 3] = [6, -4, 8]


class State(dict):
    """The values that the page shows, set as attributes, as of a trame server."""

    def __enter__(self) -> State:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class Rows:
    """Rows without views."""

    def __init__(self, *_: Any) -> None:
        self.fit = lambda: None

    def open(self, node: Any) -> Any:
        return SimpleNamespace(volume=node.GetID(), views={f"{node.GetName()}1": None})

    def close(self, volume: str) -> None:
        pass


class Tools:
    """No mouse."""

    def __init__(self, *_: Any) -> None:
        self.actions: dict[str, Any] = {}
        self.stopped = 0

    def follow(self) -> None:
        pass

    def stop_overlay(self) -> None:
        self.stopped += 1


class Worker(Client):
    """A worker whose answers the test writes."""

    def __init__(self, env: dict[str, str]) -> None:
        super().__init__()
        self.env = env

    def close(self) -> None:
        pass


class Desk:
    """Three scans open on a server, one view each; ``do`` is what a button does."""

    def __init__(self, folder: Any) -> None:
        options = SimpleNamespace(model="m", device="cpu", cache=folder, method="fixed-point")
        options.modality, options.demo, options.images, options.landmarks = "auto", False, (), None
        self.shown, self.triggers = State(), {}
        server = SimpleNamespace(state=self.shown, trigger=lambda name: lambda f: f)
        app = SimpleNamespace(scene=slicer.vtkMRMLScene())
        uploads = SimpleNamespace(folder=folder)
        self.logic = module.Logic(server, app, options, None, uploads)
        self.bench, self.panel, self.scene = self.logic.bench, self.logic.presenter, app.scene
        rng = np.random.default_rng(0)
        self.ids, self.views = [], []
        for name, shape, spacing in (
            ("first", (30, 32, 34), (3.0, 3.5, 4.0)),
            ("second", (40, 41, 42), (2.5, 3.0, 2.0)),
            ("third", (20, 20, 20), (5.0, 5.0, 5.0)),
        ):
            array = rng.normal(0, 50, shape).astype(np.float32)
            grid = Grid(shape, np.diag([*spacing, 1.0]))
            self.ids.append(self.logic.loading.add(Volume(array, grid, "ct", name)))
            self.views.append(add_view(self.scene, name, self.node(-1)))
        self.engine = FakeEngine()
        self.bench.use_engine(self.engine, {})
        for volume in self.ids:
            snapshot = self.bench.scans.snapshot(volume)
            self.bench.ready(volume, snapshot, snapshot.volume)

    def node(self, number: int) -> Any:
        return self.scene.GetNodeByID(self.ids[number])

    def do(self, name: str, *arguments: Any) -> None:
        asyncio.run(self.logic.do(name, *arguments))

    def told(self) -> str:
        return (self.shown.get("message") or {}).get("text", "")

    def looks_at(self, number: int) -> np.ndarray:
        """Where the view of a scan is centred, LPS."""
        matrix = self.views[number].GetSliceToRAS()
        return np.array([matrix.GetElement(i, 3) for i in range(3)]) * [-1, -1, 1]


@pytest.fixture
def desk(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for name, stand_in in (("Rows", Rows), ("Tools", Tools), ("WorkerClient", Worker)):
        monkeypatch.setattr(module, name, stand_in)
    monkeypatch.setattr(module.Logic, "refresh", module.Logic._refresh)
    monkeypatch.setattr(module.Logic, "later", lambda self, work: asyncio.run(work))
    made = Desk(tmp_path)
    yield made
    made.logic.close()


# --- the table ------------------------------------------------------------------------------------


def test_verdicts_go_to_the_selected_match_alone(desk: Desk) -> None:
    other, key = desk.bench.add("hilum", POINT + 9), desk.bench.add("carina", POINT)
    desk.do("accept")
    assert "Select a match" in desk.told()

    def statuses() -> list[str]:
        return [desk.panel.table.row(key).cell(v).status for v in desk.ids[1:]]

    desk.do("select", key, desk.ids[2])
    desk.do("accept")
    assert statuses() == ["found", "accepted"]
    desk.do("select", key, desk.ids[1])
    desk.do("reject")
    assert statuses() == ["rejected", "accepted"]
    desk.do("undo")
    assert statuses() == ["found", "accepted"]
    desk.do("redo")
    assert statuses() == ["rejected", "accepted"]
    desk.do("match_all")
    assert statuses() == ["rejected", "accepted"], "a person's verdicts stay"
    assert {desk.panel.table.row(other).cell(v).status for v in desk.ids[1:]} == {"found"}


def test_match_all_matches_again_what_nobody_judged(desk: Desk) -> None:
    desk.bench.add("carina", POINT)
    desk.engine.calls.clear()
    desk.do("match_all")
    assert desk.engine.calls == [1, 1]


def test_selecting_a_match_turns_the_views_of_its_scan_only(desk: Desk) -> None:
    one, two = desk.bench.add("one", POINT), desk.bench.add("two", POINT + 9)
    desk.do("select", one, desk.ids[1])
    assert (desk.panel.selected, desk.panel.selected_volume) == (one, desk.ids[1])
    assert np.allclose(desk.looks_at(1), POINT + SHIFT)
    assert np.allclose(desk.looks_at(2), POINT + 9 + SHIFT) and np.allclose(desk.looks_at(0), 0)
    desk.do("select", two, None)
    assert desk.panel.selected_volume is None
    assert np.allclose(desk.looks_at(0), POINT + 9) and np.allclose(desk.looks_at(1), POINT + 9 + SHIFT)


def test_steps_go_to_the_next_and_the_previous_and_look_there(desk: Desk) -> None:
    keys = [desk.bench.add(str(n), POINT + 5 * n) for n in range(3)]
    desk.do("select", keys[0], None)
    desk.do("step", 1)
    assert desk.panel.selected == keys[1] and np.allclose(desk.looks_at(0), POINT + 5)
    desk.do("step", -1)
    desk.do("step", -1)
    assert desk.panel.selected == keys[2] and np.allclose(desk.looks_at(0), POINT + 10)


def test_names_are_kept_short_and_never_empty(desk: Desk) -> None:
    one, two = desk.bench.add("one", POINT), desk.bench.add("two", POINT + 9)
    desk.do("select", two, None)
    desk.do("rename", one, f"  {'x' * 70} ")
    desk.do("rename", two, "   ")
    assert [row.label for row in desk.panel.table.landmarks] == ["x" * 60, "two"]
    desk.do("delete")
    assert desk.panel.table.keys == (one,)
    assert [row["label"] for row in desk.shown["table"]["landmarks"]] == ["x" * 60]


def test_another_template_is_shown_as_such(desk: Desk) -> None:
    desk.do("template", desk.ids[2])
    assert [row["role"] for row in desk.shown["rows"]] == ["target", "target", "template"]
    assert [row["letter"] for row in desk.shown["rows"]] == ["A", "B", "C"]
    assert [c["letter"] for c in desk.shown["table"]["columns"]] == ["A", "B"]


def test_a_preset_goes_to_its_scan(desk: Desk) -> None:
    desk.do("preset", desk.ids[1], "Bone")
    levels = [(d.GetWindow(), d.GetLevel()) for d in (desk.node(n).GetDisplayNode() for n in (0, 1))]
    assert levels == [(400, 40), (2000, 500)]
    assert [row["preset"] for row in desk.shown["rows"]] == ["Soft tissue", "Bone", "Soft tissue"]


def test_preparing_asks_for_what_is_not_ready_and_again_cancels(desk: Desk) -> None:
    snapshot = desk.logic.loading.add(tissue_volume((8, 8, 8), name="fourth"))
    desk.panel.model = "m"
    desk.do("prepare")
    asked = desk.logic.worker.jobs
    assert [(j["job"], j["volume"].name, j["model"], j["device"]) for j in asked] == [("embed", "fourth", "m", "cpu")]
    assert desk.panel.readiness.status(snapshot).state == "preparing"
    desk.do("prepare")
    assert len(desk.logic.worker.jobs) == 1 and desk.logic.worker.cancelled == [1]


def test_a_mistake_is_one_sentence_and_a_defect_is_called_one(desk: Desk) -> None:
    desk.do("no such action")
    assert desk.told() == ""
    desk.do("close", "no scan")
    assert "There is no volume 'no scan'" in desk.told() and desk.shown["message"]["kind"] == "error"
    desk.logic.report(ZeroDivisionError("secret"))
    assert desk.told() == module.DEFECT


def test_the_engine_asks_the_session_with_the_options_of_the_server() -> None:
    asked: list[tuple[Any, ...]] = []
    session = SimpleNamespace(
        match=lambda *given: asked.append(given),
        similarity=lambda *given: asked.append(given),
        warm=lambda *given: asked.append(given),
    )
    engine = module.Engine(session, "options", asyncio.run)  # type: ignore[arg-type]
    engine.match("template", "points", "target")
    engine.similarity("template", "point", "target")
    engine.warm("template", "target")
    assert asked == [
        ("template", "points", "target", "options"),
        ("template", "point", "target"),
        ("template", "target"),
    ]


# --- downloads ------------------------------------------------------------------------------------


def test_landmarks_of_each_scan_are_downloaded_under_its_letter_and_name(desk: Desk) -> None:
    desk.do("template", desk.ids[1])
    desk.bench.add("carina", POINT)
    for what, file, where in (
        ("B.csv", "second.csv", POINT),
        ("C.csv", "third.csv", POINT + SHIFT),
    ):
        name, content, kind = desk.logic.export(what)
        assert (name, kind) == (file, "text/csv")
        row = content.decode().splitlines()[1].split(",")
        assert np.allclose([float(v) for v in row[1:4]], where)
    lines = [line.split(",") for line in desk.logic.export("all.csv")[1].decode().splitlines()[1:]]
    assert [(line[0], line[6]) for line in lines] == [
        ("second", "template"),
        ("first", "found"),
        ("third", "found"),
    ]
    assert np.allclose([float(v) for v in lines[2][2:5]], POINT + SHIFT)
    with pytest.raises(InputError, match=r"There is no 'D\.csv'"):
        desk.logic.export("D.csv")


# --- registration ---------------------------------------------------------------------------------


def register(desk: Desk, fixed: int, moving: int) -> dict[str, Any]:
    """Choose, register, and answer with TURN; returns what the worker was asked."""
    desk.do("register_choose", "fixed", desk.ids[fixed])
    desk.do("register_choose", "moving", desk.ids[moving])
    desk.do("register_choose", "stage", "rigid")
    desk.do("register")
    job = desk.logic.worker.jobs[-1]
    write_transform(Transform(TURN), job["out"])
    number = len(desk.logic.worker.jobs)
    desk.logic.worker.events = [Done(number, {"report": REPORT, "transform": "", "notice": ""})]
    desk.logic.desk.poll()
    return job


def foreground(desk: Desk, number: int) -> Any:
    """What is laid over a scan."""
    view = desk.views[number]
    ids = {v.GetID(): c.GetForegroundVolumeID() for v, c in views.slice_views(desk.scene)}
    return desk.scene.GetNodeByID(ids[view.GetID()] or "")


def test_the_template_is_fixed_and_the_first_other_scan_moves_until_a_person_chooses(
    desk: Desk,
) -> None:
    assert (desk.shown["reg"]["fixed"], desk.shown["reg"]["moving"]) == (desk.ids[0], desk.ids[1])
    desk.do("register_choose", "fixed", desk.ids[1])
    assert (desk.shown["reg"]["fixed"], desk.shown["reg"]["moving"]) == (desk.ids[1], desk.ids[0])
    desk.do("register_choose", "fixed", desk.ids[2])
    desk.do("register_choose", "moving", desk.ids[2])
    chosen = desk.shown["reg"]["fixed"], desk.shown["reg"]["moving"]
    assert chosen == (desk.ids[0], desk.ids[2]), "they change sides"
    desk.do("register_choose", "stage", "no stage")
    assert desk.shown["reg"]["stage"] == "affine"


def test_a_registration_is_asked_for_as_chosen_and_drawn_over_the_fixed_scan(desk: Desk) -> None:
    desk.node(2).GetDisplayNode().SetWindowLevel(123, 45)
    job = register(desk, 1, 2)
    assert (job["fixed"].name, job["moving"].name) == ("second", "third")
    assert (job["options"]["stage"], job["model"], job["device"]) == ("rigid", "m", "cpu")
    reg = desk.shown["reg"]
    assert reg["result"]["title"] == "third on second" and reg["shown"] == "after"
    assert desk.node(2).GetTransformNodeID() is None, "the moving scan stays where it is"
    fixed, moving = (mrml.volume_from_node(desk.node(n)) for n in (1, 2))
    for name, matrix in (("after", TURN), ("before", np.eye(4))):
        desk.do("register_show", name)
        drawn = mrml.volume_from_node(foreground(desk, 1))
        expected = Transform(matrix).resample(moving, fixed.grid.axis_aligned(2.0))
        assert np.allclose(drawn.grid.affine, expected.grid.affine)
        assert np.array_equal(drawn.array, expected.array)
        display = foreground(desk, 1).GetDisplayNode()
        assert (display.GetWindow(), display.GetLevel()) == (123, 45), "as the moving scan's"
        assert foreground(desk, 0) is None and foreground(desk, 2) is None
    desk.do("register_show", "off")
    assert foreground(desk, 1) is None


def test_the_pictures_lie_on_a_fixed_scan_that_was_moved(desk: Desk) -> None:
    for number, matrix in ((1, TURN), (2, np.linalg.inv(TURN))):
        pose = desk.scene.AddNewNodeByClass("vtkMRMLTransformNode", "pose")
        pose.SetMatrixTransformToParent(mrml.frames._vtk(mrml.FLIP @ matrix @ mrml.FLIP))
        desk.node(number).SetAndObserveTransformNodeID(pose.GetID())
    grid = mrml.volume_from_node(desk.node(1)).grid.axis_aligned(2.0)
    register(desk, 1, 2)
    drawn = mrml.volume_from_node(foreground(desk, 1))
    assert np.allclose(drawn.grid.affine, grid.affine), "as the fixed scan lies in the world"


def test_the_transform_is_downloaded_as_moving_to_fixed(desk: Desk, tmp_path: Any) -> None:
    from UniversalAnatomicalEmbeddingLib.registration import read_transform

    register(desk, 1, 2)
    name, content, _ = desk.logic.export("transform.tfm")
    assert name == "third_to_second.tfm"
    (tmp_path / name).write_bytes(content)
    assert np.allclose(read_transform(tmp_path / name).matrix, TURN)
    with pytest.raises(InputError, match="no transform"):
        desk.logic.export("transform.txt")


def test_a_result_goes_with_its_scans(desk: Desk) -> None:
    register(desk, 1, 2)
    picture = foreground(desk, 1)
    desk.do("close", desk.ids[0])
    assert desk.shown["reg"]["result"] is not None
    desk.do("close", desk.ids[2])
    assert desk.shown["reg"]["result"] is None and not desk.scene.IsNodePresent(picture)


def test_fading_and_showing_take_the_similarity_away(desk: Desk) -> None:
    register(desk, 1, 2)
    stopped = desk.logic.tools.stopped
    desk.do("register_fade", 0.25)
    composite = next(c for v, c in views.slice_views(desk.scene) if v is desk.views[1])
    assert composite.GetForegroundOpacity() == pytest.approx(0.25)
    assert desk.logic.tools.stopped == stopped + 1
    desk.do("register_fade", 7)
    assert desk.shown["reg"]["fade"] == 1.0
