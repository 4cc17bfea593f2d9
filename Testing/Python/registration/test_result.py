"""What a registration says of itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from UniversalAnatomicalEmbeddingLib.registration.result import Registration, outcome
from UniversalAnatomicalEmbeddingLib.registration.transform import Transform

MATRIX = np.array([[0.0, -1, 0, 10], [1, 0, 0, -20], [0, 0, 1, 5], [0, 0, 0, 1]])


def registered(**changes: object) -> Registration:
    points = np.arange(12.0).reshape(4, 3)
    values = {
        "transform": Transform(MATRIX), "stage": "rigid", "source": "landmarks", "fixed_lps": points, "moving_lps": points + 1,
        "residual_mm": np.array([3.0, 4.0, 0.0, 100.0]), "inlier": np.array([True, True, True, False]),
        "expected_tre_mm": 1.5, "folding": 0.0, "seconds": 2.0,
    }  # fmt: skip
    return Registration(**(values | changes))  # type: ignore[arg-type]


def test_the_fiducial_error_is_the_root_mean_square_of_the_pairs_that_agree() -> None:
    assert registered().fre_mm == pytest.approx(np.sqrt((9 + 16 + 0) / 3))


def test_the_report_counts_pairs_and_keeps_the_map() -> None:
    report = registered(note="few landmarks").report()
    assert (report["pairs"], report["inliers"], report["stage"], report["source"]) == (4, 3, "rigid", "landmarks")
    assert np.array_equal(report["matrix_fixed_to_moving_lps"], MATRIX)
    assert report["note"] == "few landmarks"


def test_figures_that_are_not_known_are_none_and_the_report_is_json() -> None:
    report = registered(expected_tre_mm=np.nan, loo_mm=np.array([1.0, np.nan, 2.0, 3.0])).report()
    assert report["expected_tre_mm"] is None
    assert report["leave_one_out_tre_mm"] == [1.0, None, 2.0, 3.0]
    assert registered().report()["leave_one_out_tre_mm"] is None and registered().report()["refined_mm"] is None
    assert "NaN" not in json.dumps(report, allow_nan=False)


def test_the_outcome_is_one_sentence_with_the_error_first_and_its_note() -> None:
    plain = registered(residual_mm=np.array([2.0, 2.0, 2.0, 9.0]))
    assert outcome(plain.report()) == "Rigid from landmarks: expected error 1.5 mm, 3 of 4 pairs agree to 2.0 mm."
    noted = registered(expected_tre_mm=np.nan, note="Too few landmarks to tell.").report() | {"fre_mm": None}
    assert outcome(noted) == "Rigid from landmarks: expected error not known, 3 of 4 pairs agree. Too few landmarks to tell."


def test_the_outcome_tells_what_folds_and_how_far_the_refinement_went() -> None:
    report = registered(stage="deformable", source="embeddings", folding=0.0123, refined_mm=4.56).report()
    assert outcome(report).startswith("Deformable from embeddings: expected error 1.5 mm, 3 of 4 pairs agree to ")
    assert outcome(report).endswith("1.23% of the field folds, refined by mutual information, which moved the body by 4.6 mm.")


def test_no_face_words_the_outcome_by_itself() -> None:
    package = Path(__file__).resolve().parents[3] / "UniversalAnatomicalEmbedding"
    worded = re.compile(r"\} pairs agree|expected (error|TRE) (\{|not)")
    assert {p.name for p in package.rglob("*.py") if worded.search(p.read_text(encoding="utf-8"))} == {"result.py"}
