"""Several exemplars searched as one: the mean of their similarity maps."""

from __future__ import annotations

import numpy as np
import torch
from searchables import inner_points, synthetic

from UniversalAnatomicalEmbeddingLib.matching.templates import combine


def test_searching_the_combination_is_searching_the_mean_of_the_similarity_maps() -> None:
    target = synthetic(heads=3)
    exemplars = [synthetic(heads=3, seed=seed).query(inner_points(4, seed)) for seed in range(3)]
    together = target.full_scores(combine(exemplars))
    each = torch.stack([target.full_scores(q) for q in exemplars])
    np.testing.assert_allclose(together.numpy(), each.mean(0).numpy(), atol=1e-5)
    assert float((together - each[0]).abs().max()) > 0.1


def test_one_exemplar_stays_what_it_is() -> None:
    query = synthetic().query(inner_points(3, 0))
    alone = combine([query])
    torch.testing.assert_close(alone.fine, query.fine)
    torch.testing.assert_close(alone.coarse, query.coarse)


def test_landmarks_are_combined_row_by_row() -> None:
    a, b = (synthetic().query(inner_points(3, seed)) for seed in (1, 2))
    both = combine([a, b])
    assert len(both) == 3
    torch.testing.assert_close(both.fine[2], (a.fine[2] + b.fine[2]) / 2)
    torch.testing.assert_close(both.coarse[1], (a.coarse[1] + b.coarse[1]) / 2)


def test_what_is_around_the_exemplars_is_combined_too() -> None:
    target = synthetic()
    a, b = (synthetic(seed=seed).query(inner_points(3, 1), target.around_mm) for seed in (1, 2))
    torch.testing.assert_close(combine([a, b]).around, (a.around + b.around) / 2)
    assert combine([a, b])[1:].around.shape == (2, 6, 32)
