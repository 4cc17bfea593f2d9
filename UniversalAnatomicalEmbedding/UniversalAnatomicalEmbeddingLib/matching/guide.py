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

from ..geometry import FloatArray
from .fixed_point import local_map
from .nearest import LATTICE_STEP, find_near, lattice_scores, refine
from .similarity import Query, Searchable

LATTICE_STEP_MM, DENSE_STEP_MM = 16.0, 12.0
MOST_ANCHORS, MOST_DENSE_ANCHORS = 800, 3000
RETURN_MM, DENSE_RETURN_MM = 12.0, 8.0
STRAY_MM, DENSE_STRAY_MM = 20.0, 12.0
NEIGHBOURS = 12
DENSE_SEARCH_MM = 20.0
SUPPORT = 16
REACH_MM = 90.0
FALLOFF_MM = 40.0
RIDGE_MM2 = 100.0
AT_ONCE = 32
SMALLEST_RADIUS_MM = 8.0
LARGEST_RADIUS_MM = 20.0


@dataclass(frozen=True, eq=False)
class Guide:
    """Anchors (K, 3) of the template and their places (K, 3) in the target, LPS mm."""

    source: FloatArray
    destination: FloatArray

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


def guide_between(template: Searchable, target: Searchable) -> Guide:
    """The guide of a pair of scans, made at the first question and remembered as long as both scans are."""
    if template not in target.guides:
        target.guides[template] = build_guide(template, target)
    return target.guides[template]


@dataclass(frozen=True, eq=False)
class Expectation:
    """Where N landmarks must lie: ``centre`` (N, 3) LPS mm, search ``radius`` (N,), ``spread_mm`` (N,) how much the anchors disagree (radius and
    spread infinite: too few anchors near), ``beyond_mm`` (N,) how far the centre lies outside the target's field of view."""

    centre: FloatArray
    radius: FloatArray
    spread_mm: FloatArray
    beyond_mm: FloatArray


def expect(exemplars: Sequence[tuple[Searchable, FloatArray]], target: Searchable) -> Expectation:
    """The expectation of the exemplar whose anchors agree best, landmark by landmark."""
    predicted = [guide_between(scan, target).predict(points) for scan, points in exemplars]
    spread = np.stack([s for _, s in predicted])
    best = spread.argmin(axis=0)
    each = np.arange(len(best))
    centre, least = np.stack([p for p, _ in predicted])[best, each], spread[best, each]
    known = np.isfinite(least)
    radius = np.where(known, np.clip(2 * least + 4, SMALLEST_RADIUS_MM, LARGEST_RADIUS_MM), np.inf)
    return Expectation(centre, radius, least, np.where(known, target.embedding.grid.outside_mm(centre), 0.0))


def build_guide(template: Searchable, target: Searchable) -> Guide:
    """Match a lattice of points of the anatomy forth and back, keep what returns and moves with its neighbours; then a denser one, each near where the first
    puts it."""
    source = _spread_points(template, LATTICE_STEP_MM, MOST_ANCHORS)
    destination = coarse_match(template.query(source), target)
    back = coarse_match(target.query(destination), template)
    first = _agreeing(source, destination, back, RETURN_MM, STRAY_MM)
    source = _spread_points(template, DENSE_STEP_MM, MOST_DENSE_ANCHORS)
    expected, spread = first.predict(source)
    near = np.isfinite(spread) & target.embedding.contains(expected)
    if not near.any():
        return first
    source, expected = source[near], expected[near]
    destination = find_near(template.query(source), target, expected, DENSE_SEARCH_MM)
    shown = np.isfinite(destination).all(1)
    source, destination = source[shown], destination[shown]
    back = find_near(target.query(destination), template, source, DENSE_SEARCH_MM)
    return _agreeing(source, destination, back, DENSE_RETURN_MM, DENSE_STRAY_MM)


def _agreeing(source: FloatArray, destination: FloatArray, back: FloatArray, return_mm: float, stray_mm: float) -> Guide:
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
    return Guide(source, destination)


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
