"""What a pair of scans agrees on as a whole, used to keep single matches from straying.

Points spread over the template's body are matched to the target and back on coarse lattices. Those that return, and move like their
neighbours, say where any other point must roughly be (the stable points of SAME, Liu et al., used locally).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from ..images.grid import FloatArray
from .fixed_point import local_map
from .nearest import LATTICE_STEP, find_near, lattice_scores, refine
from .searchable import Query, Searchable

LATTICE_STEP_MM, DENSE_STEP_MM = 16.0, 12.0
MOST_ANCHORS, MOST_DENSE_ANCHORS = 800, 3000
RETURN_MM, DENSE_RETURN_MM = 12.0, 8.0
STRAY_MM, DENSE_STRAY_MM = 20.0, 12.0
NEIGHBOURS = 12
DENSE_SEARCH_MM = 20.0
SUPPORT = 16
AROUND_MM = 40.0
REACH_MM = 90.0
FALLOFF_MM = 40.0
RIDGE_MM2 = 100.0
AT_ONCE = 32
SMALLEST_RADIUS_MM = 8.0
LARGEST_RADIUS_MM = 20.0


@dataclass(frozen=True, eq=False)
class Guide:
    """Anchors (K, 3) of the template and their places (K, 3) in the target, LPS mm; ``tried`` (T, 3): all points of the
    template that could have become one."""

    source: FloatArray
    destination: FloatArray
    tried: FloatArray

    def predict(self, points_lps: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Where points (N, 3) should be: positions (N, 3), and how far the anchors around disagree, in mm (inf: too few anchors near)."""
        position, spread = np.array(points_lps, dtype=np.float64), np.full(len(points_lps), np.inf)
        if len(self.source) < SUPPORT:
            return position, spread
        distance, near = cKDTree(self.source).query(position, k=SUPPORT)
        known = distance[:, SUPPORT // 2] <= REACH_MM
        source, destination = self.source[near[known]], self.destination[near[known]]
        position[known], spread[known] = local_map(source, destination, position[known], FALLOFF_MM, RIDGE_MM2)
        return position, spread

    def support(self, points_lps: FloatArray) -> FloatArray:
        """Which share (N,) of what was tried within 40 mm of points (N, 3) became an anchor; 0 where nothing was."""
        anchors, tried = (_count_around(points, points_lps) for points in (self.source, self.tried))
        return anchors / np.maximum(tried, 1)


def _count_around(points: FloatArray, places: FloatArray) -> FloatArray:
    if len(points) == 0:
        return np.zeros(len(places))
    return cKDTree(points).query_ball_point(places, AROUND_MM, return_length=True).astype(np.float64)


def guide_between(template: Searchable, target: Searchable) -> Guide:
    """The guide of a pair of scans, made at the first question and remembered as long as both scans are."""
    if template not in target.guides:
        target.guides[template] = build_guide(template, target)
    return target.guides[template]


@dataclass(frozen=True, kw_only=True, eq=False)
class Expectation:
    """Where N landmarks must lie.

    ``centre`` (N, 3) LPS mm and search ``radius`` (N,); ``spread_mm`` (N,) how much the anchors disagree (radius and spread infinite: too few
    anchors near); ``beyond_mm`` and ``inside_mm`` (N,) how far the centre lies outside and inside the target's field of view;
    ``support`` (N,) the share of what was tried around the landmark that became an anchor.
    """

    centre: FloatArray
    radius: FloatArray
    spread_mm: FloatArray
    beyond_mm: FloatArray
    inside_mm: FloatArray
    support: FloatArray


def expect(exemplars: Sequence[tuple[Searchable, FloatArray]], target: Searchable) -> Expectation:
    """The expectation of the exemplar whose anchors agree best, landmark by landmark."""
    guides = [guide_between(scan, target) for scan, _ in exemplars]
    predicted = [guide.predict(points) for guide, (_, points) in zip(guides, exemplars, strict=True)]
    supports = [guide.support(points) for guide, (_, points) in zip(guides, exemplars, strict=True)]
    spread = np.stack([s for _, s in predicted])
    best = spread.argmin(axis=0)
    each = np.arange(len(best))
    centre, least = np.stack([p for p, _ in predicted])[best, each], spread[best, each]
    known, grid = np.isfinite(least), target.embedding.grid
    return Expectation(
        centre=centre,
        radius=_radius(least),
        spread_mm=least,
        beyond_mm=np.where(known, grid.outside_mm(centre), 0.0),
        inside_mm=np.where(known, grid.inside_mm(centre), 0.0),
        support=np.stack(supports)[best, each],
    )


def _radius(spread_mm: FloatArray) -> FloatArray:
    return np.where(np.isfinite(spread_mm), np.clip(2 * spread_mm + 4, SMALLEST_RADIUS_MM, LARGEST_RADIUS_MM), np.inf)


def build_guide(template: Searchable, target: Searchable) -> Guide:
    """Match a lattice of points of the anatomy forth and back, keep what returns and moves with its neighbours; then a denser one, each near where the first
    puts it."""
    source = _spread_points(template, LATTICE_STEP_MM, MOST_ANCHORS)
    destination = coarse_match(template.query(source), target)
    back = coarse_match(target.query(destination), template)
    first = _agreeing(source, destination, back, source, RETURN_MM, STRAY_MM)
    source = tried = _spread_points(template, DENSE_STEP_MM, MOST_DENSE_ANCHORS)
    expected, spread = first.predict(source)
    near = np.isfinite(spread) & target.embedding.contains(expected)
    if not near.any():
        return first
    source, expected = source[near], expected[near]
    destination = find_near(template.query(source), target, expected, DENSE_SEARCH_MM)
    shown = np.isfinite(destination).all(1)
    source, destination = source[shown], destination[shown]
    back = find_near(target.query(destination), template, source, DENSE_SEARCH_MM)
    return _agreeing(source, destination, back, tried, DENSE_RETURN_MM, DENSE_STRAY_MM)


def _agreeing(
    source: FloatArray,
    destination: FloatArray,
    back: FloatArray,
    tried: FloatArray,
    return_mm: float,
    stray_mm: float,
) -> Guide:
    """The anchors that come back to within ``return_mm`` and move like their neighbours to within ``stray_mm``."""
    kept = np.linalg.norm(back - source, axis=1) <= return_mm
    source, destination = source[kept], destination[kept]
    for _ in range(2):
        if len(source) <= NEIGHBOURS:
            break
        _, near = cKDTree(source).query(source, k=NEIGHBOURS + 1)
        shift = destination - source
        stray = np.linalg.norm(shift - np.median(shift[near[:, 1:]], axis=1), axis=1)
        source, destination = source[stray <= stray_mm], destination[stray <= stray_mm]
    return Guide(source, destination, tried)


def coarse_match(query: Query, target: Searchable) -> FloatArray:
    """Best places (Q, 3) LPS mm on every second cell of the target's anatomy, then refined among the cells around."""
    lattice = target.lattice(LATTICE_STEP)
    found = lattice_scores(query, target, lattice, AT_ONCE)
    best = [refine(part, target, coarse, lattice[scores.argmax(1)]) for part, coarse, scores in found]
    index = torch.cat(best).double().cpu().numpy()
    return target.embedding.fine_grid.index_to_world(index)


def _spread_points(scan: Searchable, step_mm: float, most: int) -> FloatArray:
    """Points (N, 3) LPS mm of the anatomy on a regular lattice, at most ``most``."""
    points = scan.lattice_points(step_mm)
    if len(points) > most:
        points = points[np.random.default_rng(0).permutation(len(points))[:most]]
    return points
