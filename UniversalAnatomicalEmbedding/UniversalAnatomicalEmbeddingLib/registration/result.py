"""What a registration answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..images.grid import FloatArray
from ..options import Stage
from ..system.errors import InputError
from ..system.language import tr as _
from .transform import Transform

Source = Literal["embeddings", "landmarks"]


class NoCommonAnatomy(InputError):
    """The two scans do not show the same anatomy, or too little of it to be registered."""


@dataclass(frozen=True, eq=False)
class Registration:
    """The map between two scans and how far it can be trusted.

    ``transform`` takes fixed points to moving points, LPS mm. ``fixed_lps``, ``moving_lps`` (N, 3) are the pairs it rests on (matched keypoints, or the
    landmarks given, in their order), ``residual_mm`` (N,) their distances after ``transform``, ``inlier`` (N,) those that agree with its linear part.
    ``expected_tre_mm``: expected target registration error (root mean square, from the covariance of the fit), median over the body that
    both scans show, or over the landmarks; NaN where too few pairs can tell. ``loo_mm`` (N,): leave-one-out error of each landmark (landmarks only, NaN
    where the rest do not determine the map). ``folding``: share of the deformable field that folds. ``refined_mm``: mean distance by which the
    intensity refinement moved the body, None where it was not asked for or refused. ``note``: what to know about this result, else empty.
    """

    transform: Transform
    stage: Stage
    source: Source
    fixed_lps: FloatArray
    moving_lps: FloatArray
    residual_mm: FloatArray
    inlier: NDArray[np.bool_]
    expected_tre_mm: float
    folding: float
    seconds: float
    loo_mm: FloatArray | None = None
    refined_mm: float | None = None
    note: str = ""

    @property
    def fre_mm(self) -> float:
        """Fiducial registration error: root mean square residual of the inlier pairs, mm."""
        return float(np.sqrt(np.mean(self.residual_mm[self.inlier] ** 2)))

    def report(self) -> dict[str, Any]:
        """The figures of ``report.json``; numbers that are not known are None."""
        return {
            "stage": self.stage,
            "source": self.source,
            "pairs": len(self.inlier),
            "inliers": int(self.inlier.sum()),
            "fre_mm": _known(self.fre_mm),
            "expected_tre_mm": _known(self.expected_tre_mm),
            "leave_one_out_tre_mm": None if self.loo_mm is None else [_known(v) for v in self.loo_mm],
            "folding": self.folding,
            "refined_mm": self.refined_mm,
            "seconds": self.seconds,
            "matrix_fixed_to_moving_lps": self.transform.matrix.tolist(),
            "note": self.note,
        }


def outcome(report: Mapping[str, Any]) -> str:
    """What a person needs to know of a registration, from its :meth:`Registration.report`: one sentence, and its note."""
    stages = {"rigid": _("Rigid"), "similarity": _("Similarity"), "affine": _("Affine"), "deformable": _("Deformable")}
    sources = {"embeddings": _("embeddings"), "landmarks": _("landmarks")}
    made = _("{stage} from {source}").format(stage=stages[report["stage"]], source=sources[report["source"]])
    return f"{made}: {expected_error(report)}, {support(report)}. {report['note']}".rstrip()


def expected_error(report: Mapping[str, Any]) -> str:
    """The first thing to know: the expected target registration error, in words."""
    if report["expected_tre_mm"] is None:
        return _("expected error not known")
    return _("expected error {error} mm").format(error=f"{report['expected_tre_mm']:.1f}")


def support(report: Mapping[str, Any]) -> str:
    """What speaks for and against a registration: the pairs that agree, folding, and how far the refinement went."""
    said = [_("{inliers} of {pairs} pairs agree").format(inliers=report["inliers"], pairs=report["pairs"])]
    if report["fre_mm"] is not None:
        said[0] += " " + _("to {residual} mm").format(residual=f"{report['fre_mm']:.1f}")
    if report["stage"] == "deformable":
        said.append(_("{share} of the field folds").format(share=f"{report['folding']:.2%}"))
    if report["refined_mm"] is not None:
        said.append(_("refined by mutual information, which moved the body by {distance} mm").format(distance=f"{report['refined_mm']:.1f}"))
    return ", ".join(said)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
