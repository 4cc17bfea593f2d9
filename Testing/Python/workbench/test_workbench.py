"""Lists, volumes, table and views of a real scene kept in step, with an engine whose answers are known."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requires

requires.needs_mrml()

import slicer  # noqa: E402
from fake_engine import SHIFT  # noqa: E402
from scene_files import save  # noqa: E402
from workbench_table import (  # noqa: E402
    POINT,
    Table,
    add_view,
    turn,
)

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.grid import Grid  # noqa: E402
from UniversalAnatomicalEmbeddingLib.images.volume import Volume  # noqa: E402
from UniversalAnatomicalEmbeddingLib.landmarks.points import read_points  # noqa: E402
from UniversalAnatomicalEmbeddingLib.mrml import views  # noqa: E402
from UniversalAnatomicalEmbeddingLib.system.errors import InputError  # noqa: E402
from UniversalAnatomicalEmbeddingLib.workbench.overlays import LiveCursor, Overlay  # noqa: E402

# --- placing and matching -------------------------------------------------------------------------------------------------------------


def test_a_placed_landmark_is_matched_in_all_targets(t: Table) -> None:
    t.prepare()
    key = t.bench.add("carina", POINT)
    assert t.cell(key, t.b).status == t.cell(key, t.c).status == "found"
    assert np.allclose(t.bench.world(key, t.b.GetID()), POINT + SHIFT)
    matches = t.bench.lists.matches[t.b.GetID()]
    assert np.allclose(matches.GetNthControlPointPosition(0), (POINT + SHIFT) * [-1, -1, 1]), "RAS in the node"
    assert matches.GetNthControlPointLabel(0) == "carina"
    assert [mrml.attribute(matches, n) for n in ("Model", "ModelSha256", "Version")] == ["fake", "00", "1"]
    assert mrml.linked(matches, "TemplateList") is t.bench.lists.template and mrml.linked(matches, "Volume") is t.b
    assert t.presenter.selected == key


def test_a_landmark_placed_before_the_volumes_are_ready_is_matched_when_they_are(t: Table) -> None:
    key = t.bench.add("carina", POINT)
    assert t.cell(key, t.b).status == "waiting" and t.engine.calls == []
    t.prepare(t.b, t.a)
    assert t.cell(key, t.b).status == "found" and t.cell(key, t.c).status == "waiting"
    t.prepare(t.c)
    assert t.cell(key, t.c).status == "found"


def test_all_landmarks_of_a_volume_go_in_one_question(t: Table) -> None:
    for i in range(10):
        t.bench.add(f"p{i}", POINT + i)
    t.prepare()
    assert t.engine.calls == [10, 10]


def test_pairs_are_worked_out_when_both_are_ready_not_at_the_first_click(t: Table) -> None:
    t.prepare(t.b)
    assert t.engine.warmed == []
    t.prepare(t.a, t.c)
    assert set(t.engine.warmed) == {("A", "B"), ("A", "C")}


def test_hovering_is_no_landmark_and_asks_nothing(t: Table) -> None:
    t.prepare()
    node = t.bench.placing_list()
    node.AddControlPoint([0.0, 0.0, 0.0], "preview")
    t.bench.delete(t.presenter.table.keys[0])
    t.engine.calls.clear()
    for x in range(5):
        node.AddControlPoint([0.0, 0.0, 0.0], "preview") if x == 0 else node.SetNthControlPointPosition(0, -20.0 - x, -30.0, 40.0, 1)
    assert len(t.presenter.table) <= 1
    count = len(t.engine.calls)
    for x in range(5):
        node.SetNthControlPointPosition(0, -21.0 - x, -30.0, 40.0, 1)
    assert len(t.engine.calls) == count, "moves of the preview point ask nothing"


def test_outside_the_template_is_a_failed_match_with_its_reason_and_spoils_no_other(t: Table) -> None:
    inside, outside = t.bench.add("in", POINT), t.bench.add("out", [-500.0, 0.0, 0.0])
    t.prepare()
    assert t.cell(inside, t.b).status == "found"
    assert t.cell(outside, t.b).status == "failed" and "lies outside the patient" in t.cell(outside, t.b).note


def test_absent_and_uncertain(t: Table) -> None:
    t.engine.absent = lambda p: p[0] > 50
    t.engine.unsure = lambda p: p[0] > 30
    t.prepare()
    there, unsure, gone = (t.bench.add(str(x), [x, 30.0, 40.0]) for x in (20.0, 40.0, 60.0))
    assert [t.cell(k, t.b).status for k in (there, unsure, gone)] == ["found", "uncertain", "absent"]
    assert t.cell(there, t.b).confidence is None and t.cell(unsure, t.b).confidence == 0.3
    assert t.bench.world(unsure, t.b.GetID()) == tuple([40.0, 30.0, 40.0] + SHIFT)
    assert t.bench.world(gone, t.b.GetID()) is None, "uncertain is somewhere, absent nowhere"
    node = t.bench.lists.matches[t.b.GetID()]
    assert node.GetNthControlPointPositionStatus(2) == node.PositionMissing
    assert not node.GetNthControlPointSelected(1) and node.GetNthControlPointSelected(0)


# --- dragging, deciding, undoing ------------------------------------------------------------------------------------------------------


def test_dragging_the_template_matches_again_once_at_the_end(t: Table) -> None:
    t.prepare()
    key = t.bench.add("carina", POINT)
    t.engine.calls.clear()
    t.drag(t.bench.lists.template, 0, (-44.0, -46.0, 48.0))
    assert t.engine.calls == [1, 1], "one question per target, not one per mouse move"
    assert np.allclose(t.bench.world(key, t.c.GetID()), [44 + SHIFT[0], 46 + SHIFT[1], 48 + SHIFT[2]])


def test_dragging_a_match_is_a_correction_that_nothing_overwrites(t: Table) -> None:
    t.prepare()
    key = t.bench.add("carina", POINT)
    t.drag(t.bench.lists.matches[t.b.GetID()], 0, (-1.0, -2.0, 3.0))
    assert t.cell(key, t.b).status == "corrected" and t.bench.world(key, t.b.GetID()) == (1.0, 2.0, 3.0)
    assert t.cell(key, t.c).status == "found"
    t.bench.match(again=True)
    t.drag(t.bench.lists.template, 0, (-44.0, -46.0, 48.0))
    assert t.bench.world(key, t.b.GetID()) == (1.0, 2.0, 3.0)
    node = t.bench.lists.matches[t.b.GetID()]
    assert np.allclose(node.GetNthControlPointPosition(0), (-1, -2, 3)) and node.GetNthControlPointDescription(0) == "corrected"


def test_undo_and_redo_take_the_nodes_with_them(t: Table) -> None:
    t.prepare()
    first, second = t.bench.add("one", POINT), t.bench.add("two", POINT + 5)
    template, matches = t.bench.lists.template, t.bench.lists.matches[t.b.GetID()]
    t.drag(matches, 1, (-1.0, -2.0, 3.0))
    t.bench.undo()
    assert t.cell(second, t.b).status == "found" and np.allclose(matches.GetNthControlPointPosition(1), (POINT + 5 + SHIFT) * [-1, -1, 1])
    t.bench.undo()
    assert template.GetNumberOfControlPoints() == matches.GetNumberOfControlPoints() == 1
    t.bench.redo()
    t.bench.redo()
    assert [template.GetNthControlPointLabel(i) for i in range(2)] == ["one", "two"]
    assert t.cell(second, t.b).status == "corrected" and np.allclose(matches.GetNthControlPointPosition(1), (-1, -2, 3))
    t.drag(template, 1, (-44.0, -46.0, 48.0))
    assert t.presenter.table.row(second).position_lps == (44.0, 46.0, 48.0), "the control point that came back is still known"
    t.bench.delete(first)
    assert matches.GetNumberOfControlPoints() == 1 and matches.GetNthControlPointLabel(0) == "two"
    t.bench.undo()
    assert t.presenter.table.keys == (first, second)


def test_deciding(t: Table) -> None:
    t.prepare()
    key = t.bench.add("carina", POINT)
    t.bench.accept(key, t.b.GetID())
    t.bench.reject(key, t.c.GetID())
    node = t.bench.lists.matches[t.c.GetID()]
    assert not node.GetNthControlPointVisibility(0) and t.cell(key, t.b).status == "accepted"
    t.bench.retry(key, t.c.GetID())
    assert node.GetNthControlPointVisibility(0) and t.cell(key, t.c).status == "found"
    t.bench.correct(key, t.c.GetID(), [9.0, 8.0, 7.0])
    assert np.allclose(node.GetNthControlPointPosition(0), (-9, -8, 7))
    t.bench.rename(key, "bifurcation")
    assert {n.GetNthControlPointLabel(0) for n in (node, t.bench.lists.template, t.bench.lists.matches[t.b.GetID()])} == {"bifurcation"}
    t.bench.move(key, POINT + 3)
    assert np.allclose(t.bench.world(key), POINT + 3) and t.cell(key, t.b).status == "found" and t.cell(key, t.c).status == "corrected"


# --- transforms -----------------------------------------------------------------------------------------------------------------------


def test_volumes_under_rotating_transforms(t: Table) -> None:
    """The engine shifts in the frame of the scan as it lay when it was embedded; positions in the world must agree with the scene's own."""
    t.a.SetAndObserveTransformNodeID(turn(t.scene).GetID())
    t.b.SetAndObserveTransformNodeID(turn(t.scene, -70).GetID())
    t.prepare()
    world = mrml.to_world(t.a, [[50.0, 50.0, 50.0]])[0]
    key = t.bench.add("middle", world)
    assert np.allclose(t.bench.world(key, t.b.GetID()), world + SHIFT, atol=1e-6)
    node, ras = t.bench.lists.matches[t.b.GetID()], [0.0] * 3
    node.GetNthControlPointPositionWorld(0, ras)
    assert np.allclose(ras, (world + SHIFT) * [-1, -1, 1], atol=1e-6)
    assert node.GetTransformNodeID() == t.b.GetTransformNodeID() and node.GetTransformNodeID()
    assert np.allclose(t.bench.world(key, t.c.GetID()), world + SHIFT, atol=1e-6)


