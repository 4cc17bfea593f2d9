"""Point lists: landmarks and matches to control points and back."""

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
from scene_nodes import fiducials  # noqa: E402

from UniversalAnatomicalEmbeddingLib import mrml  # noqa: E402
from UniversalAnatomicalEmbeddingLib.landmarks.points import read_points, write_points  # noqa: E402
from UniversalAnatomicalEmbeddingLib.landmarks.table import Cell  # noqa: E402

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
