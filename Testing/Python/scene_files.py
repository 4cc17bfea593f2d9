"""Scenes written as Slicer writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save(scene: Any, folder: Path) -> None:
    """A .mrml scene file and its data files, as Slicer's save dialog writes them."""
    scene.SetRootDirectory(str(folder))
    scene.SetURL(str(folder / "scene.mrml"))
    for node in [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]:
        if node.IsA("vtkMRMLStorableNode") and node.GetSaveWithScene() and node.AddDefaultStorageNode():
            storage = node.GetStorageNode()
            storage.SetFileName(str(folder / f"{node.GetID()}.{storage.GetDefaultWriteFileExtension() or 'nrrd'}"))
            assert storage.WriteData(node)
    assert scene.Commit()
