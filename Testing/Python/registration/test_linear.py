"""Linear maps through pairs: exact where pairs are, robust where many are wrong, honest about what they leave open."""

from __future__ import annotations

from dataclasses import fields
from itertools import combinations

import numpy as np
import pytest
from positions import carried, motion

from UniversalAnatomicalEmbeddingLib.registration.correspondences import Correspondences
from UniversalAnatomicalEmbeddingLib.registration.linear import (
    Model,
    consensus,
    expected_tre,
    find_linear,
    fit_both_ways,
    fit_linear,
)
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

RIGID = motion((20, -35, 60), (40, -80, 15))
SIMILAR = motion((20, -35, 60), (40, -80, 15), scale=1.2)
AFFINE = RIGID @ np.array([[1.1, 0.05, 0, 3], [0, 0.9, -0.1, 0], [0.02, 0, 1.05, 0], [0, 0, 0, 1.0]])
TRUTH: dict[Model, np.ndarray] = {"rigid": RIGID, "similarity": SIMILAR, "affine": AFFINE}


def body(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3)) * [120, 80, 150] + [10, -200, 700]


def noisy_pairs(truth: np.ndarray, count: int, noise: float, outliers: float, seed: int = 0) -> Correspondences:
    """Half the keypoints set in each scan; the error sits in the matched point, outliers anywhere in the body."""
    rng = np.random.default_rng(seed)
    fixed = body(count, seed)
    moving = carried(truth, fixed)
    forward = np.arange(count) < count // 2
    wrong = rng.random(count) < outliers
    moving[forward] += rng.normal(0, noise, (forward.sum(), 3))
    fixed[~forward] += rng.normal(0, noise, ((~forward).sum(), 3))
    moving[forward & wrong] = rng.permutation(moving[forward & wrong])
    fixed[~forward & wrong] = rng.permutation(fixed[~forward & wrong])
    return Correspondences(fixed, moving, np.ones(count), forward, fixed[forward], moving[~forward])


@pytest.mark.parametrize("model", ["rigid", "similarity", "affine"])
def test_exact_pairs_give_the_exact_map(model: Model) -> None:
    points = body(8)
    np.testing.assert_allclose(fit_linear(model, points, carried(TRUTH[model], points)), TRUTH[model], atol=1e-6)


def test_a_weight_of_zero_leaves_a_pair_out() -> None:
    points = body(8)
    there = carried(RIGID, points)
    there[3] += 500
    weight = np.ones(8)
    weight[3] = 0
    np.testing.assert_allclose(fit_linear("rigid", points, there, weight), RIGID, atol=1e-6)


def test_a_mirrored_scan_never_gives_a_reflection() -> None:
    points = body(30)
    mirrored = points * [-1, 1, 1]
    for model in ("rigid", "similarity"):
        assert np.linalg.det(fit_linear(model, points, mirrored)[:3, :3]) > 0
    with pytest.raises(InputError, match="mirrors"):
        fit_linear("affine", points, mirrored)


@pytest.mark.parametrize(("model", "count"), [("rigid", 2), ("similarity", 2), ("affine", 3)])
def test_too_few_pairs_are_refused(model: Model, count: int) -> None:
    with pytest.raises(InputError, match="at least"):
        fit_linear(model, body(count), body(count))


def test_points_on_a_line_or_in_a_plane_are_refused() -> None:
    line = np.outer(np.arange(6.0), [10, 5, 3])
    with pytest.raises(InputError, match="on one line"):
        fit_linear("rigid", line, line)
    plane = body(10) * [1, 1, 0]
    assert np.allclose(fit_linear("rigid", plane, plane), np.eye(4), atol=1e-6)
    with pytest.raises(InputError, match="in one plane"):
        fit_linear("affine", plane, plane)
    with pytest.raises(InputError, match="fixed points"):
        fit_linear("rigid", np.ones((5, 3)), body(5))


def test_few_flat_pairs_leave_the_affine_map_near_where_it_is_drawn_to() -> None:
    points = body(40) * [1, 1, 0.02]
    there = carried(RIGID, points) + np.random.default_rng(0).normal(0, 5, points.shape)
    free, drawn = fit_linear("affine", points, there), fit_linear("affine", points, there, towards=RIGID)
    distance = [np.linalg.norm(m[:3, :3] - RIGID[:3, :3]) for m in (free, drawn)]
    assert distance[1] < 0.15 < distance[0]


@pytest.mark.parametrize("outliers", [0.0, 0.5, 0.75])
def test_the_rigid_map_is_found_among_outliers(outliers: float) -> None:
    pairs = noisy_pairs(RIGID, 600, 5.0, outliers)
    fit = find_linear("rigid", pairs, 0)[0]
    points = body(200, 9)
    assert np.linalg.norm(carried(fit.matrix, points) - carried(RIGID, points), axis=1).max() < 5
    assert abs(fit.inlier.mean() - (1 - outliers)) < 0.1


def test_the_other_leg_is_a_second_opinion() -> None:
    """A third of the pairs agree on another map: it comes second, and nothing comes twice."""
    one, other = noisy_pairs(RIGID, 600, 5.0, 0.0), noisy_pairs(RIGID @ motion((0, 0, 0), (150, 0, 0)), 300, 5.0, 0.0, seed=1)
    pairs = Correspondences(*(np.concatenate([getattr(one, f.name), getattr(other, f.name)]) for f in fields(Correspondences)))
    fits = find_linear("rigid", pairs, 0)
    points = body(200, 9)
    assert np.linalg.norm(carried(fits[0].matrix, points) - carried(RIGID, points), axis=1).max() < 3
    there = carried(RIGID @ motion((0, 0, 0), (150, 0, 0)), points)
    assert min(np.linalg.norm(carried(f.matrix, points) - there, axis=1).max() for f in fits[1:]) < 5
    apart = [np.linalg.norm(carried(a.matrix, points) - carried(b.matrix, points), axis=1).mean() for a, b in combinations(fits, 2)]
    assert min(apart) > 20