def test_moving_a_landmark_under_a_rotating_transform(t: Table) -> None:
    t.a.SetAndObserveTransformNodeID(turn(t.scene).GetID())
    t.prepare()
    key = t.bench.add("middle", mrml.to_world(t.a, [[50.0, 50.0, 50.0]])[0])
    there = mrml.to_world(t.a, [[30.0, 60.0, 45.0]])[0]
    t.bench.move(key, there)
    own = t.presenter.table.row(key).position_lps
    assert np.allclose(own, [30, 60, 45]), "in the list's own frame"
    assert np.allclose(t.bench.world(key), there)
    assert np.allclose(t.bench.world(key, t.b.GetID()), there + SHIFT)


def test_the_last_of_several_new_landmarks_is_selected(t: Table) -> None:
    t.prepare()
    first = t.bench.add("one", POINT)
    node = t.bench.lists.template
    node.SetDisableModifiedEvent(1)
    with t.bench.lists._quietly():
        for x in (22.0, 24.0):
            node.AddControlPoint([-x, -30.0, 40.0], "more")
    node.SetDisableModifiedEvent(0)
    node.InvokeEvent(node.PointPositionDefinedEvent)
    assert len(t.presenter.table) == 3 and t.presenter.table.keys[0] == first
    assert t.presenter.selected == t.presenter.table.keys[2]


