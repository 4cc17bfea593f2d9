"""Slice views: which show a volume, where they look, what is seen in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import requires

requires.needs_mrml()

import slicer  # noqa: E402
from scene_nodes import fiducials, volume  # noqa: E402

from UniversalAnatomicalEmbeddingLib.mrml import views  # noqa: E402


def view(scene: Any, name: str, background: Any = None, foreground: Any = None) -> Any:
    """A slice node and its composite node, as a layout makes them."""
    node = scene.AddNode(slicer.vtkMRMLSliceNode())
    node.SetLayoutName(name)
    composite = scene.AddNode(slicer.vtkMRMLSliceCompositeNode())
    composite.SetLayoutName(name)
    composite.SetBackgroundVolumeID(background.GetID() if background else None)
    composite.SetForegroundVolumeID(foreground.GetID() if foreground else None)
    return node


def test_a_view_shows_its_background_or_else_its_foreground(scene: Any) -> None:
    a, b = volume(scene), volume(scene)
    first, second, over = view(scene, "1", a), view(scene, "2", None, b), view(scene, "3", a, b)
    view(scene, "4")
    assert views.views_of(scene, a) == [first, over]
    assert views.views_of(scene, b) == [second]
    assert len(views.slice_views(scene)) == 4


def test_views_are_centred_on_a_point_of_the_world(scene: Any) -> None:
    shown = view(scene, "1", volume(scene))
    views.jump([shown], (20.0, -30.0, 40.0))
    assert np.allclose([shown.GetSliceToRAS().GetElement(i, 3) for i in range(3)], [-20, 30, 40])


def test_a_list_is_seen_in_its_views_and_in_none_where_it_has_none(scene: Any) -> None:
    points, first, second = fiducials(scene), view(scene, "1"), view(scene, "2")
    views.show_only_in(points, [first, second])
    assert set(points.GetDisplayNode().GetViewNodeIDs()) == {first.GetID(), second.GetID()}
    views.show_only_in(points, [second])
    assert points.GetDisplayNode().GetViewNodeIDs() == (second.GetID(),) and points.GetDisplayNode().GetVisibility()
    views.show_only_in(points, [])
    assert not points.GetDisplayNode().GetVisibility()


def test_matches_and_landmarks_have_their_colours(scene: Any) -> None:
    template, matches = fiducials(scene), fiducials(scene)
    views.style_template(template)
    views.style_matches(matches)
    assert template.GetDisplayNode().GetSelectedColor() == template.GetDisplayNode().GetColor() == views.BLUE
    assert matches.GetDisplayNode().GetSelectedColor() == views.GREEN and matches.GetDisplayNode().GetColor() == views.AMBER


def test_a_view_is_called_by_its_row_and_orientation(scene: Any) -> None:
    tags = {views.view_tag(row, orientation) for row in range(3) for orientation in views.ORIENTATIONS}
    assert len(tags) == 9 and all(tag.isalnum() for tag in tags)


def test_the_views_of_both_faces_are_named_and_ordered_in_one_place() -> None:
    package = Path(views.__file__).parents[2]
    assert [views.view_group(row) for row in (0, 1)] == [100, 101]
    named = {p.name for p in package.rglob("*.py") if re.search('ORIENTATIONS( =|: )|f"UAE', p.read_text(encoding="utf-8"))}
    assert named == {"views.py"}
