"""The guide: anchors both scans agree on, what they predict, and how long they are remembered."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from searchables import ORIGIN, SHIFT, inner_points, restated, shifted, synthetic, warped
from torch.nn import functional as F

from UniversalAnatomicalEmbeddingLib.matching import guide as module
from UniversalAnatomicalEmbeddingLib.matching import match_points
from UniversalAnatomicalEmbeddingLib.matching.fixed_point import local_map
from UniversalAnatomicalEmbeddingLib.matching.guide import (
    DENSE_STEP_MM,
    FALLOFF_MM,
    LARGEST_RADIUS_MM,
    LATTICE_STEP_MM,
    MOST_ANCHORS,
    MOST_DENSE_ANCHORS,
    REACH_MM,
    RETURN_MM,
    RIDGE_MM2,
    SMALLEST_RADIUS_MM,
    STRAY_MM,
    SUPPORT,
    Guide,
    build_guide,
    coarse_match,
    expect,
    guide_between,
)
from UniversalAnatomicalEmbeddingLib.matching.nearest import refine

POINTS = inner_points(6, 1, 24.0)


# --- anchors --------------------------------------------------------------------------------------------------------------------------


def test_anchors_of_a_guide_are_where_a_known_map_puts_them() -> None:
    template, target = synthetic(), synthetic(warped, name="target")
    guide = build_guide(template, target)
    body = template.embedding.contains(guide.source)
    error = np.linalg.norm(warped(guide.destination) - guide.source, axis=1)
    assert body.all()
    assert len(guide.source) == len(guide.destination) > 60
    assert np.median(error) < 1.5
    assert np.mean(error < 5) > 0.9


def test_anchors_lie_in_the_body_of_both_scans() -> None:
    upper, left = np.zeros((2, 20, 24, 28), dtype=bool)
    upper[6:] = True
    left[:, :, :20] = True
    guide = build_guide(synthetic(body=upper), synthetic(body=left))
    assert len(guide.source) > 30
    assert guide.source[:, 2].min() >= ORIGIN[2] + 2 * 12 - 1
    assert guide.destination[:, 0].max() <= ORIGIN[0] + 2 * 40 + 3


def test_coarse_matches_are_the_best_of_every_second_body_cell_refined_among_the_cells_around() -> None:
    body = np.random.default_rng(4).random((20, 24, 28)) < 0.6
    target = synthetic(lambda p: p + 3.0 * np.sin(p[:, ::-1] / 30), cells=body.shape, body=body)
    query = synthetic().query(inner_points(70, 5))
    e = target.embedding
    half = np.where(body, 0.0, -9.0)[::2, ::2, ::2] + np.einsum(
        "qc,zyxc->qzyx", query.fine.numpy(), e.fine[::2, ::2, ::2].astype(np.float32)
    )
    coarse = target.coarse_scores(query)
    half = half + F.interpolate(coarse[:, None], half.shape[1:], mode="trilinear")[:, 0].numpy()
    best = 2 * np.stack(np.unravel_index(half.reshape(len(query), -1).argmax(1), half.shape[1:]), axis=1)
    expected = refine(query, target, coarse, torch.from_numpy(best)).numpy()
    found = coarse_match(query, target)
    np.testing.assert_allclose(found, e.fine_grid.index_to_world(expected), atol=1e-3)
    assert np.abs(expected - best).max() > 1, "with cells of every second index only, refining would have nothing to do"
    scores = np.where(body, restated(query, target), -1).reshape(len(query), -1)
    exhaustive = e.fine_grid.index_to_world(np.stack(np.unravel_index(scores.argmax(1), body.shape), axis=1))
    assert np.mean(np.linalg.norm(found - exhaustive, axis=1) < 4) > 0.9


def test_anchors_are_spread_over_the_body_as_a_lattice_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = synthetic()
    points = module._spread_points(scan, LATTICE_STEP_MM, MOST_ANCHORS)
    assert np.allclose(np.diff(np.unique(points[:, 0])), LATTICE_STEP_MM)
    assert len(points) == 5 * 6 * 7
    fewer = module._spread_points(scan, LATTICE_STEP_MM, 50)
    assert len(fewer) == len(np.unique(fewer, axis=0)) == 50
    assert {tuple(p) for p in fewer} <= {tuple(p) for p in points}
    assert np.ptp(fewer, axis=0).min() > 0.7 * np.ptp(points, axis=0).min(), "from everywhere, not the first ones"
    np.testing.assert_array_equal(fewer, module._spread_points(scan, LATTICE_STEP_MM, 50))


def test_anchors_that_do_not_return_or_stray_from_their_neighbours_are_dropped() -> None:
    template = synthetic()
    source = module._spread_points(template, LATTICE_STEP_MM, MOST_ANCHORS)
    there, back = source + SHIFT, source.copy()
    back[3, 1] += RETURN_MM + 0.1
    back[4, 1] += RETURN_MM - 0.1
    there[90, 2] += STRAY_MM + 0.1
    there[100, 2] += STRAY_MM - 0.1
    guide = module._agreeing(source, there, back, source, RETURN_MM, STRAY_MM)
    kept = np.delete(np.arange(len(source)), [3, 90])
    np.testing.assert_array_equal(guide.source, source[kept])
    np.testing.assert_array_equal(guide.destination, there[kept])


def test_the_denser_anchors_are_sought_near_where_the_first_put_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """First anchors that are off by less than the search lead to the same dense ones; dense ones lie closer together than the first."""
    template, target = synthetic(cells=(30, 30, 40)), shifted(cells=(30, 30, 40))
    guide = build_guide(template, target)
    assert np.allclose(np.diff(np.unique(guide.source[:, 0])), DENSE_STEP_MM)
    coarse = module.coarse_match
    off = np.array([6.0, -6.0, 5.0])
    monkeypatch.setattr(module, "coarse_match", lambda query, scan: coarse(query, scan) + (off if scan is target else -off))
    again = build_guide(template, target)
    error = np.linalg.norm(again.destination - again.source - SHIFT, axis=1)
    assert len(again.source) > 0.8 * len(guide.source)
    assert np.median(error) < 1.0


@pytest.mark.parametrize("tiny", ["template", "target", "both"])
def test_a_body_that_lies_between_the_lattice_points_gives_anchors_too(tiny: str) -> None:
    body = np.zeros((20, 24, 28), dtype=bool)
    body[9, 11, 13] = body[9, 11, 15] = True
    template, target = (synthetic(body=body if tiny in (name, "both") else None) for name in ("template", "target"))
    point = template.embedding.fine_grid.index_to_world([9, 11, 13])
    guide = build_guide(template, target)
    assert len(guide.source) >= (2 if tiny == "both" else 0)
    [match] = match_points([(template, point)], target)
    assert np.linalg.norm(match.point_lps - point[0]) < 1


# --- predictions ----------------------------------------------------------------------------------------------------------------------


def test_points_together_are_predicted_as_each_alone_and_from_its_nearest_anchors() -> None:
    rng = np.random.default_rng(6)
    source = rng.uniform(-60, 60, (300, 3))
    guide = Guide(source, warped(source) + rng.normal(0, 3, source.shape), source)
    points = np.vstack([rng.uniform(-60, 60, (30, 3)), [[900.0, 0.0, 0.0]]])
    position, spread = guide.predict(points)
    for point, one, gap in zip(points[:-1], position, spread, strict=False):
        near = np.argsort(np.linalg.norm(source - point, axis=1))[:SUPPORT]
        expected, residual = local_map(source[near], guide.destination[near], point, FALLOFF_MM, RIDGE_MM2)
        np.testing.assert_allclose(one, expected, atol=1e-6)
        assert gap == pytest.approx(float(residual), abs=1e-6)
    np.testing.assert_array_equal(position[-1], points[-1])
    assert np.isinf(spread[-1])


def test_no_points_have_no_prediction() -> None:
    source = np.random.default_rng(7).uniform(-60, 60, (40, 3))
    position, spread = Guide(source, source, source).predict(np.empty((0, 3)))
    assert position.shape == (0, 3)
    assert spread.shape == (0,)


def test_predicting_leaves_the_points_alone() -> None:
    source = np.random.default_rng(8).uniform(-60, 60, (40, 3))
    points = POINTS.copy()
    Guide(source, source + SHIFT, source).predict(points)
    np.testing.assert_array_equal(points, POINTS)


def test_a_guide_predicts_from_the_anchors_around_and_ignores_strays() -> None:
    rng = np.random.default_rng(2)
    source = rng.uniform(-60, 60, (400, 3))
    destination = source * 1.1 + SHIFT
    destination[::9] += rng.uniform(30, 60, (len(destination[::9]), 3))
    position, spread = Guide(source, destination, source).predict(POINTS)
    assert np.linalg.norm(position - POINTS * 1.1 - SHIFT, axis=1).max() < 4
    assert (spread < 15).all()
    exact, none = Guide(source, source + SHIFT, source).predict(POINTS)
    np.testing.assert_allclose(exact, POINTS + SHIFT, atol=1e-6)
    np.testing.assert_allclose(none, 0, atol=1e-6)


def test_a_guide_knows_nothing_with_few_anchors_or_far_from_them() -> None:
    source = np.random.default_rng(3).uniform(-20, 20, (SUPPORT, 3))
    far = np.array([[0.0, 0.0, 0.0], [REACH_MM + 30.0, 0.0, 0.0]])
    assert np.isinf(Guide(source[1:], source[1:], source).predict(far)[1]).all()
    assert np.isinf(Guide(source[:0], source[:0], source).predict(far)[1]).all()
    assert np.isfinite(Guide(source, source, source).predict(far)[1]).tolist() == [True, False]


# --- expectations ---------------------------------------------------------------------------------------------------------------------


def test_landmarks_are_expected_where_the_exemplar_whose_anchors_agree_best_puts_them() -> None:
    good, foreign, target = synthetic(), synthetic(seed=9, name="foreign"), shifted()
    alone = expect([(good, POINTS)], target)
    mixed = expect([(foreign, POINTS), (good, POINTS)], target)
    np.testing.assert_allclose(mixed.centre, alone.centre)
    np.testing.assert_allclose(mixed.spread_mm, alone.spread_mm)
    assert np.linalg.norm(mixed.centre - POINTS - SHIFT, axis=1).max() < 3
    np.testing.assert_allclose(mixed.radius, np.clip(2 * mixed.spread_mm + 4, SMALLEST_RADIUS_MM, LARGEST_RADIUS_MM))
    np.testing.assert_array_equal(mixed.beyond_mm, 0)


def test_landmarks_beyond_the_field_of_view_are_expected_outside_it() -> None:
    target = synthetic(lambda p: p - SHIFT, cells=(20, 24, 16), name="cut")
    end = target.embedding.grid.corners()[:, 0].max() - SHIFT[0]
    points = np.array([[end - 20, 0.0, 8.0], [end + 12, 0.0, 8.0], [end + 25, 0.0, 8.0]])
    expected = expect([(synthetic(), points)], target)
    assert 0 == expected.beyond_mm[0] < expected.beyond_mm[1] < expected.beyond_mm[2] < 50
    matches = match_points([(synthetic(), points)], target)
    assert [m.beyond_mm for m in matches] == pytest.approx(expected.beyond_mm.tolist())


def test_support_is_the_share_of_what_was_tried_around_that_agreed() -> None:
    tried = np.array([[x, 0.0, 0.0] for x in range(0, 200, 10)], dtype=float)
    guide = Guide(tried[:5], tried[:5] + SHIFT, tried)
    places = np.array([[0.0, 0.0, 0.0], [60.0, 0.0, 0.0], [190.0, 0.0, 0.0], [0.0, 500.0, 0.0]])
    # within 40 mm: 0..40 (5 of 5 agreed), 20..100 (3 of 9), 150..190 (0 of 5), nothing
    np.testing.assert_allclose(guide.support(places), [1.0, 3 / 9, 0.0, 0.0])


def test_support_and_depth_tell_what_is_shown_from_what_is_cut_away() -> None:
    target = synthetic(lambda p: p - SHIFT, cells=(20, 24, 16), name="cut")
    end = target.embedding.grid.corners()[:, 0].max() - SHIFT[0]
    expected = expect([(synthetic(), np.array([[end - 30, 0.0, 8.0], [end + 25, 0.0, 8.0]]))], target)
    assert expected.support[0] > 2 * expected.support[1]
    assert expected.inside_mm[0] > 10 and expected.inside_mm[1] == 0


# --- memory ---------------------------------------------------------------------------------------------------------------------------


def test_a_guide_is_made_once_and_forgotten_with_its_template() -> None:
    template, target = synthetic(), shifted()
    assert guide_between(template, target) is guide_between(template, target)
    assert list(target.guides) == [template]
    del template
    gc.collect()
    assert len(target.guides) == 0


def test_a_guide_is_of_one_direction_and_keeps_no_scan_alive() -> None:
    template, target = synthetic(), shifted()
    there, back = guide_between(template, target), guide_between(target, template)
    assert there is not back
    np.testing.assert_allclose(np.median(there.destination - there.source, axis=0), SHIFT, atol=1)
    np.testing.assert_allclose(np.median(back.destination - back.source, axis=0), -SHIFT, atol=1)
    gone = weakref.ref(target)
    del target
    gc.collect()
    assert gone() is None
    assert len(template.guides) == 0


def test_a_guide_is_small_whatever_the_scans() -> None:
    """A session with many targets holds one per pair that was asked about."""
    source = np.zeros((MOST_DENSE_ANCHORS, 3))
    assert Guide(source, source.copy(), source).source.nbytes * 2 < 200_000
    guide = build_guide(synthetic(cells=(40, 40, 60)), shifted(cells=(40, 40, 60)))
    assert len(guide.source) <= MOST_DENSE_ANCHORS
    assert guide.source.base is None or guide.source.base.nbytes <= MOST_ANCHORS * 24