def test_changed_geometry_makes_a_volume_unusable_until_it_is_prepared_again(t: Table) -> None:
    t.prepare()
    t.b.SetSpacing(2.0, 2.0, 3.0)
    status = t.presenter.readiness.status(t.b.GetID())
    assert status.state == "stale" and not status.usable and "changed" in status.reason
    with pytest.raises(InputError, match="B is not prepared"):
        t.bench.scans.find([POINT], t.b.GetID())


def test_a_volume_that_is_prepared_again_is_not_ready_before_it_is(t: Table) -> None:
    t.prepare()
    t.presenter.readiness.preparing([t.b.GetID()])
    t.b.SetName("B again")
    assert t.presenter.readiness.status(t.b.GetID()).state == "preparing"


# --- scenes ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle", [False, True], ids=["mrml", "mrb"])
def test_a_scene_is_saved_cleared_and_loaded(t: Table, tmp_path: Path, bundle: bool) -> None:
    t.engine.absent = lambda p: p[0] > 50
    t.prepare()
    labels = ["one", "two", "gone"]
    keys = [t.bench.add(name, point) for name, point in zip(labels, (POINT, POINT + 5, [60.0, 30.0, 40.0]), strict=True)]
    t.bench.accept(keys[0], t.b.GetID())
    t.bench.correct(keys[1], t.c.GetID(), [9.0, 8.0, 7.0])
    before = [{t.presenter.volumes[v]: c for v, c in r.cells.items()} for r in t.presenter.table.landmarks]
    if bundle:
        assert t.scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    else:
        save(t.scene, tmp_path)
    t.scene.Clear(False)
    assert t.presenter.volumes == {} and len(t.presenter.table) == 0 and t.bench.lists.template is None
    if bundle:
        cache, manager = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
        cache.SetRemoteCacheDirectory(str(tmp_path))
        manager.SetCacheManager(cache)
        t.scene.SetCacheManager(cache)
        t.scene.SetDataIOManager(manager)
        assert t.scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    else:
        t.scene.SetURL(str(tmp_path / "scene.mrml"))
        t.scene.Connect()
    assert list(t.presenter.volumes.values()) == ["A", "B", "C"]
    assert [r.label for r in t.presenter.table.landmarks] == labels
    after = [{t.presenter.volumes[v]: c for v, c in r.cells.items()} for r in t.presenter.table.landmarks]
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        for name, cell in old.items():
            assert (new[name].status, new[name].confidence) == (cell.status, cell.confidence)
            assert cell.position_lps is None or np.allclose(new[name].position_lps, cell.position_lps, atol=1e-4)
    assert t.presenter.volumes[t.presenter.template] == "A"
    again = {n: t.scene.GetFirstNodeByName(n) for n in "ABC"}
    t.prepare(*again.values())
    key = t.bench.add("new", POINT)
    assert t.cell(key, again["B"]).status == "found" and t.cell(t.presenter.table.keys[1], again["C"]).status == "corrected"


