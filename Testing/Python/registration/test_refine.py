"""Intensity refinement: a wrong start gets right across modalities, and a result out of bounds is refused."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest
import SimpleITK as sitk
from positions import ball, carried, lps_grid, motion, textured

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume
from UniversalAnatomicalEmbeddingLib.registration import refine
from UniversalAnatomicalEmbeddingLib.registration.refine import refine_linear
from UniversalAnatomicalEmbeddingLib.system.progress import Cancelled

TRUTH = motion((10, -5, 20), (30, 10, -25))
FIXED = textured(lps_grid((-90, -66, -80), (180, 132, 160), 4.0), lambda p: p, "ct", "fixed")
MOVING = textured(lps_grid((-90, -90, -110), (220, 190, 180), 4.0), lambda p: carried(np.linalg.inv(TRUTH), p), "mr", "moving")
FARTHEST_MM = 110.0
BODY = np.array([p for p in np.random.default_rng(0).uniform(-60, 60, (400, 3)) if ball(p)])


def tre(matrix: np.ndarray) -> float:
    return float(np.median(np.linalg.norm(carried(matrix, BODY) - carried(TRUTH, BODY), axis=1)))


@pytest.mark.parametrize("model", ["rigid", "affine"])
def test_a_start_off_by_a_turn_and_a_shift_gets_right(model: str) -> None:
    start = TRUTH @ motion((9, -6, 5), (6, -5, 7))
    found = refine_linear(model, [start], FIXED, MOVING, BODY, FARTHEST_MM)
    assert tre(start) > 9
    assert found.matrix is not None
    assert tre(found.matrix) < 1.5
    assert found.moved_mm == pytest.approx(np.linalg.norm(carried(start, BODY) - carried(found.matrix, BODY), axis=1).mean(), abs=0.01)


def test_a_start_far_off_along_the_body_gets_right() -> None:
    start = TRUTH @ motion((-15, 15, 20), (10, 10, 80))
    found = refine_linear("rigid", [start], FIXED, MOVING, BODY, FARTHEST_MM)
    assert tre(start) > 60
    assert found.matrix is not None
    assert tre(found.matrix) < 1.5


def test_a_second_opinion_is_heard() -> None:
    wrong = TRUTH @ motion((0, 0, 170), (0, 0, 0))
    alone, both = (refine_linear("rigid", starts, FIXED, MOVING, BODY, FARTHEST_MM) for starts in ([wrong], [wrong, TRUTH]))
    assert alone.matrix is None or tre(alone.matrix) > 10
    assert both.matrix is not None
    assert tre(both.matrix) < 1.5


def test_what_a_tilted_scan_does_not_reach_is_not_taken_for_air() -> None:
    """The scan ends inside the body; tilted, its bounding box has corners that hold made-up air."""
    inner = textured(lps_grid((-40, -30, -40), (80, 60, 80), 4.0), lambda p: p, "mr", "inner")
    tilt = motion((20, 20, 30), (0, 0, 0))
    tilted = Volume(inner.array, Grid(inner.grid.shape_zyx, tilt @ inner.grid.affine), "mr", "tilted")
    prepared = refine._prepared(tilted, 2.0)
    points = tilted.grid.axis_aligned(2.0)
    z, y, x = np.nonzero(sitk.GetArrayFromImage(prepared.body))
    beyond = tilted.grid.outside_mm(points.index_to_world(np.stack([z, y, x], axis=1)))
    assert len(z) > 0.9 * 80 * 60 * 80 / 8
    assert beyond.max() <= 1.0
    found = refine_linear("rigid", [tilt @ motion((4, -3, 5), (6, 4, -5))], FIXED, tilted, BODY[ball(BODY, (38, 28, 38))], 60.0)
    assert found.matrix is not None
    there = carried(found.matrix, BODY) - carried(tilt, BODY)
    assert np.median(np.linalg.norm(there, axis=1)) < 2


def test_it_is_repeatable() -> None:
    first, second = (refine_linear("rigid", [TRUTH], FIXED, MOVING, BODY, FARTHEST_MM, seed=3) for _ in range(2))
    assert first.matrix is not None and second.matrix is not None
    np.testing.assert_allclose(first.matrix, second.matrix, atol=1e-6)


def test_where_other_evidence_speaks_against_it_it_does_not_go() -> None:
    start = TRUTH @ motion((9, -6, 5), (6, -5, 7))
    asked: list[np.ndarray] = []

    def believed(matrix: np.ndarray) -> bool:
        asked.append(matrix)
        return False

    found = refine_linear("rigid", [start], FIXED, MOVING, BODY, FARTHEST_MM, believed=believed)
    assert found.matrix is None
    assert "no keypoint agrees" in found.failure
    assert min(tre(matrix) for matrix in asked) < 10, "it is asked about maps from the fixed to the moving scan"


def test_what_was_believed_stays_where_the_last_level_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    descend, levels = refine._descend, []

    def noted(model, start, centre, images, level, *rest):
        levels.append(level)
        return descend(model, start, centre, images, level, *rest)

    monkeypatch.setattr(refine, "_descend", noted)
    start = TRUTH @ motion((9, -6, 5), (6, -5, 7))
    found = refine_linear("rigid", [start], FIXED, MOVING, BODY, FARTHEST_MM, believed=lambda matrix: levels[-1] is not refine.FINE)
    assert levels[-1] is refine.FINE
    assert found.matrix is not None
    assert tre(found.matrix) < 3 < tre(start)


def test_what_would_run_away_is_refused() -> None:
    found = refine_linear("rigid", [TRUTH @ motion((0, 0, 0), (12, 0, 0))], FIXED, MOVING, BODY, 2.0)
    assert found.matrix is None
    assert "would move the body" in found.failure


def test_scans_that_do_not_meet_are_refused_with_the_reason() -> None:
    found = refine_linear("rigid", [motion((0, 0, 0), (2000, 0, 0))], FIXED, MOVING, BODY, FARTHEST_MM)
    assert found.matrix is None
    assert "overlap too little" in found.failure


def test_a_scan_without_contrast_does_not_run_away() -> None:
    flat = Volume(np.full(MOVING.array.shape, 7, np.int16), MOVING.grid, "mr", "flat")
    found = refine_linear("rigid", [TRUTH], FIXED, flat, BODY, 31.0)
    assert found.matrix is None or tre(found.matrix) < 31


def test_cancelling_stops_it() -> None:
    cancel = Event()
    cancel.set()
    with pytest.raises(Cancelled):
        refine_linear("rigid", [TRUTH], FIXED, MOVING, BODY, FARTHEST_MM, cancel=cancel)
