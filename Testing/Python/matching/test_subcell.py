"""Position of a peak between cells, from the 3x3x3 scores around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from UniversalAnatomicalEmbeddingLib.matching.subcell import neighbourhood, peak_offset


def quadratic(centre: list[float], hessian: np.ndarray) -> torch.Tensor:
    """Scores (1, 27) of a quadratic with a stationary point at ``centre`` (z, y, x)."""
    d = neighbourhood().numpy() - np.array(centre)
    return torch.from_numpy(0.7 + 0.5 * np.einsum("ni,ij,nj->n", d, hessian, d))[None]


def test_neighbourhood_is_the_27_cells_in_array_order() -> None:
    assert neighbourhood().tolist() == [[z, y, x] for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)]


@pytest.mark.parametrize("seed", range(8))
def test_exact_on_any_quadratic_with_a_maximum_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((3, 3))
    centre = rng.uniform(-0.45, 0.45, 3)
    offset = peak_offset(quadratic(centre, -(root @ root.T) - 0.1 * np.eye(3)))
    np.testing.assert_allclose(offset[0].numpy(), centre, atol=1e-6)


def test_exact_on_a_shallow_peak_in_single_precision() -> None:
    scores = quadratic([0.3, -0.2, 0.1], -0.02 * np.eye(3)).float()
    np.testing.assert_allclose(peak_offset(scores)[0].numpy(), [0.3, -0.2, 0.1], atol=1e-3)


def test_axes_are_in_the_order_z_y_x() -> None:
    for axis in range(3):
        centre = [0.0, 0.0, 0.0]
        centre[axis] = 0.4
        np.testing.assert_allclose(peak_offset(quadratic(centre, -np.eye(3)))[0].numpy(), centre, atol=1e-6)


def test_a_peak_beyond_the_cell_is_clamped_to_its_face() -> None:
    offset = peak_offset(quadratic([1.4, -0.9, 0.2], -np.eye(3)))
    np.testing.assert_allclose(offset[0].numpy(), [0.5, -0.5, 0.2], atol=1e-6)


def test_flat_scores_stay_at_the_centre() -> None:
    assert peak_offset(torch.full((1, 27), 0.9)).tolist() == [[0.0, 0.0, 0.0]]


def test_a_slope_without_curvature_stays_at_the_centre() -> None:
    assert peak_offset(neighbourhood().double().sum(1)[None]).abs().max() < 1e-6


def test_an_axis_without_maximum_keeps_its_centre_while_the_others_are_fitted() -> None:
    offset = peak_offset(quadratic([0.25, 0.4, -0.3], np.diag([-1.0, 0.5, -2.0])))
    np.testing.assert_allclose(offset[0].numpy(), [0.25, 0.0, -0.3], atol=1e-6)


def test_a_saddle_turned_against_the_axes_falls_back_to_the_parabola_along_each() -> None:
    hessian = np.array([[-1.0, 3.0, 0.0], [3.0, -1.0, 0.0], [0.0, 0.0, -1.0]])
    assert np.linalg.eigvalsh(hessian).max() > 0
    centre = np.array([0.1, 0.02, 0.3])
    gradient = -hessian @ centre
    np.testing.assert_allclose(peak_offset(quadratic(centre.tolist(), hessian))[0].numpy(), gradient / 1.0, atol=1e-6)


def test_rows_do_not_influence_each_other() -> None:
    rows = torch.cat([quadratic([0.3, 0.1, -0.4], -np.eye(3)), torch.zeros(1, 27).double(), quadratic([-0.2, 0.0, 0.4], -2 * np.eye(3))])
    np.testing.assert_allclose(peak_offset(rows).numpy(), [[0.3, 0.1, -0.4], [0, 0, 0], [-0.2, 0, 0.4]], atol=1e-6)