@pytest.mark.parametrize("model", ["similarity", "affine"])
def test_noise_in_the_matched_points_does_not_shrink_the_map(model: Model) -> None:
    pairs = noisy_pairs(TRUTH[model], 2000, 12.0, 0.3)
    fit = find_linear(model, pairs, 0)[0]
    assert np.linalg.det(fit.matrix[:3, :3]) == pytest.approx(np.linalg.det(TRUTH[model][:3, :3]), rel=0.05)
    points = body(200, 9)
    assert np.median(np.linalg.norm(carried(fit.matrix, points) - carried(TRUTH[model], points), axis=1)) < 4


def test_both_directions_weigh_as_much_as_their_pairs() -> None:
    """Pairs forwards say one shift, those backwards another, with a quarter of the weight."""
    points, forward = body(400), np.arange(400) < 200
    moving = carried(AFFINE, points) + np.where(forward[:, None], 0.0, [8.0, -4.0, 12.0])
    weight = np.where(forward, 0.75, 0.25)
    pairs = Correspondences(points, moving, weight, forward, points[forward], moving[~forward])
    matrix = fit_both_ways("affine", pairs, weight, AFFINE)
    between = carried(matrix, points) - carried(AFFINE, points)
    np.testing.assert_allclose(between.mean(axis=0), [2, -1, 3], atol=0.2)


def test_a_much_smaller_patient_is_found_too() -> None:
    truth = motion((5, -3, 4), (40, -80, 15), scale=0.72)
    fit = find_linear("similarity", noisy_pairs(truth, 800, 12.0, 0.5), 0)[0]
    points = body(200, 9)
    assert np.median(np.linalg.norm(carried(fit.matrix, points) - carried(truth, points), axis=1)) < 4


@pytest.mark.parametrize("scale", [0.7, 1.4])
def test_triples_of_exact_pairs_give_the_exact_similarity(scale: float) -> None:
    truth = motion((5, -3, 4), (40, -80, 15), scale=scale)
    best = consensus("similarity", noisy_pairs(truth, 200, 0.0, 0.0), 0)[0]
    np.testing.assert_allclose(best, truth, atol=1e-6)


def test_no_triple_that_fits_is_no_map() -> None:
    few = noisy_pairs(RIGID, 2, 0.0, 0.0)
    assert find_linear("rigid", few, 0) == []


def test_the_same_seed_gives_the_same_map() -> None:
    pairs = noisy_pairs(RIGID, 300, 8.0, 0.5)
    first, second = (find_linear("rigid", pairs, 7)[0] for _ in range(2))
    np.testing.assert_array_equal(first.matrix, second.matrix)


@pytest.mark.parametrize("model", ["rigid", "similarity", "affine"])
def test_the_expected_error_is_the_error_that_occurs(model: Model) -> None:
    """Root mean square over repetitions, near and far from the landmarks."""
    rng = np.random.default_rng(1)
    points, at = body(12), np.array([[10.0, -200, 700], [10, -200, 1000], [300, -200, 700]])
    truth, noise = carried(TRUTH[model], points), 3.0
    errors, expected = [], []
    for _ in range(200):
        there = truth + rng.normal(0, noise, truth.shape)
        matrix = fit_linear(model, points, there)
        errors.append(np.linalg.norm(carried(matrix, at) - carried(TRUTH[model], at), axis=1))
        expected.append(expected_tre(model, matrix, points, there, np.ones(12), at))
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(expected), axis=0)), np.sqrt(np.mean(np.square(errors), axis=0)), rtol=0.15)


def test_the_expected_error_follows_fitzpatrick() -> None:
    """Published formula: TRE^2 = FLE^2 / N (1 + 1/3 sum d_k^2 / f_k^2), FLE^2 = N / (N - 2) FRE^2, written down independently."""
    rng = np.random.default_rng(2)
    points, at = body(6), body(5, 3)
    there = carried(RIGID, points) + rng.normal(0, 2, (6, 3))
    matrix = fit_linear("rigid", points, there)
    fre2 = np.mean(np.sum((carried(matrix, points) - there) ** 2, axis=1))
    centred = points - points.mean(0)
    _, _, axes = np.linalg.svd(centred)
    ratio = np.zeros(len(at))
    for k in range(3):

        def off_axis(p: np.ndarray, k: int = k) -> np.ndarray:
            local = p @ axes.T
            return np.delete(local, k, axis=1)

        ratio += (off_axis(at - points.mean(0)) ** 2).sum(1) / (off_axis(centred) ** 2).sum(1).mean()
    published = np.sqrt(6 / 4 * fre2 / 6 * (1 + ratio / 3))
    np.testing.assert_allclose(expected_tre("rigid", matrix, points, there, np.ones(6), at), published, rtol=1e-6)


def test_pairs_that_err_alike_count_less() -> None:
    pairs = noisy_pairs(RIGID, 500, 8.0, 0.0)
    arguments = ("rigid", RIGID, pairs.fixed_lps, pairs.moving_lps, np.ones(500), body(20, 3))
    assert (expected_tre(*arguments, alike_mm=80.0) > 2 * expected_tre(*arguments)).all()


def test_an_error_that_cannot_be_told_is_nan() -> None:
    points = body(4)
    assert np.isnan(expected_tre("affine", AFFINE, points, carried(AFFINE, points), np.ones(4), points)).all()
