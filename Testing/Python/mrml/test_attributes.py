"""What is kept on nodes is saved with the scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requires

requires.needs_mrml()

import slicer  # noqa: E402
from scene_nodes import fiducials, volume  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402


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
