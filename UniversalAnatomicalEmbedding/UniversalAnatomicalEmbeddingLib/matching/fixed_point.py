"""Fixed-point matching (UAE section 3.4) in floating point.

Anchors around the query are matched forth and back until they no longer move. Those that truly return to themselves pair up points of
both scans, and a robust local affine map through the pairs carries the query over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..images.grid import FloatArray
from ..options import MatchOptions
from .nearest import find_peaks
from .searchable import Searchable

PASSES = 2
FEWEST_ANCHORS = 5
HUBER_MM = 3.0


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """Result for one query: ``point_lps`` (3,), how many anchors held, root mean square residual of the map in mm, or why there is none."""

    point_lps: FloatArray | None
    anchors: int
    residual_mm: float
    failure: str = ""


def match_fixed_points(points_lps: FloatArray, template: Searchable, target: Searchable, options: MatchOptions) -> list[FixedPoint]:
    """Carry each point (N, 3) from ``template`` to ``target``."""
    reach = np.arange(-options.anchor_reach, options.anchor_reach + 1) * options.anchor_spacing_mm
    offsets = np.stack(np.meshgrid(reach, reach, reach, indexing="ij"), -1).reshape(-1, 3)
    return [_match_one(point, point + offsets, template, target, options) for point in np.asarray(points_lps, dtype=np.float64)]


def _match_one(point: FloatArray, anchors: FloatArray, template: Searchable, target: Searchable, options: MatchOptions) -> FixedPoint:
    here = anchors[template.embedding.contains(anchors)]
    if len(here) == 0:
        return FixedPoint(None, 0, np.inf, "the point lies outside the template scan")
    for _ in range(PASSES):
        start = here
        there = find_peaks(template.query(start), target, options.exact).points_lps
        here = find_peaks(target.query(there), template, options.exact).points_lps
    fixed = (np.linalg.norm(here - start, axis=1) <= options.return_mm) & (np.linalg.norm(start - point, axis=1) <= options.anchor_mm)
    pairs = np.unique(np.hstack([start, there])[fixed].round(3), axis=0)
    if len(pairs) < FEWEST_ANCHORS:
        return FixedPoint(None, len(pairs), np.inf, f"only {len(pairs)} anchors return to themselves")
    position, residual = local_map(pairs[:, :3], pairs[:, 3:], point)
    return FixedPoint(position, len(pairs), float(residual))


def local_map(
    source: FloatArray, destination: FloatArray, point: FloatArray, falloff_mm: float = 10.0, ridge_mm2: float = 0.5
) -> tuple[FloatArray, FloatArray]:
    """Where the pairs (..., N, 3) -> (..., N, 3) carry ``point`` (..., 3), and their root mean square residual (...) in mm.

    Weighted affine fit with Huber weights, pairs nearer to the point than ``falloff_mm`` counting more, its linear part drawn towards the
    identity by ``ridge_mm2``, so that few or coplanar anchors stay well posed. Leading axes are points fitted independently.
    """
    base = 1.0 / (1.0 + (np.linalg.norm(source - point[..., None, :], axis=-1) / falloff_mm) ** 2)
    weight, ridge = base, ridge_mm2 * np.eye(3)
    for _ in range(8):
        share = (weight / weight.sum(axis=-1, keepdims=True))[..., None]
        centre, image = (share * source).sum(axis=-2), (share * destination).sum(axis=-2)
        a, b = source - centre[..., None, :], destination - image[..., None, :]
        weighted = (share * a).swapaxes(-1, -2)
        linear = np.linalg.solve(weighted @ a + ridge, weighted @ b + ridge)
        error = np.linalg.norm(b - a @ linear, axis=-1)
        weight = base * np.minimum(1.0, HUBER_MM / np.maximum(error, 1e-9))
    position = image + ((point - centre)[..., None, :] @ linear)[..., 0, :]
    return position, np.sqrt((weight * error**2).sum(axis=-1) / weight.sum(axis=-1))
