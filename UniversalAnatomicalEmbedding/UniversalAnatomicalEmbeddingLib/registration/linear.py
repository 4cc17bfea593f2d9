"""Rigid, similarity and affine maps through point pairs: closed forms, consensus, graduated robust weights, expected error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm, logm

from ..images.grid import FloatArray
from ..system.errors import InputError
from .correspondences import Correspondences

Model = Literal["rigid", "similarity", "affine"]

PARAMETERS = {"rigid": 6, "similarity": 7, "affine": 12}
FEWEST = {"rigid": 3, "similarity": 3, "affine": 4}
TRIPLES = 2000
MOST_HYPOTHESES, APART_MM = 5, 40.0
SHORTEST_SIDE_MM = 25.0
SMALLEST_SCALE = 0.625
CONSENSUS_MM = 20.0
INLIER_MM = 15.0
WIDEST_MM, NARROWEST_MM, GRADUATIONS = 30.0, 4.0, 10
PULL_MM2 = 100.0
ALIKE_MM = 120.0


@dataclass(frozen=True, eq=False)
class LinearFit:
    """``matrix`` (4, 4) fixed to moving LPS, robust ``weight`` (N,) of the pairs and their ``residual_mm`` (N,)."""

    matrix: FloatArray
    weight: FloatArray
    residual_mm: FloatArray

    @property
    def inlier(self) -> NDArray[np.bool_]:
        """Pairs (N,) that the map explains to within 15 mm."""
        return self.residual_mm <= INLIER_MM


def apply(matrix: FloatArray, points_lps: FloatArray) -> FloatArray:
    """Points (N, 3) through a (4, 4) matrix."""
    moved: FloatArray = points_lps @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def inverted(matrix: FloatArray) -> FloatArray:
    """The inverse of a (4, 4) matrix."""
    return np.linalg.inv(matrix).astype(np.float64, copy=False)


def fit_linear(
    model: Model, source: FloatArray, destination: FloatArray, weight: FloatArray | None = None, towards: FloatArray | None = None
) -> FloatArray:
    """Weighted least squares map (4, 4) through pairs (N, 3) -> (N, 3).

    Rigid and similarity: Umeyama 1991, never a reflection; affine: linear least squares, its linear part drawn towards that of ``towards`` as
    firmly as pairs 10 mm apart would. Raises InputError for too few pairs, pairs on one line (affine: in one plane), or a map that mirrors.
    """
    w = np.ones(len(source)) if weight is None else np.asarray(weight, dtype=np.float64)
    used = w > 0
    if used.sum() < FEWEST[model]:
        raise InputError(f"{int(used.sum())} pairs were given; a {model} map needs at least {FEWEST[model]}.")
    share = w / w.sum()
    centre, image = share @ source, share @ destination
    a, b = source - centre, destination - image
    for points, name in ((a, "fixed"), (b, "moving")):
        _check_spread(points[used], model, name)
    covariance = (b * share[:, None]).T @ a
    if model == "affine":
        ridge = np.zeros((3, 3)) if towards is None else PULL_MM2 * np.eye(3)
        pull = 0.0 if towards is None else ridge @ towards[:3, :3].T
        linear = np.linalg.solve((a * share[:, None]).T @ a + ridge, covariance.T + pull).T
        if np.linalg.det(linear) <= 0:
            raise InputError("The pairs give an affine map that mirrors space. Check their order and sides, or use the rigid stage.")
    else:
        u, s, vt = np.linalg.svd(covariance)
        sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
        scale = (s * sign).sum() / (share @ (a**2).sum(axis=1)) if model == "similarity" else 1.0
        linear = scale * (u * sign) @ vt
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, image - linear @ centre
    return matrix


def _check_spread(points: FloatArray, model: Model, name: str) -> None:
    extent = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) / np.sqrt(len(points))
    needed, shape = (2, "in one plane") if model == "affine" else (1, "on one line or in one place")
    if extent[needed] < 1e-3 * max(extent[0], 1e-9) or extent[needed] < 0.1:
        raise InputError(f"The {name} points lie {shape}, which leaves the {model} map undetermined. Add points away from it.")


def fit_both_ways(model: Model, pairs: Correspondences, weight: FloatArray, towards: FloatArray) -> FloatArray:
    """The mean (in the group of the maps) of the fit of the pairs matched forwards and the inverse fit of those matched backwards.

    The error of a pair sits in the point that was matched, not in the keypoint; regressing on it would shrink the map. A rigid one cannot shrink.
    """
    forward, backward = pairs.forward, ~pairs.forward
    if model == "rigid" or min((weight[forward] > 0).sum(), (weight[backward] > 0).sum()) < 10 * FEWEST[model]:
        return fit_linear(model, pairs.fixed_lps, pairs.moving_lps, weight, towards)
    there = fit_linear(model, pairs.fixed_lps[forward], pairs.moving_lps[forward], weight[forward], towards)
    inverse = fit_linear(model, pairs.moving_lps[backward], pairs.fixed_lps[backward], weight[backward], inverted(towards))
    back = np.linalg.inv(inverse)
    share = weight[backward].sum() / weight.sum()
    centre = np.eye(4)
    centre[:3, 3] = weight @ pairs.fixed_lps / weight.sum()
    between = np.linalg.inv(centre) @ np.linalg.solve(there, back) @ centre
    return there @ centre @ expm(share * np.real(logm(between))) @ np.linalg.inv(centre)


def consensus(model: Model, pairs: Correspondences, seed: int) -> list[FloatArray]:
    """Maps (4, 4) of random triples that most pairs agree with, best first (RANSAC with truncated squared errors); at most 5, each unlike the others.

    Rigid for the rigid model; with a scale of 0.625 to 1.6 for the others, for patients differ in size.
    """
    rng = np.random.default_rng(seed)
    p = pairs.weight / pairs.weight.sum()
    triples = rng.choice(len(pairs), (TRIPLES, 3), p=p)
    a, b = pairs.fixed_lps[triples], pairs.moving_lps[triples]
    sides = [np.linalg.norm(x - np.roll(x, 1, axis=1), axis=2) for x in (a, b)]
    scale = np.ones(TRIPLES) if model == "rigid" else sides[1].sum(axis=1) / np.maximum(sides[0].sum(axis=1), 1e-9)
    alike = np.abs(scale[:, None] * sides[0] - sides[1]).max(axis=1) <= 2 * CONSENSUS_MM
    consistent = alike & (np.minimum(*sides).min(axis=1) >= SHORTEST_SIDE_MM) & (scale >= SMALLEST_SCALE) & (scale <= 1 / SMALLEST_SCALE)
    linear, shift = _triples(a[consistent], b[consistent], scale[consistent])
    matrices = np.tile(np.eye(4), (len(linear), 1, 1))
    matrices[:, :3, :3], matrices[:, :3, 3] = linear, shift
    cost = [p @ np.minimum(((apply(m, pairs.fixed_lps) - pairs.moving_lps) ** 2).sum(axis=1), CONSENSUS_MM**2) for m in matrices]
    ranked = matrices[np.argsort(cost)]
    return [ranked[n] for n in distinct(ranked, pairs.fixed_lps, APART_MM, MOST_HYPOTHESES)]


def distinct(matrices: Sequence[FloatArray] | FloatArray, points_lps: FloatArray, apart_mm: float, most: int) -> list[int]:
    """Numbers of the first ``most`` maps (4, 4) that place points (N, 3) more than ``apart_mm`` on average away from where those before them do."""
    kept: list[int] = []
    for n, matrix in enumerate(matrices):
        if len(kept) == most:
            break
        if all(mean_distance(matrix, matrices[k], points_lps) > apart_mm for k in kept):
            kept.append(n)
    return kept


def mean_distance(a: FloatArray, b: FloatArray, points_lps: FloatArray) -> float:
    """Mean distance in mm between the places of points (N, 3) under two maps (4, 4)."""
    return float(np.linalg.norm(apply(a, points_lps) - apply(b, points_lps), axis=1).mean())


def _triples(a: FloatArray, b: FloatArray, scale: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Scaled rotations (K, 3, 3) and shifts (K, 3) of many small point sets (K, 3, 3) at once."""
    centre, image = a.mean(axis=1), b.mean(axis=1)
    u, _, vt = np.linalg.svd(np.swapaxes(b - image[:, None], 1, 2) @ (a - centre[:, None]))
    sign = np.ones((len(a), 3))
    sign[:, 2] = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    linear = scale[:, None, None] * (u * sign[:, None]) @ vt
    return linear, image - np.einsum("kij,kj->ki", linear, centre)


