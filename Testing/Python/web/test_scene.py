"""What the browser face relies on in the scene."""

from __future__ import annotations

import pytest
from requires import needs_mrml
from samples import tissue_volume

from UniversalAnatomicalEmbeddingLib import mrml

needs_mrml()


@pytest.mark.parametrize("modality", ["ct", "mr", None])
def test_a_volume_node_remembers_what_the_file_or_the_command_line_said(modality: str | None) -> None:
    import slicer

    scene = slicer.vtkMRMLScene()
    volume = tissue_volume((6, 7, 8))
    node = mrml.volume_to_node(scene, type(volume)(volume.array, volume.grid, modality, "scan"))  # type: ignore[arg-type]
    again = mrml.volume_from_node(node)
    assert again.modality == modality and (again.array == volume.array).all() and again.grid.affine == pytest.approx(volume.grid.affine)
