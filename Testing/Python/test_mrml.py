"""The bridge to real MRML nodes: signs, frames, statuses, what is stored."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requires

requires.needs_mrml()

import slicer  # noqa: E402
import vtk  # noqa: E402
from samples import OBLIQUE  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.errors import InputError  # noqa: E402
from UniversalAnatomicalEmbeddingLib.geometry import Grid  # noqa: E402
from UniversalAnatomicalEmbeddingLib.points import read_points, write_points  # noqa: E402
from UniversalAnatomicalEmbeddingLib.table import Cell  # noqa: E402
from UniversalAnatomicalEmbeddingLib.volume import Volume  # noqa: E402

ROWS = [
    ("carina", Cell("found", (1.0, -2.0, 3.0), 0.8)),
    ("apex", Cell("absent", None, 0.1)),
    ("hilum", Cell("failed", None, None, "It lies outside; place it inside.")),
    ("notch", Cell("rejected", (1.0, 2.0, 4.0), 0.5)),
    ("dome", Cell()),
    ("arch", Cell("uncertain", (9.0, 2.0, 4.0), 0.3)),
    ("gone", Cell("accepted", None, 0.2)),
    ("valve", Cell("corrected", (3.0, 2.0, 1.0), 0.7)),
    ("tip", Cell("accepted", (0.0, 0.0, 0.0), math.nextafter(0.9, 1))),
]


@pytest.fixture
def scene() -> Any:
    return slicer.vtkMRMLScene()


def volume(scene: Any, affine_lps: np.ndarray = OBLIQUE) -> Any:
    """A node whose voxels are their own numbers, on a grid given in LPS."""
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    return mrml.volume_to_node(scene, Volume(array, Grid((4, 5, 6), affine_lps), None, "scan"))


def rotation(scene: Any, name: str = "turn") -> Any:
    """A rotation about two axes with a shift: no sign error goes unseen."""
    turn = vtk.vtkTransform()
    turn.Translate(10, 20, 40)
    turn.RotateX(35)
    turn.RotateZ(50)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", name)
    node.SetMatrixTransformToParent(turn.GetMatrix())
    return node


def warp(scene: Any) -> Any:
    """A thin-plate spline."""
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for point in np.ndindex(2, 2, 2):
        corner = np.array(point) * 200.0 - 100
        source.InsertNextPoint(*corner)
        target.InsertNextPoint(*(corner + [8 * point[1], -12 * point[2], 15 * point[0] * point[1]]))
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    spline.SetBasisToR()
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "warp")
    node.SetAndObserveTransformToParent(spline)
    return node


def world_of_voxel(node: Any, xyz: tuple[int, int, int]) -> np.ndarray:
    """What the scene itself says about where a voxel is, LPS."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    local = matrix.MultiplyPoint([*xyz, 1.0])[:3]
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), None, transform)
    x, y, z = transform.TransformPoint(local)
    return np.array([-x, -y, z])


# --- volumes and frames ---------------------------------------------------------------------------------------------------------------


def test_a_volume_survives_the_way_to_a_node_and_back(scene: Any) -> None:
    node = volume(scene)
    back = mrml.volume_from_node(node)
    assert back.array.dtype == np.int16 and back.array[3, 2, 1] == 3 * 30 + 2 * 6 + 1
    assert np.abs(back.grid.affine - OBLIQUE).max() < 1e-12
    assert np.abs(back.grid.index_to_world([[3, 2, 1]]) - world_of_voxel(node, (1, 2, 3))).max() < 1e-9


def test_a_volume_is_taken_as_it_lies_in_the_world(scene: Any) -> None:
    node = volume(scene)
    outer = rotation(scene)
    inner = rotation(scene, "inner")
    inner.SetAndObserveTransformNodeID(outer.GetID())
    node.SetAndObserveTransformNodeID(inner.GetID())
    grid = mrml.volume_from_node(node).grid
    assert np.abs(grid.index_to_world([[3, 2, 1]]) - world_of_voxel(node, (1, 2, 3))).max() < 1e-9


def test_under_a_warp_a_volume_is_taken_in_its_own_frame(scene: Any) -> None:
    node = volume(scene)
    node.SetAndObserveTransformNodeID(warp(scene).GetID())
    assert np.abs(mrml.volume_from_node(node).grid.affine - OBLIQUE).max() < 1e-12
    assert np.array_equal(mrml.pose(node), np.eye(4))
    at = mrml.volume_from_node(node).grid.index_to_world([[3, 2, 1]])
    assert np.abs(mrml.to_world(node, at) - world_of_voxel(node, (1, 2, 3))).max() < 1e-6
    assert np.abs(mrml.to_world(node, at) - at).max() > 1, "the warp moves this voxel"
    assert np.abs(mrml.from_world(node, mrml.to_world(node, at)) - at).max() < 1e-3


