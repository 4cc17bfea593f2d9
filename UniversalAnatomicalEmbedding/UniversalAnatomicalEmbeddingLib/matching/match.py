"""Find points of one embedded scan in another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..images.grid import FloatArray
from ..options import MatchOptions
from ..system.errors import InputError
from .confidence import Calibration, Evidence, Status, judge
from .fixed_point import match_fixed_points
from .guide import expect
from .nearest import find_peaks
from .published import match_published
from .searchable import Searchable
from .templates import combine


@dataclass(frozen=True, kw_only=True, eq=False)
class Match:
    """One landmark in one target.

    ``point_lps`` (3,) mm is the best position even when the verdict is "absent"; ``similarity`` the fused cosine there, ``coarse``
    that of the coarse head alone; ``margin`` to the best other place; ``cycle_mm`` how far the way back misses the start. From the
    anchors that both scans have in common around the landmark: ``spread_mm`` how much they disagree (infinite: none near),
    ``beyond_mm`` and ``inside_mm`` how far outside and inside the target's field of view they put it, ``support`` the share of what
    was tried that became an anchor. ``confidence`` is the calibrated probability that the error is under 10 mm (NaN without
    calibration); ``note`` says why a method failed.
    """

    point_lps: FloatArray
    similarity: float
    coarse: float
    margin: float
    cycle_mm: float
    spread_mm: float
    beyond_mm: float
    support: float
    inside_mm: float
    confidence: float
    status: Status
    note: str = ""


def match_points(
    templates: list[tuple[Searchable, ArrayLike]],
    target: Searchable,
    options: MatchOptions | None = None,
    calibration: Calibration | None = None,
) -> list[Match]:
    """Find N landmarks in ``target``, all in one batch.

    ``templates`` are exemplars: scans with the positions (N, 3) LPS mm of the same landmarks in each. All scans must be embedded with
    the same model, and every landmark must lie inside its template (:class:`InputError` otherwise).
    """
    options = options or MatchOptions()
    exemplars = [(scan, _positions(points)) for scan, points in templates]
    _check(exemplars, target)
    if len(exemplars[0][1]) == 0:
        return []
    plain = options.exact or options.compat
    query = combine([scan.query(points, None if plain else target.around_mm) for scan, points in exemplars])
    expected = expect(exemplars, target)
    region = None if plain else (expected.centre, expected.radius)
    peaks = find_peaks(query, target, plain, region)
    found, similarity, notes = peaks.points_lps, peaks.similarity, [""] * len(peaks.points_lps)
    if options.compat:
        found, similarity, notes = _published(exemplars, target, options)
    elif options.method == "fixed-point":
        found, notes = _fixed_points(exemplars, target, options, found)
    cycle = np.mean([_cycle(scan, points, target, found, plain) for scan, points in exemplars], axis=0)
    evidence = Evidence(
        similarity=similarity,
        coarse=peaks.coarse,
        margin=peaks.margin,
        cycle_mm=cycle,
        spread_mm=expected.spread_mm,
        beyond_mm=expected.beyond_mm,
        support=expected.support,
        inside_mm=expected.inside_mm,
    )
    confidence, status = judge(evidence.features(), calibration)
    status = ["uncertain" if note and s == "found" else s for note, s in zip(notes, status, strict=True)]
    verdicts = zip(found, confidence.tolist(), status, notes, evidence.rows(), strict=True)
    return [Match(point_lps=point, confidence=sure, status=verdict, note=note, **known) for point, sure, verdict, note, known in verdicts]


def _cycle(scan: Searchable, points: FloatArray, target: Searchable, found: FloatArray, plain: bool) -> FloatArray:
    """How far (N,) mm the way back misses the start. It looks everywhere, so that it does not lean on the anchors of the way there."""
    back = find_peaks(target.query(found), scan, plain).points_lps
    return np.linalg.norm(back - points, axis=1)


def _published(
    exemplars: list[tuple[Searchable, FloatArray]], target: Searchable, options: MatchOptions
) -> tuple[FloatArray, FloatArray, list[str]]:
    if len(exemplars) != 1:
        raise InputError("The published method knows one template; give one template scan, or match without --compat.")
    [(scan, points)] = exemplars
    return match_published(points, scan, target, options)


def _fixed_points(
    exemplars: list[tuple[Searchable, FloatArray]], target: Searchable, options: MatchOptions, nearest: FloatArray
) -> tuple[FloatArray, list[str]]:
    """Fixed-point positions (median over the exemplars that succeed); where none does, the nearest neighbour and the reason."""
    results = [match_fixed_points(points, scan, target, options) for scan, points in exemplars]
    found, notes = nearest.copy(), []
    for i, per_exemplar in enumerate(zip(*results, strict=True)):
        positions = [r.point_lps for r in per_exemplar if r.point_lps is not None]
        if positions:
            found[i] = np.median(positions, axis=0)
        notes.append("" if positions else f"nearest neighbour, no fixed points: {per_exemplar[0].failure}")
    return found, notes


def _positions(points: ArrayLike) -> FloatArray:
    """Points as (N, 3); a single (3,) and an empty list count as points too."""
    array = np.asarray(points, dtype=np.float64)
    if array.size and (array.ndim > 2 or array.shape[-1:] != (3,)):
        raise InputError(f"Points of shape {array.shape} were given; N points are an array (N, 3), LPS mm.")
    return array.reshape(-1, 3)


def _check(exemplars: list[tuple[Searchable, FloatArray]], target: Searchable) -> None:
    counts = [len(points) for _, points in exemplars]
    if len(set(counts)) != 1:
        raise InputError(f"The template scans show {counts} landmarks; give at least one template, and the same landmarks in each.")
    for scan, points in exemplars:
        name = scan.embedding.name
        if scan.embedding.model_id != target.embedding.model_id:
            raise InputError(
                f"{name} was embedded with model {scan.embedding.model_id}, {target.embedding.name} with {target.embedding.model_id}. Use one model."
            )
        outside = np.flatnonzero(~scan.embedding.contains(points))
        if len(outside):
            where = ", ".join(f"{v:.1f}" for v in points[outside[0]])
            raise InputError(f"Point {outside[0] + 1} at LPS ({where}) mm lies outside the patient in {name}; place it inside the scan.")
