"""Dense correspondences: keypoints in the body, pairs that are true, both ways, weights by rank."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest
from positions import ball, carried, coded_scan, lps_grid, motion

from UniversalAnatomicalEmbeddingLib.registration.correspondences import find_correspondences, match_in_bulk, spread_points
from UniversalAnatomicalEmbeddingLib.system.progress import Cancelled

MOVE = motion((4, -3, 6), (15, -20, 120))
FIXED = coded_scan(lps_grid((-80, -60, -100), (160, 120, 200)), lambda p: p, "fixed")
MOVING = coded_scan(lps_grid((-70, -90, 20), (170, 130, 200)), lambda p: carried(np.linalg.inv(MOVE), p), "moving", noise=0.2)
PART = coded_scan(lps_grid((-60, -50, -20), (120, 100, 48)), lambda p: p, "part")


def test_keypoints_lie_in_the_body_and_cover_it() -> None:
    points = spread_points(FIXED, 500, np.random.default_rng(0))
    assert 400 < len(points) < 620
    assert ball(points, (72, 52, 92)).all()
    body = FIXED.embedding.fine_grid.index_to_world(np.argwhere(FIXED.embedding.anatomy))
    nearest = np.linalg.norm(body[::50, None] - points, axis=2).min(axis=1)
    assert nearest.max() < 25


def test_a_body_that_fills_the_scan_gets_one_keypoint_in_each_cell() -> None:
    """Cubes and cells coincide here, so half a cell of error would empty those at an end."""
    whole = coded_scan(lps_grid((-18, -12, -14), (36, 24, 28)), lambda p: p)
    body = np.asarray(whole.embedding.anatomy)
    assert body.all()
    index = whole.embedding.fine_grid.world_to_index(spread_points(whole, body.size, np.random.default_rng(0)))
    counts = np.zeros(body.shape, dtype=int)
    np.add.at(counts, tuple(np.rint(index).astype(int).T), 1)
    assert (counts == 1).all()
    np.testing.assert_allclose(index.mean(axis=0), (np.array(body.shape) - 1) / 2, atol=0.05)


def test_pairs_are_the_same_anatomy_both_ways() -> None:
    pairs = find_correspondences(FIXED, MOVING, 400, 0)
    error = np.linalg.norm(pairs.moving_lps - carried(MOVE, pairs.fixed_lps), axis=1)
    assert len(pairs) > 300
    assert len(pairs.fixed_keypoints) + len(pairs.moving_keypoints) >= len(pairs)
    for side in (pairs.forward, ~pairs.forward):
        assert side.sum() > 100
        assert np.median(error[side]) < 1.5
        assert np.percentile(error[side], 95) < 6


def test_each_pair_says_in_which_scan_its_keypoint_was_set() -> None:
    pairs = find_correspondences(FIXED, PART, 200, 0)

    def among(points: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
        return (points[:, None] == keypoints).all(axis=2).any(axis=1)

    assert among(pairs.fixed_lps, pairs.fixed_keypoints).tolist() == pairs.forward.tolist()
    assert among(pairs.moving_lps, pairs.moving_keypoints).tolist() == (~pairs.forward).tolist()
    assert 0 < pairs.forward.sum() != (~pairs.forward).sum(), "unequal halves, or it shows nothing"


def test_a_scan_of_a_small_part_is_matched_to_that_part() -> None:
    pairs = find_correspondences(FIXED, PART, 400, 0)
    error = np.linalg.norm(pairs.moving_lps - pairs.fixed_lps, axis=1)
    assert len(pairs) > 150
    assert (error < 8).mean() > 0.8


def test_weights_go_by_the_rank_of_the_margin_alone() -> None:
    pairs = find_correspondences(FIXED, MOVING, 400, 0)
    assert pairs.weight.min() >= 0.5
    assert pairs.weight.max() <= 1.5
    assert pairs.weight.mean() == pytest.approx(1.0, abs=0.01)


def test_a_distinct_place_has_a_larger_margin_than_a_repeated_one() -> None:
    """Two places with one code: the margin of each is about zero."""
    double = coded_scan(lps_grid((-80, -60, -100), (160, 120, 200)), lambda p: np.stack([np.abs(p[:, 0]), p[:, 1], p[:, 2]], 1), "double")
    points = np.array([[40.0, 0, 10], [0, 0, 10]])
    _, margin = match_in_bulk(double.query(points), double)
    _, unique = match_in_bulk(FIXED.query(points), FIXED)
    assert margin[0] < 0.02
    assert unique[0] > margin[0] + 0.02


def test_the_seed_decides() -> None:
    a, b, c = (find_correspondences(FIXED, PART, 100, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.fixed_lps, b.fixed_lps)
    assert a.fixed_lps.shape != c.fixed_lps.shape or not np.allclose(a.fixed_lps, c.fixed_lps)


def test_cancelling_stops_it() -> None:
    cancel = Event()
    cancel.set()
    with pytest.raises(Cancelled):
        find_correspondences(FIXED, MOVING, 400, 0, cancel)
