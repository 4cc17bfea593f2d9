"""The point lists of the scene mirror the table."""

from __future__ import annotations

import pytest
import requires

requires.needs_mrml()


from workbench_table import (  # noqa: E402
    POINT,
    Table,
    add_view,
)

from UniversalAnatomicalEmbeddingLib.mrml import views  # noqa: E402
from UniversalAnatomicalEmbeddingLib.system.errors import InputError  # noqa: E402
from UniversalAnatomicalEmbeddingLib.workbench.lists import template_candidates  # noqa: E402


def test_what_is_done_in_the_markups_module_is_taken_over(t: Table) -> None:
    t.prepare()
    for name in ("one", "two", "three"):
        t.bench.add(name, POINT)
    template, matches = t.bench.lists.template, t.bench.lists.matches[t.b.GetID()]
    template.SetNthControlPointLabel(1, "renamed")
    assert matches.GetNthControlPointLabel(1) == "renamed"
    template.RemoveNthControlPoint(0)
    assert [r.label for r in t.presenter.table.landmarks] == ["renamed", "three"]
    matches.RemoveNthControlPoint(0)
    assert [matches.GetNthControlPointLabel(i) for i in range(2)] == ["renamed", "three"], "the rows of all lists stay the same"
    template.RemoveAllControlPoints()
    assert len(t.presenter.table) == 0 and matches.GetNumberOfControlPoints() == 0
    t.bench.undo()
    assert template.GetNumberOfControlPoints() == 2


def test_lists_of_the_scene_and_templates_that_change(t: Table) -> None:
    t.prepare()
    first = t.bench.add("in A", POINT)
    list_a = t.bench.lists.template
    t.bench.set_template(t.b.GetID())
    assert t.bench.lists.template is None and len(t.presenter.table) == 0
    t.bench.add("in B", POINT)
    assert t.cell(t.presenter.table.keys[0], t.a).status == "found"
    t.bench.set_template(t.a.GetID())
    assert t.bench.lists.template is list_a and t.presenter.table.landmarks[0].label == "in A"
    assert t.presenter.table.landmarks[0].cell(t.b.GetID()).status == "found" and first
    users = t.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "mine")
    users.AddControlPoint([-20.0, -30.0, 40.0], "mine")
    candidates = template_candidates(t.scene)
    assert users in candidates and t.bench.lists.matches[t.b.GetID()] not in candidates
    t.bench.lists.use(users)
    t.bench.match()
    with pytest.raises(InputError, match="holds matches"):
        t.bench.lists.use(t.bench.lists.matches[t.b.GetID()])
    assert t.cell(t.presenter.table.keys[0], t.b).status == "found"


def test_every_list_is_seen_in_the_views_of_its_volume_only(t: Table) -> None:
    seen = {name: add_view(t.scene, name, node) for name, node in (("V1", t.a), ("V2", t.b), ("V3", t.b), ("V4", None))}
    t.prepare()
    t.bench.add("carina", POINT)
    ids = {name: view.GetID() for name, view in seen.items()}
    displayed = {n.GetName(): set(n.GetDisplayNode().GetViewNodeIDs()) for n in t.bench.lists.matches.values()}
    assert displayed["Landmarks in B"] == {ids["V2"], ids["V3"]}
    assert set(t.bench.lists.template.GetDisplayNode().GetViewNodeIDs()) == {ids["V1"]}
    assert not t.bench.lists.matches[t.c.GetID()].GetDisplayNode().GetVisibility(), (
        "C is in no view; no list of views would mean everywhere"
    )
    composite = next(c for _, c in views.slice_views(t.scene) if c.GetLayoutName() == "V3")
    composite.SetBackgroundVolumeID(t.c.GetID())
    assert t.bench.lists.matches[t.c.GetID()].GetDisplayNode().GetVisibility()
    assert set(t.bench.lists.matches[t.c.GetID()].GetDisplayNode().GetViewNodeIDs()) == {ids["V3"]}
