"""Calibration: probabilities from the figures of true matches."""

from __future__ import annotations

import numpy as np
import pytest

from training.release.calibrate import fit, logistic
from training.release.known_queries import Samples
from UniversalAnatomicalEmbeddingLib.matching.confidence import probability

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|isinstance.treespec|srun).*")


def test_logistic_separates_what_can_be_separated_in_raw_units() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal([5.0, -300.0], [1.0, 50.0], (400, 2))
    y = 2 * (x[:, 0] - 5) + (x[:, 1] + 300) / 50 > 0
    model = logistic(x, y)
    assert len(model) == 3
    assert ((probability(x, model) > 0.5) == y).mean() > 0.97
    assert model[0] / model[1] == pytest.approx(2 / (1 / 50), rel=0.25)


def test_logistic_gives_probabilities_not_only_an_order() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (20_000, 1))
    y = rng.random(20_000) < 1 / (1 + np.exp(-(0.8 * x[:, 0] - 0.5)))
    p = probability(x, logistic(x, y))
    for low, high in ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8)):
        inside = (p >= low) & (p < high)
        assert y[inside].mean() == pytest.approx(p[inside].mean(), abs=0.07)


def test_a_constant_feature_does_no_harm() -> None:
    x = np.stack([np.linspace(-1, 1, 50), np.full(50, 7.0)], axis=1)
    p = probability(x, logistic(x, x[:, 0] > 0))
    assert ((p > 0.5) == (x[:, 0] > 0)).all()


def test_a_fit_tells_what_is_absent_and_what_is_correct() -> None:
    rng = np.random.default_rng(2)
    present = np.arange(600) < 450
    x = rng.normal(np.where(present, 1.0, -1.0)[:, None], 1.2, (600, 5))
    correct = present & (x[:, 1] > 0.5)
    calibration = fit(Samples(x, present, correct))
    absent = probability(x, calibration.present) < calibration.absent_below
    assert (absent == ~present).mean() > 0.9
    assert absent[~present].mean() > 0.8
    sure = probability(x[present], calibration.correct) > 0.5
    assert (sure == correct[present]).mean() > 0.9