def test_matches_in_another_order_are_known_by_their_names(t: Table) -> None:
    t.prepare()
    for name, point in (("one", POINT), ("two", POINT + 5)):
        t.bench.add(name, point)
    template, matches = t.bench.lists.template, t.bench.lists.matches[t.b.GetID()]
    t.bench.lists.use(None)
    for row, (name, ras) in enumerate((("two", (-2.0, -2.0, 2.0)), ("one", (-1.0, -1.0, 1.0)))):
        matches.SetNthControlPointLabel(row, name)
        matches.SetNthControlPointPosition(row, *ras)
    t.bench.lists.use(template)
    first, second = t.presenter.table.keys
    assert t.bench.world(first, t.b.GetID()) == (1.0, 1.0, 1.0)
    assert t.bench.world(second, t.b.GetID()) == (2.0, 2.0, 2.0)
    assert np.allclose(t.bench.world(first, t.c.GetID()), POINT + SHIFT)


def test_export_and_import_in_the_frame_of_the_files(t: Table, tmp_path: Path) -> None:
    t.a.SetAndObserveTransformNodeID(turn(t.scene).GetID())
    t.prepare()
    users = t.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "my points")
    t.bench.lists.use(users)
    t.bench.add("middle", mrml.to_world(t.a, [[50.0, 51.0, 52.0]])[0])
    for extension in (".mrk.json", ".csv", ".fcsv"):
        paths = t.bench.export(tmp_path, extension)
        assert [p.name for p in paths] == [f"my_points{extension}", f"my_points_in_B{extension}", f"my_points_in_C{extension}"]
        assert np.allclose(read_points(paths[0]).positions(), [[50, 51, 52]], atol=1e-5), "as the template's own file has it"
        assert np.allclose(read_points(paths[1]).positions(), [np.array(t.bench.world(t.presenter.table.keys[0], t.b.GetID()))], atol=1e-5)
    node = t.bench.import_points(tmp_path / "my_points.csv")
    assert node is t.bench.lists.template and node is not users
    assert np.allclose(mrml.from_world(t.a, t.bench.world(t.presenter.table.keys[0]))[0], [50, 51, 52], atol=1e-5)
    assert t.cell(t.presenter.table.keys[0], t.b).status == "found"
    with pytest.raises(InputError, match=r"cannot be written as '\.xyz'"):
        t.bench.export(tmp_path, ".xyz")