def robust_fit(model: Model, pairs: Correspondences, start: FloatArray) -> LinearFit:
    """Graduated non-convexity (Yang et al. 2020): Geman-McClure weights whose scale narrows from 30 mm to what the pairs' own scatter says.

    An affine fit is drawn towards the linear part of ``start``.
    """
    matrix, scale = start, WIDEST_MM
    for n in range(GRADUATIONS):
        error = np.linalg.norm(apply(matrix, pairs.fixed_lps) - pairs.moving_lps, axis=1)
        scale = np.clip(min(WIDEST_MM * 0.8**n, 1.5 * _scatter(error)), NARROWEST_MM, WIDEST_MM)
        weight = pairs.weight / (1 + (error / scale) ** 2) ** 2
        matrix = fit_both_ways(model, pairs, weight, start)
    error = np.linalg.norm(apply(matrix, pairs.fixed_lps) - pairs.moving_lps, axis=1)
    return LinearFit(matrix, pairs.weight / (1 + (error / scale) ** 2) ** 2, error)


def _scatter(error: FloatArray) -> float:
    """Median of the errors that are no gross outliers."""
    near = error[error <= WIDEST_MM]
    return float(np.median(near)) if len(near) else WIDEST_MM


def find_linear(model: Model, pairs: Correspondences, seed: int) -> list[LinearFit]:
    """The maps that explain most pairs, best first, each unlike the others; none where no triple fits together. An affine map starts from a similarity."""
    fits = []
    for start in consensus(model, pairs, seed) if len(pairs) >= FEWEST[model] else []:
        try:
            fits.append(robust_fit(model, pairs, start))
        except InputError:
            continue
    fits.sort(key=lambda f: float(np.minimum(f.residual_mm, CONSENSUS_MM).mean()))
    return [fits[n] for n in distinct([f.matrix for f in fits], pairs.fixed_lps, APART_MM, MOST_HYPOTHESES)]


