"""Fixed points: the local map through anchor pairs, and the carried position, in floating point and without bias."""

from __future__ import annotations

import numpy as np
import pytest
from searchables import Points, inner_points, synthetic

from UniversalAnatomicalEmbeddingLib.matching.fixed_point import FEWEST_ANCHORS, local_map, match_fixed_points
from UniversalAnatomicalEmbeddingLib.matching.nearest import find_peaks
from UniversalAnatomicalEmbeddingLib.matching.searchable import Searchable
from UniversalAnatomicalEmbeddingLib.options import MatchOptions

POINT = np.array([12.3, -45.6, 78.9])
LINEAR = np.array([[1.1, 0.05, -0.04], [-0.06, 0.93, 0.02], [0.03, 0.04, 1.05]])
SHIFT = np.array([5.0, -7.0, 11.0])
CUBE = POINT + np.stack(np.meshgrid(*[np.arange(-8.0, 9.0, 4.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
FEW = MatchOptions(method="fixed-point", exact=True, anchor_reach=1)


def moved(points: Points) -> Points:
    return points @ LINEAR.T + SHIFT


# --- the local map --------------------------------------------------------------------------------------------------------------------


def test_exact_for_an_affine_through_anchors_around_the_point() -> None:
    position, residual = local_map(CUBE, moved(CUBE), POINT)
    np.testing.assert_allclose(position, moved(POINT), atol=1e-9)
    assert residual < 0.1


def test_exact_for_a_translation_whatever_the_anchors() -> None:
    source = np.random.default_rng(0).uniform(-20, 20, (6, 3)) + POINT + 15
    position, residual = local_map(source, source + SHIFT, POINT)
    np.testing.assert_allclose(position, POINT + SHIFT, atol=1e-9)
    assert residual == pytest.approx(0, abs=1e-9)


def test_close_for_an_affine_through_anchors_on_one_side() -> None:
    source = CUBE[CUBE[:, 0] >= POINT[0]]
    position, _ = local_map(source, moved(source), POINT)
    assert np.linalg.norm(position - moved(POINT)) < 0.05
    assert np.linalg.norm(position - (moved(source).mean(0) + POINT - source.mean(0))) > 0.3, "a mere translation would do"


@pytest.mark.parametrize("seed", range(5))
def test_a_fifth_of_gross_outliers_hardly_moves_the_answer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    destination = moved(CUBE) + rng.normal(0, 0.3, CUBE.shape)
    wrong = rng.permutation(len(CUBE))[: len(CUBE) // 5]
    destination[wrong] += rng.uniform(20, 60, (len(wrong), 3))
    position, _ = local_map(CUBE, destination, POINT)
    weight = 1 / (1 + (np.linalg.norm(CUBE - POINT, axis=1) / 10) ** 2)
    assert np.linalg.norm(position - moved(POINT)) < 1.5
    assert np.linalg.norm(weight @ destination / weight.sum() - moved(POINT)) > 8, "the plain mean must suffer"


@pytest.mark.parametrize(
    "source",
    [
        POINT + np.array([[4.0, 0, 0], [0, 4, 0], [0, 0, 4], [-4, 0, 0], [0, -4, 0]]),
        CUBE[np.isclose(CUBE[:, 2], POINT[2])],
        CUBE[np.isclose(CUBE[:, 1:], POINT[1:]).all(1)],
        np.repeat(POINT[None], 5, axis=0) + 3.0,
    ],
    ids=["few", "plane", "line", "one place"],
)
def test_few_or_degenerate_anchors_stay_bounded(source: Points) -> None:
    noise = np.random.default_rng(1).normal(0, 0.5, source.shape)
    away = POINT + [0.0, 0.0, 10.0]
    position, residual = local_map(source, source + SHIFT + noise, away)
    assert np.linalg.norm(position - (away + SHIFT)) < 4.0
    assert np.isfinite(residual)


def test_residual_is_the_spread_of_the_pairs_around_the_map() -> None:
    noise = np.random.default_rng(2).normal(0, 0.4, CUBE.shape)
    _, residual = local_map(CUBE, CUBE + SHIFT + noise, POINT)
    assert residual == pytest.approx(0.4 * np.sqrt(3), rel=0.15)


def test_near_pairs_count_more_than_far_ones() -> None:
    source = np.concatenate([POINT + 3 * np.eye(3), POINT - 3 * np.eye(3), POINT + 30 * np.eye(3), POINT - 30 * np.eye(3)])
    destination = source + np.where(np.arange(12)[:, None] < 6, 0.0, 2.0)
    position, _ = local_map(source, destination, POINT)
    assert np.abs(position - POINT).max() < 0.5


def test_many_points_at_once_are_mapped_as_each_alone() -> None:
    rng = np.random.default_rng(4)
    source = rng.uniform(-20, 20, (7, 16, 3)) + POINT
    destination = moved(source) + rng.normal(0, 1, source.shape)
    destination[:, ::5] += 30
    points = rng.uniform(-10, 10, (7, 3)) + POINT
    positions, residuals = local_map(source, destination, points)
    assert positions.shape == (7, 3)
    for k in range(7):
        position, residual = local_map(source[k], destination[k], points[k])
        np.testing.assert_allclose(positions[k], position, atol=1e-9)
        assert residuals[k] == pytest.approx(float(residual))


# --- a known smooth map ---------------------------------------------------------------------------------------------------------------


def to_template(points: Points) -> Points:
    return points * 1.04 + 1.5 * np.sin(points[:, [1, 2, 0]] / 20)


@pytest.fixture(scope="module")
def pair() -> tuple[Searchable, Searchable]:
    shape, origin = (20, 20, 20), (-41.0, -38.5, -40.2)
    return synthetic(cells=shape, channels=24), synthetic(to_template, cells=shape, origin=origin, channels=24)


def published(point: Points, template: Searchable, target: Searchable) -> Points:
    """The published arithmetic: whole cells and voxels only, truncated before and after averaging."""

    def match(cells: Points, source: Searchable, other: Searchable) -> Points:
        return find_peaks(source.query(source.embedding.fine_grid.index_to_world(cells)), other, exhaustive=True).cell

    voxel = np.rint(template.embedding.grid.world_to_index(point)[0])
    reach = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    start = match(match(np.floor(voxel / 2) + reach, template, target), target, template)
    there = match(start, template, target)
    there_voxel, back_voxel = (np.rint(2 * cells + 0.5) for cells in (there, match(there, target, template)))
    affine = np.linalg.lstsq(np.hstack([back_voxel, np.ones((len(reach), 1))]), there_voxel, rcond=None)[0][:3]
    answer = np.trunc(np.trunc(there_voxel - (back_voxel - voxel) @ affine).mean(0))
    return target.embedding.grid.index_to_world(answer)[0]


def test_positions_are_unbiased_where_the_published_truncation_is_not(pair: tuple[Searchable, Searchable]) -> None:
    template, target = pair
    truth = np.random.default_rng(3).uniform(-20, 12, (30, 3))
    points = to_template(truth)
    assert template.embedding.contains(points).all()
    found = match_fixed_points(points, template, target, FEW)
    assert all(f.point_lps is not None for f in found)
    error = np.stack([f.point_lps for f in found]) - truth
    assert np.abs(error.mean(axis=0)).max() < 0.2
    assert np.linalg.norm(error, axis=1).mean() < 1.0
    old = np.stack([published(p, template, target) for p in points]) - truth
    assert (old.mean(axis=0) < -0.6).all(), "the simulated truncation should pull towards the first voxel"


def test_anchors_and_residual_tell_how_good_the_map_is(pair: tuple[Searchable, Searchable]) -> None:
    template, target = pair
    [found] = match_fixed_points(to_template(np.array([[0.0, -5.0, 3.0]])), template, target, FEW)
    assert 14 <= found.anchors <= 27
    assert 0 < found.residual_mm < 2
    assert found.failure == ""


def test_each_point_gives_what_it_gives_alone(pair: tuple[Searchable, Searchable]) -> None:
    points = inner_points(3, 4, 24.0, pair[0])
    together = match_fixed_points(points, *pair, FEW)
    for point, found in zip(points, together, strict=True):
        [alone] = match_fixed_points(point[None], *pair, FEW)
        np.testing.assert_allclose(found.point_lps, alone.point_lps, atol=1e-3)


# --- failures say why -----------------------------------------------------------------------------------------------------------------


def test_a_point_far_outside_the_template_fails_with_that_reason(pair: tuple[Searchable, Searchable]) -> None:
    [found] = match_fixed_points(np.array([[500.0, 0.0, 0.0]]), *pair, FEW)
    assert found.point_lps is None
    assert found.anchors == 0
    assert found.failure == "the point lies outside the template scan"


def test_a_target_without_the_anatomy_fails_with_the_number_of_anchors(pair: tuple[Searchable, Searchable]) -> None:
    foreign = synthetic(cells=(20, 20, 20), channels=24, seed=7)
    options = MatchOptions(method="fixed-point", exact=True, anchor_reach=1, return_mm=0.05)
    [found] = match_fixed_points(np.array([[0.0, 0.0, 0.0]]), pair[0], foreign, options)
    assert found.point_lps is None
    assert found.anchors < FEWEST_ANCHORS
    assert found.failure == f"only {found.anchors} anchors return to themselves"
    assert found.residual_mm == np.inf


def test_anchors_that_wander_off_do_not_count(pair: tuple[Searchable, Searchable]) -> None:
    options = MatchOptions(method="fixed-point", exact=True, anchor_reach=1, anchor_spacing_mm=8.0, anchor_mm=6.0)
    [found] = match_fixed_points(to_template(np.array([[0.0, -5.0, 3.0]])), *pair, options)
    assert found.point_lps is None
    assert "anchors return" in found.failure
