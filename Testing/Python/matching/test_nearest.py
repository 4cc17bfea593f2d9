"""Nearest-neighbour search: the right cell, only in the body, with an honest margin and a position between the cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from searchables import ORIGIN, inner_points, restated, synthetic

from UniversalAnatomicalEmbeddingLib.matching.nearest import (
    NEAR_COARSE,
    QUERIES_AT_ONCE,
    SECOND_MODE_MM,
    STRAY_COST_PER_MM2,
    find_near,
    find_peaks,
    refine,
)
from UniversalAnatomicalEmbeddingLib.matching.searchable import Query


def test_pruned_search_finds_the_cell_of_the_exhaustive_one() -> None:
    cells = (32, 36, 40)
    template = synthetic(cells=cells, channels=24)
    target = synthetic(lambda p: p * 1.06 + 3.0 * np.sin(p[:, ::-1] / 30), cells=cells, channels=24)
    assert int(target.block_used.sum()) > 4 * 128, "with so few blocks nothing would be pruned"
    query = template.query(inner_points(1000, 1, 4.0, template))
    pruned, whole = find_peaks(query, target), find_peaks(query, target, exhaustive=True)
    same = (pruned.cell == whole.cell).all(axis=1)
    assert same.mean() >= 0.99
    np.testing.assert_allclose(pruned.points_lps[same], whole.points_lps[same], atol=1e-3)
    np.testing.assert_allclose(pruned.similarity[same], whole.similarity[same], atol=1e-5)
    assert (pruned.margin >= whole.margin - 1e-5)[same].all()


def test_exhaustive_search_is_the_argmax_of_the_restated_similarity() -> None:
    target = synthetic(heads=3)
    query = target.query(inner_points(20, 2))
    scores = restated(query, target).reshape(20, -1)
    peaks = find_peaks(query, target, exhaustive=True)
    np.testing.assert_array_equal(peaks.cell, np.stack(np.unravel_index(scores.argmax(1), target.shape), axis=1))
    np.testing.assert_allclose(peaks.similarity, scores.max(1), atol=2e-5)


@pytest.mark.parametrize("exhaustive", [False, True])
def test_cells_outside_the_body_are_never_returned(exhaustive: bool) -> None:
    body = np.zeros((20, 24, 28), dtype=bool)
    body[4:14, 6:18, 3:12] = np.random.default_rng(0).random((10, 12, 9)) < 0.3
    target = synthetic(body=body)
    points = inner_points(200, 3)
    there = target.embedding.fine_grid.world_to_index(points).round().astype(int)
    assert not body[tuple(there.T)].all(), "some queries must lie outside the body"
    peaks = find_peaks(synthetic().query(points), target, exhaustive)
    assert body[tuple(peaks.cell.T)].all()


@pytest.mark.parametrize("shape", [{}, {"cells": (24, 24, 12), "fine_stride": (1, 2, 4), "coarse_stride": (4, 8, 16)}])
def test_margin_is_against_the_best_cell_beyond_the_second_mode_distance(shape: dict) -> None:
    rng = np.random.default_rng(4)
    body = rng.random(shape.get("cells", (20, 24, 28))) < 0.8
    target = synthetic(body=body, **shape)
    query = target.query(inner_points(30, 5, scan=target))
    peaks = find_peaks(query, target, exhaustive=True)
    where = target.embedding.fine_grid.index_to_world(np.indices(target.shape).reshape(3, -1).T)
    scores = np.where(body.ravel(), restated(query, target).reshape(30, -1), -1)
    for row, cell, margin in zip(scores, peaks.cell, peaks.margin, strict=True):
        best = np.ravel_multi_index(cell, target.shape)
        far = np.linalg.norm(where - where[best], axis=1) > SECOND_MODE_MM
        assert margin == pytest.approx(row.max() - row[far].max(), abs=3e-5)
        assert margin > 3 * (row.max() - np.sort(row)[-2]), "a neighbouring cell is no second mode"


def test_margin_vanishes_where_the_scan_shows_the_same_thing_twice() -> None:
    def folded(points: np.ndarray) -> np.ndarray:
        return np.hstack([np.abs(points[:, :1] - 2.0), points[:, 1:]])

    target, template = synthetic(folded, cells=(16, 16, 28)), synthetic(cells=(16, 16, 28), origin=(0.0, -45.0, -30.0))
    peaks = find_peaks(template.query([[30.0, -20.0, 0.0], [3.0, -20.0, 0.0]]), target, exhaustive=True)
    assert abs(peaks.margin[0]) < 0.02
    assert peaks.margin[1] > 0.1


def test_coarse_similarity_is_reported_at_the_peak() -> None:
    target = synthetic()
    query = target.query(inner_points(10, 6))
    peaks = find_peaks(query, target)
    coarse_only = restated(query, target) * 2 - np.einsum("qc,zyxc->qzyx", query.fine.numpy(), target.embedding.fine.astype(np.float32))
    at_peak = [one[tuple(c)] for one, c in zip(coarse_only, peaks.cell, strict=True)]
    np.testing.assert_allclose(peaks.coarse, at_peak, atol=5e-5)


def test_a_batch_gives_what_each_query_gives_alone() -> None:
    target = synthetic(lambda p: p + 2.0 * np.sin(p / 25))
    query = synthetic().query(inner_points(QUERIES_AT_ONCE * 2 + 5, 7))
    batch = find_peaks(query, target)
    alone = [find_peaks(query[i : i + 1], target) for i in range(len(query))]
    np.testing.assert_array_equal(batch.cell, np.concatenate([p.cell for p in alone]))
    for name in ("points_lps", "similarity", "coarse", "margin"):
        np.testing.assert_allclose(getattr(batch, name), np.concatenate([getattr(p, name) for p in alone]), atol=1e-4)


def test_positions_are_much_finer_than_a_cell_and_unbiased() -> None:
    """The target's cells lie elsewhere than the template's, so that no answer is right by falling on a cell."""
    template, target = synthetic(), synthetic(origin=(ORIGIN[0] + 1.3, ORIGIN[1] - 0.7, ORIGIN[2] + 0.4))
    points = inner_points(300, 8)
    query = template.query(points)
    peaks = find_peaks(query, target, exhaustive=True)
    on_cells = np.linalg.norm(target.embedding.fine_grid.index_to_world(peaks.cell) - points, axis=1)
    error = peaks.points_lps - points
    assert on_cells.mean() > 1.7
    assert np.linalg.norm(error, axis=1).mean() < 0.8
    assert np.abs(error.mean(axis=0)).max() < 0.1
    fine_only = find_peaks(Query(query.fine, 0 * query.coarse), target, exhaustive=True)
    assert np.linalg.norm(fine_only.points_lps - points, axis=1).mean() < 0.3


# --- an expected place ----------------------------------------------------------------------------------------------------------------


def test_with_an_expected_place_the_answer_is_the_best_body_cell_within_its_radius() -> None:
    body = np.random.default_rng(9).random((20, 24, 28)) < 0.7
    target = synthetic(body=body)
    points = inner_points(40, 10)
    query = target.query(points)
    centre, radius = points + np.random.default_rng(11).uniform(-14, 14, points.shape), np.linspace(6, 20, 40)
    cells = find_peaks(query, target, near=(centre, radius)).cell
    where = target.embedding.fine_grid.index_to_world(np.indices(target.shape).reshape(3, -1).T)
    near = restated(Query(query.fine, NEAR_COARSE * query.coarse), target).reshape(40, -1)
    for scores, cell, place, reach in zip(near, cells, centre, radius, strict=True):
        allowed = body.ravel() & (np.linalg.norm(where - place, axis=1) <= reach)
        cost = STRAY_COST_PER_MM2 * np.linalg.norm(where - place, axis=1) ** 2
        assert np.ravel_multi_index(cell, target.shape) == np.where(allowed, scores - cost, -2).argmax()


def test_an_expected_place_pulls_the_answer_but_the_similarity_stays_what_it_is() -> None:
    target = synthetic()
    points = inner_points(10, 3, 30.0)
    query = target.query(points)
    found = find_peaks(query, target, near=(points + 6.0, np.full(10, 20.0)))
    pulled = found.points_lps - find_peaks(query, target).points_lps
    assert (pulled.mean(0) > 0.3).all()
    assert np.linalg.norm(pulled, axis=1).max() < np.linalg.norm([6.0, 6.0, 6.0])
    scores = restated(query, target)[(np.arange(10), *found.cell.T)]
    np.testing.assert_allclose(found.similarity, scores, atol=1e-4)


def test_what_is_around_a_point_settles_where_noisy_descriptors_alone_would_stray() -> None:
    template, target = synthetic(channels=64), synthetic(channels=64)
    target.rows += torch.randn(target.rows.shape, generator=torch.Generator().manual_seed(0)).half() * 0.12
    points = inner_points(60, 13, 30.0)
    near = (points + np.random.default_rng(3).uniform(-4, 4, points.shape), np.full(60, 16.0))
    plain, settled = (find_peaks(template.query(points, around), target, near=near) for around in (None, target.around_mm))
    alone, together = (np.linalg.norm(peaks.points_lps - points, axis=1).mean() for peaks in (plain, settled))
    assert together < 0.7 * alone
    cells = torch.from_numpy(settled.cell)[:, None]
    own = target.scores_at(template.query(points), target.coarse_scores(template.query(points)), cells)[:, 0]
    np.testing.assert_allclose(settled.similarity, own.numpy(), atol=1e-5, err_msg="the similarity is that of the place itself")


def test_finding_near_some_places_is_for_many_at_once_and_knows_where_no_body_is() -> None:
    body = np.ones((20, 24, 28), dtype=bool)
    body[:, :, 22:] = False
    target = synthetic(body=body)
    points = inner_points(300, 7, 30.0)
    query, centre = target.query(points), points + np.random.default_rng(2).uniform(-6, 6, points.shape)
    in_body = points[:, 0] < ORIGIN[0] + 4 * 18
    found = find_near(query, target, centre, 16.0)
    free = find_peaks(Query(query.fine, NEAR_COARSE * query.coarse), target).points_lps
    np.testing.assert_allclose(found[in_body], free[in_body], atol=1e-3, err_msg="the place where they are expected does not pull")
    empty = target.embedding.fine_grid.index_to_world([[10, 12, 27]])
    assert np.isnan(find_near(query[:1], target, empty, 8.0)).all()
    assert find_near(query[:0], target, empty[:0], 8.0).shape == (0, 3)


def test_without_a_radius_or_a_body_cell_in_it_the_search_is_free() -> None:
    body = np.ones((20, 24, 28), dtype=bool)
    body[:, :, 20:] = False
    target = synthetic(body=body)
    points = inner_points(3, 12, 30.0)
    query = target.query(points)
    empty = target.embedding.fine_grid.index_to_world([10, 12, 26])[0]
    free = find_peaks(query, target)
    bound = find_peaks(query, target, near=(np.stack([points[0], empty, points[2] + 12]), np.array([np.inf, 8.0, 8.0])))
    np.testing.assert_array_equal(bound.cell[:2], free.cell[:2])
    np.testing.assert_allclose(bound.points_lps[:2], free.points_lps[:2], atol=1e-4)
    assert (bound.cell[2] != free.cell[2]).any()


def test_the_expected_place_decides_between_two_that_look_the_same() -> None:
    def folded(points: np.ndarray) -> np.ndarray:
        return np.hstack([np.abs(points[:, :1] - 2.0), points[:, 1:]])

    target, template = synthetic(folded, cells=(16, 16, 28)), synthetic(cells=(16, 16, 28), origin=(0.0, -45.0, -30.0))
    query = template.query([[30.0, -20.0, 0.0]])
    for x in (32.0, -28.0):
        place = np.array([[x, -20.0, 0.0]])
        found = find_peaks(query, target, near=(place + 3.0, np.array([12.0])))
        assert np.linalg.norm(found.points_lps - place) < np.linalg.norm([3.0, 3.0, 3.0]) / 2
        assert abs(found.margin[0]) < 0.02


def test_refining_walks_up_to_the_peak_beside_the_cell_and_stays_in_the_body() -> None:
    target = synthetic()
    cells = np.array([[9, 12, 10], [12, 8, 18]])
    query = target.query(target.embedding.fine_grid.index_to_world(cells))
    coarse = target.coarse_scores(query)
    for step in ([0, 0, 0], [1, 0, -1], [2, -2, 0]):
        np.testing.assert_allclose(refine(query, target, coarse, torch.from_numpy(cells + step)).numpy(), cells, atol=0.2)
    body = np.ones((20, 24, 28), dtype=bool)
    body[tuple(cells.T)] = False
    elsewhere = synthetic(body=body)
    beside = refine(query, elsewhere, coarse, torch.from_numpy(cells + [1, 0, 0])).numpy()
    assert (np.abs(beside - cells).max(axis=1) >= 0.5).all(), "the peak itself lies outside the body"


def test_refining_at_the_border_stays_within_half_a_cell_of_the_scan() -> None:
    target = synthetic()
    corners = np.array([[0, 0, 0], np.array(target.shape) - 1])
    query = target.query(target.embedding.fine_grid.index_to_world(corners))
    index = refine(query, target, target.coarse_scores(query), torch.from_numpy(corners)).numpy()
    assert (index >= -0.5).all()
    assert (index <= np.array(target.shape) - 0.5).all()
