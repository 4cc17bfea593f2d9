"""Registration from landmark pairs alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from positions import carried, lps_grid, motion, textured
from registration_scene import LANDMARKS, TRUTH, tre
from samples import tissue_volume

from UniversalAnatomicalEmbeddingLib.landmarks.points import Point, PointList
from UniversalAnatomicalEmbeddingLib.options import RegisterOptions
from UniversalAnatomicalEmbeddingLib.registration import pair_landmarks, register_landmarks
from UniversalAnatomicalEmbeddingLib.system.errors import InputError


def test_landmarks_alone_give_the_map_and_its_errors() -> None:
    there = carried(TRUTH, LANDMARKS) + np.random.default_rng(0).normal(0, 1, LANDMARKS.shape)
    result = register_landmarks(LANDMARKS, there, RegisterOptions(stage="rigid"))
    assert tre(result.transform, TRUTH) < 2
    assert result.fre_mm == pytest.approx(np.sqrt(np.mean(np.sum((result.transform(LANDMARKS) - there) ** 2, 1))))
    assert result.loo_mm is not None
    assert (result.loo_mm > result.residual_mm).all()
    assert 0.3 < result.expected_tre_mm < 3
    assert result.source == "landmarks"


def test_leave_one_out_is_the_error_of_the_map_through_the_others() -> None:
    there = carried(TRUTH, LANDMARKS)
    there[2] += [30, 0, 0]
    result = register_landmarks(LANDMARKS, there, RegisterOptions(stage="rigid"))
    assert result.loo_mm is not None
    assert result.loo_mm[2] == pytest.approx(30, abs=1e-6)


def test_three_landmarks_are_enough_but_cannot_judge_themselves() -> None:
    result = register_landmarks(LANDMARKS[:3], carried(TRUTH, LANDMARKS[:3]), RegisterOptions(stage="rigid"))
    assert tre(result.transform, TRUTH) < 1e-6
    assert np.isnan(result.loo_mm).all()
    assert result.report()["leave_one_out_tre_mm"] == [None] * 3


def test_deformable_landmarks_are_hit() -> None:
    there = carried(TRUTH, LANDMARKS) + np.random.default_rng(0).normal(0, 5, LANDMARKS.shape)
    scan = tissue_volume((48, 48, 80))
    scan = replace(scan, grid=lps_grid((-70, -50, -90), (140, 100, 180), 4.0), array=np.zeros((45, 25, 35), np.int16))
    result = register_landmarks(LANDMARKS, there, RegisterOptions(stage="deformable", field_mm=5.0), scan)
    assert result.residual_mm.max() < 2.5
    assert register_landmarks(LANDMARKS, there, RegisterOptions(stage="affine")).residual_mm.max() > 3
    with pytest.raises(InputError, match="needs the fixed scan"):
        register_landmarks(LANDMARKS, there, RegisterOptions(stage="deformable"))


def test_landmarks_can_be_refined_on_the_intensities() -> None:
    truth = motion((3, 2, -4), (20, 0, 10))
    fixed = textured(lps_grid((-80, -60, -80), (160, 120, 160), 4.0), lambda p: p, "ct")
    moving = textured(lps_grid((-80, -80, -90), (190, 160, 200), 4.0), lambda p: carried(np.linalg.inv(truth), p), "mr")
    rough = carried(truth, LANDMARKS) + np.random.default_rng(3).normal(0, 8, LANDMARKS.shape)
    plain, refined = (register_landmarks(LANDMARKS, rough, RegisterOptions(stage="rigid", refine=r), fixed, moving) for r in (False, True))
    assert tre(plain.transform, truth) > 3
    assert tre(refined.transform, truth) < 2
    assert refined.refined_mm is not None and refined.refined_mm > 2
    with pytest.raises(InputError, match="both scans"):
        register_landmarks(LANDMARKS, rough, RegisterOptions(refine=True))


@pytest.mark.parametrize(
    ("fixed", "moving", "sentence"),
    [
        (LANDMARKS, LANDMARKS[:4], "6 fixed and 4 moving"),
        (LANDMARKS[:2], LANDMARKS[:2], "at least 4"),
        (LANDMARKS * [1, 1, 0], LANDMARKS, "in one plane"),
        (LANDMARKS * np.nan, LANDMARKS, "finite"),
    ],
)
def test_landmarks_that_cannot_be_used(fixed: np.ndarray, moving: np.ndarray, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        register_landmarks(fixed, moving)


def test_landmarks_are_paired_by_name() -> None:
    a = PointList((Point("x", (1, 2, 3)), Point("only here", (0, 0, 0)), Point("y", (4, 5, 6)), Point("z", None, status="missing")))
    b = PointList((Point("y", (40, 50, 60)), Point("x", (10, 20, 30)), Point("z", (0, 0, 0))))
    labels, (fixed, moving) = pair_landmarks(a, b)
    assert labels == ["x", "y"]
    np.testing.assert_array_equal(moving, 10 * fixed)
    with pytest.raises(InputError, match="same name"):
        pair_landmarks(a, PointList(()))
    with pytest.raises(InputError, match="'x' more than once"):
        pair_landmarks(PointList((Point("x", (1, 2, 3)), Point("x", (1, 2, 4)))), b)