def expected_tre(
    model: Model, matrix: FloatArray, source: FloatArray, destination: FloatArray, weight: FloatArray, at: FloatArray, alike_mm: float = 0.0
) -> FloatArray:
    """Expected target registration error (M,) in mm, root mean square, at fixed points ``at`` (M, 3).

    From the covariance of the weighted fit through pairs (N, 3), propagated to the points; for independent errors that of Fitzpatrick et al. 1998.
    ``alike_mm`` > 0: pairs in one cube of that size err alike and count as one. NaN where the pairs are no more than the map needs.
    """
    count = PARAMETERS[model]
    weight = weight / weight.max()
    centre = weight @ source / weight.sum()
    design = _design(model, matrix, source - centre)
    residual = destination - apply(matrix, source)
    effective = weight.sum() ** 2 / (weight**2).sum()
    if alike_mm > 0:
        cubes = np.unique(np.floor((source[weight > 0.1] - centre) / alike_mm + 0.5), axis=0)
        effective = min(effective, float(len(cubes)))
    freedom = 3 - count / effective
    if freedom <= 0:
        return np.full(len(at), np.nan)
    variance = weight @ (residual**2).sum(axis=1) / weight.sum() / freedom
    information = np.einsum("n,nij,nik->jk", weight / weight.sum() * effective, design, design)
    there = _design(model, matrix, at - centre)
    return np.sqrt(variance * np.einsum("mij,jk,mik->m", there, np.linalg.pinv(information), there))


def _design(model: Model, matrix: FloatArray, points: FloatArray) -> FloatArray:
    """How the mapped points (N, 3) change with the parameters: (N, 3, parameters), shifts first."""
    n = len(points)
    moved = points @ matrix[:3, :3].T
    x, y, z = moved.T
    o = np.zeros(n)
    shift = np.broadcast_to(np.eye(3), (n, 3, 3))
    if model == "affine":
        linear = np.einsum("ij,nk->nijk", np.eye(3), points).reshape(n, 3, 9)
        return np.concatenate([shift, linear], axis=2)
    turn = np.stack([np.stack([o, -z, y], 1), np.stack([z, o, -x], 1), np.stack([-y, x, o], 1)], axis=2)
    parts = [shift, turn] + ([moved[..., None]] if model == "similarity" else [])
    return np.concatenate(parts, axis=2)