# --- views ----------------------------------------------------------------------------------------------------------------------------


def test_views_of_the_targets_jump_and_those_of_the_template_stay(t: Table) -> None:
    a, b = add_view(t.scene, "V1", t.a), add_view(t.scene, "V2", t.b)
    t.prepare()
    key = t.bench.add("carina", POINT)
    middle = [b.GetSliceToRAS().GetElement(i, 3) for i in range(3)]
    assert np.allclose(middle, (POINT + SHIFT) * [-1, -1, 1])
    assert [a.GetSliceToRAS().GetElement(i, 3) for i in range(3)] == [0, 0, 0]
    t.bench.jump_to(key)
    assert np.allclose([a.GetSliceToRAS().GetElement(i, 3) for i in range(3)], POINT * [-1, -1, 1])


def test_layout_has_a_row_of_three_views_per_volume_in_its_own_group(t: Table) -> None:
    from xml.etree import ElementTree

    tree = ElementTree.fromstring(views.layout_xml(["A", "B & <C>"]))
    found = [(v.get("singletontag"), {p.get("name"): p.text for p in v}) for v in tree.iter("view")]
    assert [p["orientation"] for _, p in found] == ["Axial", "Sagittal", "Coronal"] * 2
    assert [p["viewgroup"] for _, p in found] == ["100"] * 3 + ["101"] * 3
    assert all(tag.isalnum() for tag, _ in found) and len({tag for tag, _ in found}) == 6
    layout = t.scene.AddNewNodeByClass("vtkMRMLLayoutNode", "layout")
    for row in (0, 1):
        for orientation in views.ORIENTATIONS:
            add_view(t.scene, views.view_tag(row, orientation), None)
    views.use_layout(t.scene, [t.a, t.b])
    assert layout.GetViewArrangement() == views.LAYOUT_ID and "B" in layout.GetLayoutDescription(views.LAYOUT_ID)
    assert len(views.views_of(t.scene, t.a)) == len(views.views_of(t.scene, t.b)) == 3
    assert {v.GetViewGroup() for v in views.views_of(t.scene, t.b)} == {101}


def test_a_layout_is_centred_on_its_volume_and_an_overlay_takes_no_view_from_it(t: Table) -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = [10, -20, 30]
    grid = Grid((20, 30, 40), affine)
    array = np.zeros(grid.shape_zyx, np.int16)
    flat = mrml.volume_to_node(t.scene, Volume(array, grid, "ct", "flat"))
    view = add_view(t.scene, views.view_tag(0, "Axial"), None)
    views.fill_layout(t.scene, [flat])
    middle = [view.GetSliceToRAS().GetElement(i, 3) for i in range(3)]
    assert np.allclose(middle, grid.corners().mean(axis=0) * [-1, -1, 1])
    views.show_overlay(t.scene, t.b, flat)
    assert views.views_of(t.scene, flat) == [view] and views.views_of(t.scene, t.b) == []


class Crosshair:
    """The scene's cross-hair as far as the cursor asks it: the view and the place, RAS."""

    def __init__(self, view: Any, ras: tuple[float, float, float]) -> None:
        self.view, self.ras = view, ras

    def GetCursorPositionXYZ(self, xyz: list[float]) -> Any:  # noqa: N802
        return self.view

    def GetCrosshairRAS(self) -> tuple[float, float, float]:  # noqa: N802
        return self.ras


