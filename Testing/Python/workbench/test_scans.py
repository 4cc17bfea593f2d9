"""The volumes of the scene: moved, changed or deleted, before and while they are embedded."""

from __future__ import annotations

import numpy as np
import pytest
import requires

requires.needs_mrml()

import slicer  # noqa: E402
import vtk  # noqa: E402
from fake_engine import SHIFT  # noqa: E402
from workbench_table import (  # noqa: E402
    POINT,
    Table,
    add_view,
    turn,
)

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.system.errors import InputError  # noqa: E402


def test_moving_a_volume_takes_its_points_along_and_makes_it_stale_but_usable(t: Table) -> None:
    t.prepare()
    key = t.bench.add("carina", POINT)
    transform = turn(t.scene)
    t.b.SetAndObserveTransformNodeID(transform.GetID())
    status = t.presenter.readiness.status(t.b.GetID())
    assert status.state == "stale" and status.usable and "moved" in status.reason
    assert np.allclose(t.bench.world(key, t.b.GetID()), mrml.to_world(t.b, [POINT + SHIFT])[0])
    other = t.bench.add("hilum", POINT + 10)
    assert np.allclose(t.bench.world(other, t.b.GetID()), mrml.to_world(t.b, [POINT + 10 + SHIFT])[0], atol=1e-6), "still exact"
    t.b.SetAndObserveTransformNodeID(None)
    assert t.presenter.readiness.status(t.b.GetID()).state == "ready"
    transform.SetMatrixTransformToParent(vtk.vtkMatrix4x4())
    assert t.presenter.readiness.status(t.b.GetID()).state == "ready"


def test_moving_the_template_moves_its_own_list_but_not_one_of_the_user(t: Table) -> None:
    t.prepare()
    key = t.bench.add("carina", POINT)
    own = t.bench.lists.template
    t.a.SetAndObserveTransformNodeID(turn(t.scene).GetID())
    assert own.GetTransformNodeID() == t.a.GetTransformNodeID()
    assert np.allclose(t.bench.world(key), mrml.to_world(t.a, [POINT])[0])
    users = t.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "mine")
    users.AddControlPoint([-1.0, -2.0, 3.0], "mine")
    t.bench.lists.use(users)
    assert users.GetTransformNodeID() is None and t.bench.world(t.presenter.table.keys[0]) == (1.0, 2.0, 3.0)


def test_changed_voxels_make_a_volume_unusable_until_it_is_prepared_again(t: Table) -> None:
    t.prepare()
    slicer.util.arrayFromVolume(t.b)[:] = 7
    slicer.util.arrayFromVolumeModified(t.b)
    status = t.presenter.readiness.status(t.b.GetID())
    assert status.state == "stale" and not status.usable
    key = t.bench.add("carina", POINT)
    assert t.cell(key, t.b).status == "waiting" and t.cell(key, t.c).status == "found"
    with pytest.raises(InputError, match="B is not prepared"):
        t.bench.scans.find([POINT], t.b.GetID())
    t.prepare(t.b)
    assert t.cell(key, t.b).status == "found"


def test_a_volume_that_changes_while_it_is_embedded_is_stale_at_once(t: Table) -> None:
    snapshot = t.bench.scans.snapshot(t.b.GetID())
    slicer.util.arrayFromVolume(t.b)[:] = 7
    slicer.util.arrayFromVolumeModified(t.b)
    t.bench.ready(t.b.GetID(), snapshot, snapshot.volume)
    assert t.presenter.readiness.status(t.b.GetID()).state == "stale"


def test_deleting_volumes_and_lists_mid_work_is_harmless(t: Table) -> None:
    add_view(t.scene, "V2", t.b)
    t.prepare()
    key = t.bench.add("carina", POINT)
    t.bench.correct(key, t.b.GetID(), [1.0, 2.0, 3.0])
    orphan = t.bench.lists.matches[t.b.GetID()]
    assert orphan.GetDisplayNode().GetVisibility()
    t.scene.RemoveNode(t.b)
    assert t.presenter.targets == (t.c.GetID(),) and t.scene.IsNodePresent(orphan) and not orphan.GetDisplayNode().GetVisibility()
    t.scene.RemoveNode(t.bench.lists.matches[t.c.GetID()])
    assert t.cell(key, t.c).status == "waiting"
    t.bench.match()
    assert t.cell(key, t.c).status == "found"
    t.scene.RemoveNode(t.bench.lists.template)
    assert len(t.presenter.table) == 0 and t.bench.lists.template is None
    t.bench.undo()
    t.scene.RemoveNode(t.a)
    assert t.presenter.template == t.c.GetID() and t.presenter.prepare_button.text == "Load another volume as the target"
    t.scene.RemoveNode(t.c)
    t.bench.add.__self__.refresh()
    assert t.presenter.volumes == {}
