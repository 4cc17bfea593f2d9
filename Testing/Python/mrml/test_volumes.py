"""The bridge to real MRML nodes: signs, frames, statuses, what is stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import requires

requires.needs_mrml()

import slicer  # noqa: E402
import vtk  # noqa: E402
from samples import OBLIQUE  # noqa: E402
from scene_nodes import rotation, volume, warp, world_of_voxel  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.system.errors import InputError  # noqa: E402

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
