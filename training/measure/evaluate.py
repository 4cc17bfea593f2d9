"""How far off a model is on scans with known answers: every query counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from UniversalAnatomicalEmbeddingLib.images import Volume
from UniversalAnatomicalEmbeddingLib.landmarks import PointList
from UniversalAnatomicalEmbeddingLib.models import Model
from UniversalAnatomicalEmbeddingLib.session import Session

from .known_warp import warped_pair


@dataclass(frozen=True, eq=False)
class Case:
    """Points (N, 3) LPS mm of a template scan and the same anatomy (N, 3) in a target scan."""

    template: Volume
    points: NDArray[np.float64]
    target: Volume
    truth: NDArray[np.float64]


def known_warp_cases(volumes: Sequence[Volume], seed: int = 0) -> list[Case]:
    """Every scan against itself under a known smooth warp, with other spacing, a smaller field of view and noise."""
    cases = []
    for i, volume in enumerate(volumes):
        warped, points, truth = warped_pair(volume, seed + i)
        cases.append(Case(volume, points, warped, truth))
    return cases


def landmark_cases(scans: Sequence[tuple[Volume, PointList]], targets: Sequence[str]) -> list[Case]:
    """Every scan with every target scan (by name) that has landmarks of the same names."""
    cases = []
    for (template, known), (target, wanted) in permutations(scans, 2):
        a, b = ({p.label: p.position_lps for p in points if p.position_lps is not None} for points in (known, wanted))
        shared = [label for label in a if label in b]
        if shared and target.name in targets:
            cases.append(Case(template, np.array([a[k] for k in shared]), target, np.array([b[k] for k in shared])))
    return cases


def errors(model: Model, cases: Sequence[Case], device: str = "auto") -> NDArray[np.float64]:
    """Distance in mm of every answer from the truth, with the matching that users get."""
    return session_errors(Session(model, device), cases)


def session_errors(session: Session, cases: Sequence[Case]) -> NDArray[np.float64]:
    """The same with a session at hand."""
    embedded = {id(v): session.embed(v) for case in cases for v in (case.template, case.target)}
    found = []
    for case in cases:
        template = embedded[id(case.template)]
        inside = template.embedding.contains(case.points)
        matches = session.match(template, case.points[inside], embedded[id(case.target)])
        found += [float(np.linalg.norm(m.point_lps - t)) for m, t in zip(matches, case.truth[inside], strict=True)]
    return np.array(found)


def summary(errors_mm: NDArray[np.float64]) -> dict[str, float]:
    """Figures of a list of errors."""
    if not len(errors_mm):
        return {"n": 0}
    median, p95 = np.percentile(errors_mm, [50, 95])
    figures = {"median_mm": median, "mean_mm": errors_mm.mean(), "p95_mm": p95, "within_10mm": (errors_mm <= 10).mean()}
    return {"n": len(errors_mm), **{k: round(float(v), 3) for k, v in figures.items()}}