def test_live_cursor_says_by_its_colour_what_is_uncertain_and_waits_for_no_volume(t: Table) -> None:
    t.engine.unsure = lambda p: p[0] > 30
    t.prepare(t.a, t.b)
    cursor = LiveCursor(t.bench)
    for x, sure in ((20.0, True), (40.0, False), (25.0, True)):
        cursor.offer([x, 30.0, 40.0])
        cursor.follow()
        assert bool(cursor._crosses[t.b.GetID()].GetNthControlPointSelected(0)) is sure
    assert list(cursor._crosses) == [t.b.GetID()], "C is not prepared"


def test_live_cursor_reads_the_cross_hair_as_ras(t: Table) -> None:
    over_a, over_b = add_view(t.scene, "V1", t.a), add_view(t.scene, "V2", t.b)
    t.prepare()
    cursor, ras = LiveCursor(t.bench), (-20.0, -30.0, 40.0)
    assert not cursor.offer_crosshair(Crosshair(None, ras))
    assert not cursor.offer_crosshair(Crosshair(over_b, ras)), "over a target"
    assert cursor.offer_crosshair(Crosshair(over_a, ras))
    cursor.follow()
    middle = [over_b.GetSliceToRAS().GetElement(i, 3) for i in range(3)]
    assert np.allclose(middle, np.array(ras) + SHIFT * [-1, -1, 1])
    cross = cursor._crosses[t.b.GetID()]
    assert np.allclose(cross.GetNthControlPointPosition(0), middle)


def test_overlay_lies_right_over_volumes_under_different_transforms(t: Table) -> None:
    t.a.SetAndObserveTransformNodeID(turn(t.scene).GetID())
    t.b.SetAndObserveTransformNodeID(turn(t.scene, 15).GetID())
    t.prepare()
    key = t.bench.add("middle", mrml.to_world(t.b, [[50.0, 50.0, 50.0]])[0] - SHIFT)
    t.a.SetAndObserveTransformNodeID(None)  # moved since: its points go along, the answer stays
    t.b.SetAndObserveTransformNodeID(turn(t.scene, -70).GetID())
    overlay = Overlay(t.bench)
    node = overlay.show(key, t.b.GetID())
    volume = mrml.volume_from_node(node)
    brightest = volume.grid.index_to_world(np.argwhere(volume.array == volume.array.max()))[0]
    assert np.linalg.norm(brightest - t.bench.world(key, t.b.GetID())) < 4
    overlay.hide()


def test_nothing_is_observed_after_closing(t: Table) -> None:
    t.prepare()
    key = t.bench.add("carina", POINT)
    t.bench.close()
    t.engine.calls.clear()
    t.drag(t.bench.lists.template, 0, (-44.0, -46.0, 48.0))
    t.scene.RemoveNode(t.b)
    assert t.engine.calls == [] and np.allclose(t.presenter.table.row(key).position_lps, POINT)


def test_an_error_in_a_callback_is_reported(t: Table) -> None:
    t.prepare()
    t.engine.match = lambda *_: 1 / 0  # type: ignore[method-assign,assignment]
    node = t.bench.placing_list()
    node.AddControlPoint([0.0, 0.0, 0.0], "p")
    assert [type(e) for e in t.errors] == [ZeroDivisionError]
    t.errors.clear()


def test_fifty_landmarks_in_three_volumes_cost_little_beside_the_matching(t: Table, tmp_path: Path) -> None:
    """What lists, table and nodes add: the engine here answers at once."""
    t.prepare()
    rows = "".join(f"p{i},{20 + i / 10},30,40\n" for i in range(50))
    (tmp_path / "fifty.csv").write_text("label,x,y,z\n" + rows)
    start = time.perf_counter()
    t.bench.import_points(tmp_path / "fifty.csv")
    assert len(t.presenter.table) == 50 and all(len(r.cells) == 2 for r in t.presenter.table.landmarks)
    assert time.perf_counter() - start < 0.5
    start = time.perf_counter()
    t.bench.add("one more", POINT)
    assert time.perf_counter() - start < 0.25, "a click"