def test_points_follow_a_volume_that_moves_after_it_was_embedded(scene: Any) -> None:
    node = volume(scene)
    node.SetAndObserveTransformNodeID(rotation(scene).GetID())
    then, grid = mrml.pose(node), mrml.volume_from_node(node).grid
    moved = rotation(scene, "later")
    moved.ApplyTransformMatrix(moved.GetMatrixTransformToParent())
    for transform in (moved.GetID(), warp(scene).GetID(), None):
        node.SetAndObserveTransformNodeID(transform)
        world = world_of_voxel(node, (1, 2, 3))
        in_scan = mrml.scan_from_world(node, then, world)
        assert np.abs(grid.world_to_index(in_scan) - [3, 2, 1]).max() < 1e-3
        assert np.abs(mrml.world_from_scan(node, then, in_scan) - world).max() < 1e-3


def test_fingerprints_tell_voxels_from_moves(scene: Any) -> None:
    node, turn = volume(scene), rotation(scene)
    before = mrml.fingerprint(node)
    assert mrml.fingerprint(node) == before
    node.SetAndObserveTransformNodeID(turn.GetID())
    moved = mrml.fingerprint(node)
    assert moved != before and moved.voxels == before.voxels and moved.geometry == before.geometry
    node.SetAndObserveTransformNodeID(None)
    assert mrml.fingerprint(node) == before
    slicer.util.arrayFromVolume(node)[0, 0, 0] = 99
    slicer.util.arrayFromVolumeModified(node)
    assert mrml.fingerprint(node).voxels != before.voxels
    node.SetSpacing(1, 1, 1)
    assert mrml.fingerprint(node).geometry != before.geometry


def test_unusable_volumes_say_so(scene: Any) -> None:
    with pytest.raises(InputError, match="empty has no voxels"):
        mrml.volume_from_node(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))
    node, image = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "rgb"), vtk.vtkImageData()
    image.SetDimensions(2, 2, 2)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    node.SetAndObserveImageData(image)
    with pytest.raises(InputError, match="rgb has 3 values per voxel"):
        mrml.volume_from_node(node)


def test_the_modality_comes_from_the_dicom_header(scene: Any) -> None:
    node = volume(scene)
    assert mrml.volume_from_node(node).modality is None
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene) or scene.AddNewNodeByClass("vtkMRMLSubjectHierarchyNode")
    item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "MR")
    assert mrml.volume_from_node(node).modality == "mr"
    assert mrml.volume_from_node(node, "ct").modality == "ct"


def test_only_scans_are_listed(scene: Any) -> None:
    node = volume(scene)
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    mrml.set_attributes(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "ours"), {"Role": "passing"})
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hidden").HideFromEditorsOn()
    assert mrml.volume_nodes(scene) == [node]


def test_an_overlay_lies_where_its_volume_is(scene: Any) -> None:
    node = volume(scene)
    node.SetAndObserveTransformNodeID(rotation(scene).GetID())
    then, grid = mrml.pose(node), mrml.volume_from_node(node).grid
    node.SetAndObserveTransformNodeID(rotation(scene, "later").GetID())
    overlay = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "map")
    mrml.write_overlay(overlay, np.zeros((2, 3, 3), np.float32), grid.cells((2, 2, 2)), node, then)
    cell = np.array(world_of_voxel(overlay, (1, 1, 0)))
    voxels = np.array([world_of_voxel(node, v) for v in np.ndindex(4, 4, 2) if v[0] >= 2 and v[1] >= 2])
    assert np.abs(cell - voxels.mean(axis=0)).max() < 1e-9, "a cell is in the middle of its eight voxels"


# --- point lists ----------------------------------------------------------------------------------------------------------------------


def fiducials(scene: Any, name: str = "F") -> Any:
    return scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)


def test_positions_are_ras_in_the_node(scene: Any) -> None:
    node = fiducials(scene)
    node.AddControlPoint([11.0, 21.0, -389.0], "p")
    assert mrml.position(node, 0) == (-11.0, -21.0, -389.0)
    mrml.set_position(node, 0, (1.0, 2.0, 3.0))
    assert node.GetNthControlPointPosition(0) == (-1.0, -2.0, 3.0)


