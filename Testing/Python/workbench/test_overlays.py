"""What follows the mouse or lies over a target without being kept."""

from __future__ import annotations

import numpy as np
import requires

requires.needs_mrml()

import slicer  # noqa: E402
import vtk  # noqa: E402
from fake_engine import SHIFT  # noqa: E402
from workbench_table import (  # noqa: E402
    POINT,
    Table,
    add_view,
)

from UniversalAnatomicalEmbeddingLib.mrml import views  # noqa: E402
from UniversalAnatomicalEmbeddingLib.workbench.overlays import LiveCursor, Overlay  # noqa: E402


def test_live_cursor_follows_the_last_position_only(t: Table) -> None:
    view = add_view(t.scene, "V2", t.b)
    t.prepare()
    cursor = LiveCursor(t.bench)
    assert cursor.offer([1.0, 2.0, 3.0]) and not cursor.offer(POINT)
    t.engine.calls.clear()
    cursor.follow()
    assert t.engine.calls == [1, 1]
    assert np.allclose([view.GetSliceToRAS().GetElement(i, 3) for i in range(3)], (POINT + SHIFT) * [-1, -1, 1])
    crosses = [n for n in (t.scene.GetNthNode(i) for i in range(t.scene.GetNumberOfNodes())) if n.GetName() == "Live cursor"]
    assert len(crosses) == 2 and not any(n.GetSaveWithScene() for n in crosses) and all(n.GetHideFromEditors() for n in crosses)
    assert len(t.presenter.table) == 0
    cursor.follow()
    assert t.engine.calls == [1, 1], "nothing new was offered"
    cursor.hide()
    assert not any(t.scene.IsNodePresent(n) for n in crosses)


def test_overlay_is_shown_over_its_target_and_taken_away(t: Table) -> None:
    add_view(t.scene, "V2", t.b)
    t.prepare()
    key = t.bench.add("carina", POINT)
    overlay = Overlay(t.bench)
    node = overlay.show(key, t.b.GetID())
    composite = next(c for _, c in views.slice_views(t.scene) if c.GetLayoutName() == "V2")
    assert composite.GetForegroundVolumeID() == node.GetID() and 0.2 < composite.GetForegroundOpacity() < 0.8
    values = slicer.util.arrayFromVolume(node)
    best = np.argwhere(values == values.max())[0][::-1]
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    assert np.linalg.norm(np.array(matrix.MultiplyPoint([*best, 1])[:3]) - (POINT + SHIFT) * [-1, -1, 1]) < 4
    assert t.presenter.volumes.keys() == {v.GetID() for v in (t.a, t.b, t.c)}, "it is no scan"
    overlay.hide()
    assert composite.GetForegroundVolumeID() is None and not t.scene.IsNodePresent(node)
