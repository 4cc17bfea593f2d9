"""Intensity refinement: a wrong start gets right across modalities, and a result out of bounds is refused."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest
from positions import ball, carried, lps_grid, motion, textured

from UniversalAnatomicalEmbeddingLib.progress import Cancelled
from UniversalAnatomicalEmbeddingLib.registration import refine
from UniversalAnatomicalEmbeddingLib.registration.refine import refine_linear
from UniversalAnatomicalEmbeddingLib.volume import Volume

TRUTH = motion((10, -5, 20), (30, 10, -25))
FIXED = textured(lps_grid((-90, -66, -80), (180, 132, 160), 4.0), lambda p: p, "ct", "fixed")
MOVING = textured(lps_grid((-90, -90, -110), (220, 190, 180), 4.0), lambda p: carried(np.linalg.inv(TRUTH), p), "mr", "moving")
BODY = np.array([p for p in np.random.default_rng(0).uniform(-60, 60, (400, 3)) if ball(p)])


def tre(matrix: np.ndarray) -> float:
    return float(np.median(np.linalg.norm(carried(matrix, BODY) - carried(TRUTH, BODY), axis=1)))


@pytest.mark.parametrize("model", ["rigid", "affine"])
def test_a_start_off_by_a_turn_and_a_shift_gets_right(model: str) -> None:
    start = TRUTH @ motion((9, -6, 5), (6, -5, 7))
    found = refine_linear(model, start, FIXED, MOVING, BODY)
    assert tre(start) > 9
    assert found.matrix is not None
    assert tre(found.matrix) < 1.5
    assert found.moved_mm == pytest.approx(np.linalg.norm(carried(start, BODY) - carried(found.matrix, BODY), axis=1).mean(), abs=0.01)


def test_it_is_repeatable() -> None:
    first, second = (refine_linear("rigid", TRUTH, FIXED, MOVING, BODY, seed=3) for _ in range(2))
    assert first.matrix is not None and second.matrix is not None
    np.testing.assert_allclose(first.matrix, second.matrix, atol=1e-6)


def test_what_would_run_away_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine, "FARTHEST_MM", 2.0)
    found = refine_linear("rigid", TRUTH @ motion((0, 0, 0), (12, 0, 0)), FIXED, MOVING, BODY)
    assert found.matrix is None
    assert "would move the body" in found.failure


def test_scans_that_do_not_meet_are_refused_with_the_reason() -> None:
    found = refine_linear("rigid", motion((0, 0, 0), (2000, 0, 0)), FIXED, MOVING, BODY)
    assert found.matrix is None
    assert "overlap too little" in found.failure


def test_a_scan_without_contrast_does_not_run_away() -> None:
    flat = Volume(np.full(MOVING.array.shape, 7, np.int16), MOVING.grid, "mr", "flat")
    found = refine_linear("rigid", TRUTH, FIXED, flat, BODY)
    assert found.matrix is None or tre(found.matrix) < 31


def test_cancelling_stops_it() -> None:
    cancel = Event()
    cancel.set()
    with pytest.raises(Cancelled):
        refine_linear("rigid", TRUTH, FIXED, MOVING, BODY, cancel=cancel)
