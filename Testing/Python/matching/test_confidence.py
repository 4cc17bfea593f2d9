"""Calibrated probabilities and the verdict found, uncertain or absent."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest

from UniversalAnatomicalEmbeddingLib.matching.confidence import (
    DEEPEST_MM,
    FEATURES,
    LARGEST_SPREAD_MM,
    UNCALIBRATED_CYCLE_MM,
    Calibration,
    Evidence,
    judge,
    probability,
)
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

ZEROS = (0.0,) * (len(FEATURES) - 2)
# The first feature decides correctness, the second presence; both at 0.
BY_SIGN = Calibration(correct=(10.0, 0.0, *ZEROS, 0.0), present=(0.0, 10.0, *ZEROS, 0.0), absent_below=0.5)


def row(*shown: float, **values: float) -> np.ndarray:
    """Features (1, F) of one match, given in order or by name; the others are 0."""
    named = dict.fromkeys((f.name for f in fields(Evidence)), 0.0)
    named |= dict(zip(named, shown, strict=False)) | values
    return Evidence(**{name: np.array([value]) for name, value in named.items()}).features()


def test_features_are_named_in_their_order_and_distances_are_logarithmic() -> None:
    assert FEATURES == ("similarity", "coarse", "margin", "log_cycle", "log_spread", "log_beyond", "support", "log_inside")
    shown = row(0.1, 0.2, 0.3, np.e - 1, np.e**2 - 1, np.e**3 - 1, 0.4, np.e**4 - 1)
    np.testing.assert_allclose(shown, [[0.1, 0.2, 0.3, 1.0, 2.0, 3.0, 0.4, 4.0]])


def test_how_deep_inside_a_landmark_lies_counts_up_to_a_limit() -> None:
    np.testing.assert_array_equal(row(inside_mm=500.0), row(inside_mm=DEEPEST_MM))
    assert row(inside_mm=5.0)[0, -1] < row(inside_mm=20.0)[0, -1] < row(inside_mm=500.0)[0, -1]


def test_evidence_is_given_match_by_match() -> None:
    evidence = Evidence(**{f.name: np.arange(2.0) + n for n, f in enumerate(fields(Evidence))})
    first, second = evidence.rows()
    assert first["similarity"] == 0 and first["inside_mm"] == len(FEATURES) - 1
    assert second == {name: value + 1 for name, value in first.items()}


def test_no_anchors_near_count_as_the_largest_spread() -> None:
    np.testing.assert_array_equal(row(spread_mm=np.inf), row(spread_mm=LARGEST_SPREAD_MM))
    assert np.isfinite(row(spread_mm=np.inf)).all()


def test_probability_by_hand() -> None:
    x = np.array([[1.0, 2.0], [0.0, 0.0], [-1.0, 0.5]])
    expected = [1 / (1 + np.exp(-(0.5 - 2.0 + 0.25))), 1 / (1 + np.exp(-0.25)), 1 / (1 + np.exp(-(-0.5 - 0.5 + 0.25)))]
    np.testing.assert_allclose(probability(x, (0.5, -1.0, 0.25)), expected)


@pytest.mark.parametrize(
    ("similarity", "coarse", "status"),
    [(1.0, 1.0, "found"), (-1.0, 1.0, "uncertain"), (1.0, -1.0, "absent"), (-1.0, -1.0, "absent"), (0.0, 0.0, "uncertain")],
)
def test_status_follows_presence_first_and_correctness_then(similarity: float, coarse: float, status: str) -> None:
    confidence, found = judge(row(similarity, coarse), BY_SIGN)
    assert found == [status]
    there, right = 1 / (1 + np.exp(-10 * coarse)), 1 / (1 + np.exp(-10 * similarity))
    assert confidence[0] == pytest.approx(there * right), "an error under 10 mm needs the anatomy to be there"


def test_absence_threshold_is_the_calibrated_one() -> None:
    x = row(1.0, 0.0)
    for threshold, status in ((0.49, "uncertain"), (0.51, "absent")):
        assert judge(x, Calibration(BY_SIGN.correct, BY_SIGN.present, threshold))[1] == [status]


def test_rows_are_judged_one_by_one() -> None:
    x = np.concatenate([row(1, 1), row(-1, 1), row(1, -1)])
    confidence, status = judge(x, BY_SIGN)
    assert status == ["found", "uncertain", "absent"]
    assert confidence.shape == (3,)


def test_without_calibration_the_cycle_decides_and_nothing_is_absent() -> None:
    cycles = (0.0, UNCALIBRATED_CYCLE_MM, UNCALIBRATED_CYCLE_MM + 0.1)
    x = np.concatenate([*(row(cycle_mm=c) for c in cycles), row(-1, -1, -1, 900, 99)])
    confidence, status = judge(x, None)
    assert np.isnan(confidence).all()
    assert status == ["found", "found", "uncertain", "uncertain"]


def test_calibration_from_a_model_card() -> None:
    assert Calibration.from_card(None) is None
    weights = list(range(len(FEATURES) + 1))
    stored = json.loads(json.dumps({"correct": weights, "present": weights[::-1], "absent_below": 0.25}))
    assert Calibration.from_card(stored) == Calibration(tuple(weights), tuple(weights[::-1]), 0.25)


def test_a_calibration_over_other_features_is_refused() -> None:
    weights = [0.0] * (len(FEATURES) + 1)
    for values in ({"correct": weights[1:], "present": weights[1:]}, {"correct": weights, "present": weights[1:]}):
        with pytest.raises(InputError, match=r"not over similarity, coarse, .* Calibrate it again"):
            Calibration.from_card({**values, "absent_below": 0.5})


def test_a_calibration_over_the_first_features_alone_keeps_its_verdicts() -> None:
    weights = [0.5, -1.0, 2.0, 0.1, -0.2, 0.3, 0.25]
    old = Calibration.from_card({"correct": weights, "present": weights[::-1], "absent_below": 0.5})
    assert old is not None
    x = row(0.9, 0.8, 0.1, 3.0, 4.0, 0.0, support=0.4, inside_mm=30.0)
    np.testing.assert_allclose(probability(x, old.correct), probability(x[:, :6], tuple(weights)))
    np.testing.assert_allclose(probability(x, old.present), probability(x[:, :6], tuple(weights[::-1])))
