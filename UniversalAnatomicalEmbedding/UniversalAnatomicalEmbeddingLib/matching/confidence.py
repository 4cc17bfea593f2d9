"""How far a match can be trusted: calibrated probabilities and the verdict found, uncertain or absent."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from ..images.grid import FloatArray
from ..system.errors import InputError

Status = Literal["found", "uncertain", "absent"]
FEATURES = ("similarity", "coarse", "margin", "log_cycle", "log_spread", "log_beyond", "support", "log_inside")
FEWEST_FEATURES = 6  # what calibrations of compact-ct-mr-3 and before are over
LARGEST_SPREAD_MM = 60.0
DEEPEST_MM = 60.0
FOUND_PROBABILITY = 0.5
UNCALIBRATED_CYCLE_MM = 10.0


@dataclass(frozen=True)
class Calibration:
    """Two logistic models over :data:`FEATURES`: ``present`` predicts that the target shows the anatomy, ``correct`` that then the error is under 10 mm.

    Each is (weights..., intercept). A match whose probability of presence is under ``absent_below`` is reported absent.
    """

    correct: tuple[float, ...]
    present: tuple[float, ...]
    absent_below: float

    @staticmethod
    def from_card(values: dict[str, Any] | None) -> Calibration | None:
        """The calibration stored in a model card, or None. One over the first features alone, from before there were more,
        keeps its verdicts: the others count nothing. InputError for one over anything else."""
        if values is None:
            return None
        models = [list(map(float, values[name])) for name in ("correct", "present")]
        if any(len(model) not in (FEWEST_FEATURES + 1, len(FEATURES) + 1) for model in models):
            raise InputError(f"The model's calibration is not over {', '.join(FEATURES)}. Calibrate it again with training.calibrate.")
        correct, present = ((*m[:-1], *[0.0] * (len(FEATURES) + 1 - len(m)), m[-1]) for m in models)
        return Calibration(correct, present, float(values["absent_below"]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What is known of N matches; each ``(N,)``, in the words of :class:`~.Match`."""

    similarity: FloatArray
    coarse: FloatArray
    margin: FloatArray
    cycle_mm: FloatArray
    spread_mm: FloatArray
    beyond_mm: FloatArray
    support: FloatArray
    inside_mm: FloatArray

    def features(self) -> FloatArray:
        """Feature matrix (N, 8) in the order of :data:`FEATURES`; an infinite spread (no anchors near) counts as 60 mm, and more than 60 mm
        inside the field of view as that."""
        spread, inside = np.minimum(self.spread_mm, LARGEST_SPREAD_MM), np.minimum(self.inside_mm, DEEPEST_MM)
        logs = [np.log1p(self.cycle_mm), np.log1p(spread), np.log1p(self.beyond_mm)]
        return np.stack([self.similarity, self.coarse, self.margin, *logs, self.support, np.log1p(inside)], axis=1)

    def rows(self) -> list[dict[str, float]]:
        """The evidence match by match."""
        columns = {f.name: getattr(self, f.name).tolist() for f in fields(self)}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def probability(x: FloatArray, model: tuple[float, ...]) -> FloatArray:
    """Logistic probabilities (N,) of features (N, F)."""
    return 1.0 / (1.0 + np.exp(-(x @ np.array(model[:-1]) + model[-1])))


def judge(x: FloatArray, calibration: Calibration | None) -> tuple[FloatArray, list[Status]]:
    """Confidence (N,), the probability of an error under 10 mm, and the status of each match.

    Without a calibration the confidence is NaN and a match is "found" when it cycles back to within 10 mm, else "uncertain".
    """
    if calibration is None:
        close = x[:, 3] <= np.log1p(UNCALIBRATED_CYCLE_MM)
        return np.full(len(x), np.nan), ["found" if c else "uncertain" for c in close]
    present = probability(x, calibration.present)
    correct = present * probability(x, calibration.correct)
    status: list[Status] = []
    for seen, good in zip(present, correct, strict=True):
        status.append("absent" if seen < calibration.absent_below else "found" if good >= FOUND_PROBABILITY else "uncertain")
    return correct, status