def test_matches_survive_being_written_and_read(scene: Any) -> None:
    node = fiducials(scene)
    for rows in (ROWS, ROWS[::-1], ROWS[2:4], ROWS):
        mrml.write_matches(node, rows)
        assert mrml.read_matches(node) == rows


def test_statuses_are_what_slicer_shows(scene: Any) -> None:
    node = fiducials(scene)
    mrml.write_matches(node, ROWS)
    by_label = {node.GetNthControlPointLabel(i): i for i in range(len(ROWS))}
    missing = {name for name, i in by_label.items() if node.GetNthControlPointPositionStatus(i) == node.PositionMissing}
    assert missing == {"apex", "gone"}
    undefined = {name for name, i in by_label.items() if node.GetNthControlPointPositionStatus(i) == node.PositionUndefined}
    assert undefined == {"hilum", "dome"}
    assert [name for name, i in by_label.items() if not node.GetNthControlPointSelected(i)] == ["arch"]
    assert [name for name, i in by_label.items() if not node.GetNthControlPointVisibility(i)] == ["notch"]
    assert node.GetNthControlPointDescription(by_label["hilum"]) == "failed; It lies outside; place it inside."


def test_a_point_that_a_person_put_into_a_match_list_is_a_correction(scene: Any) -> None:
    node = fiducials(scene)
    mrml.write_matches(node, ROWS)
    node.SetNthControlPointPosition(1, 1.0, 2.0, 3.0, node.PositionDefined)
    assert mrml.read_matches(node)[1] == ("apex", Cell("corrected", (-1.0, -2.0, 3.0), 0.1))


def test_the_preview_point_of_place_mode_is_no_landmark(scene: Any) -> None:
    node = fiducials(scene)
    mrml.write_landmarks(node, [("a", (1.0, 2.0, 3.0)), ("b", None)])
    node.AddControlPoint([0.0, 0.0, 0.0], "hovering")
    node.SetNthControlPointPosition(2, 0.0, 0.0, 0.0, node.PositionPreview)
    assert [row[1:] for row in mrml.read_landmarks(node)] == [("a", (1.0, 2.0, 3.0)), ("b", None)]


def test_a_list_as_core_points_and_slicers_own_file_agree(scene: Any, tmp_path: Path) -> None:
    node = fiducials(scene, "matches")
    mrml.write_matches(node, ROWS)
    storage = slicer.vtkMRMLMarkupsJsonStorageNode()
    storage.SetFileName(str(tmp_path / "slicer.mrk.json"))
    assert storage.WriteData(node)
    write_points(mrml.point_list(node), tmp_path / "ours.mrk.json")
    theirs, ours = read_points(tmp_path / "slicer.mrk.json"), read_points(tmp_path / "ours.mrk.json")
    assert [(p.label, p.status, p.description) for p in theirs] == [(p.label, p.status, p.description) for p in ours]
    assert np.allclose(theirs.positions(), ours.positions(), atol=1e-9)
    assert theirs.points[0].measurements == pytest.approx({"confidence": 0.8})
    assert json.loads((tmp_path / "slicer.mrk.json").read_text())["markups"][0]["coordinateSystem"] == "LPS"


def test_links_and_provenance_survive_the_scene_file(scene: Any, tmp_path: Path) -> None:
    template, matches, node = fiducials(scene, "T"), fiducials(scene, "M"), volume(scene)
    mrml.link(matches, "TemplateList", template)
    mrml.link(matches, "Volume", node)
    mrml.set_attributes(matches, {"Model": "compact", "Version": "0.1.0"})
    assert mrml.match_lists(scene, template) == {node.GetID(): matches}
    scene.SetURL(str(tmp_path / "scene.mrml"))
    for item in (template, matches):
        storage = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialStorageNode")
        storage.SetFileName(str(tmp_path / f"{item.GetName()}.fcsv"))
        storage.WriteData(item)
        item.SetAndObserveStorageNodeID(storage.GetID())
    scene.Commit()
    loaded = slicer.vtkMRMLScene()
    loaded.SetURL(str(tmp_path / "scene.mrml"))
    loaded.Connect()
    again, list_again = loaded.GetFirstNodeByName("T"), loaded.GetFirstNodeByName("M")
    assert mrml.match_lists(loaded, again) == {loaded.GetFirstNodeByName("scan").GetID(): list_again}
    assert mrml.attribute(list_again, "Model") == "compact" and mrml.attribute(list_again, "Nothing") is None
