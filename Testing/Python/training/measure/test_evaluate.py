"""Errors of a model on landmarks and known warps."""

from __future__ import annotations

import numpy as np
import pytest
from small_scans import small

from training.measure.evaluate import Case, errors, landmark_cases, summary
from UniversalAnatomicalEmbeddingLib.landmarks.points import Point, PointList
from UniversalAnatomicalEmbeddingLib.models.model import load_model

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|isinstance.treespec|srun|GPU available).*")


def test_landmarks_are_compared_by_name_and_only_on_the_targets_asked_for() -> None:
    a = small("a"), PointList((Point("x", (0.0, 50.0, 540.0)), Point("y", (1.0, 2.0, 3.0))))
    b = small("b"), PointList((Point("z", (5.0, 5.0, 5.0)), Point("x", (4.0, 52.0, 545.0))))
    c = small("c"), PointList((Point("w", (5.0, 5.0, 5.0)),))
    [case] = landmark_cases([a, b, c], ["b", "c"])
    assert (case.template.name, case.target.name) == ("a", "b")
    np.testing.assert_array_equal(case.points, [[0, 50, 540]])
    np.testing.assert_array_equal(case.truth, [[4, 52, 545]])
    assert len(landmark_cases([a, b, c], ["a", "b", "c"])) == 2


def test_errors_are_distances_from_the_truth() -> None:
    scan = small("a")
    points = np.array([[0.0, 50.0, 540.0], [10.0, 60.0, 550.0]])
    found = errors(load_model(), [Case(scan, points, scan, points), Case(scan, points, scan, points + [3.0, 4.0, 0.0])], "cpu")
    assert len(found) == 4
    assert found[:2].max() < 1.5
    assert found[2:] == pytest.approx([5, 5], abs=1.5)
    assert summary(np.array([1.0, 2.0, 3.0, 30.0])) == {"n": 4, "median_mm": 2.5, "mean_mm": 9.0, "p95_mm": 25.95, "within_10mm": 0.75}
    assert summary(np.array([])) == {"n": 0}
