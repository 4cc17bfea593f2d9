"""Published arithmetic: the robust fit, the voxel numbering, and what it refuses. That it is the published one is shown in test_parity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from samples import OBLIQUE, make_affine
from searchables import synthetic

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.matching import match_points
from UniversalAnatomicalEmbeddingLib.matching.published import huber_regression, lps_ordered
from UniversalAnatomicalEmbeddingLib.matching.searchable import Searchable
from UniversalAnatomicalEmbeddingLib.options import MatchOptions
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

# What statsmodels 0.15.0, RLM(values, design).fit().params, gives for the data made below.
STATSMODELS = {
    (12, 3): [0.778565093102786, -0.30538200077521804, 0.012459130049556205, 36.494064813681156],
    (40, 10): [1.1046182364902037, -0.04362014909784928, 0.20030205661886527, 7.6176251816191645],
    (9, 0): [1.079775631915437, -0.06935536644274712, 0.19620419149617435, 8.478435771324031],
}


def test_robust_fit_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for (count, outliers), expected in STATSMODELS.items():
        anchors = rng.integers(0, 60, (count, 3))
        design = np.c_[anchors, np.ones(count)]
        values = np.round(design @ [1.1, -0.05, 0.2, 7.3] + rng.normal(0, 0.6, count)).astype(int)
        values[:outliers] += rng.integers(8, 40, outliers) if outliers else 0
        np.testing.assert_allclose(huber_regression(design, values), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("angles", [(0, 0, 0), (180, 0, 0), (0, 180, 90), (90, 0, 0), (0, -90, 90)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_voxels_are_numbered_along_the_patient_whatever_the_storage_order(angles: tuple[int, ...], mirrored: bool) -> None:
    grid = Grid((4, 6, 9), make_affine(angles, (0.7, 1.3, 5.0), mirrored=mirrored))
    ordered = lps_ordered(grid, "scan")
    np.testing.assert_array_equal(ordered.affine[:3, :3], np.diag(ordered.spacing_xyz))
    np.testing.assert_allclose(ordered.corners().min(0), grid.corners().min(0), atol=1e-9)
    np.testing.assert_allclose(ordered.corners().max(0), grid.corners().max(0), atol=1e-9)
    assert sorted(ordered.shape_zyx) == [4, 6, 9]


def test_oblique_scan_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"brain is oblique.*--compat"):
        lps_ordered(Grid((4, 6, 9), OBLIQUE), "brain")


def whole(scan: Searchable) -> Searchable:
    return Searchable(replace(scan.embedding, pipeline="published"))


def test_scan_that_was_embedded_otherwise_is_refused_by_name() -> None:
    scan = synthetic(name="liver")
    with pytest.raises(InputError, match="liver was not embedded in the published way"):
        match_points([(scan, np.zeros((1, 3)))], scan, MatchOptions(compat=True))


def test_several_templates_are_refused() -> None:
    scan = whole(synthetic())
    with pytest.raises(InputError, match="one template"):
        match_points([(scan, np.zeros((1, 3)))] * 2, scan, MatchOptions(compat=True))


def test_without_anchors_the_nearest_neighbour_stands_in_and_says_so() -> None:
    """Where the published code stops with an error."""
    cells = (8, 10, 12)
    template, foreign = whole(synthetic(cells=cells)), whole(synthetic(cells=cells, seed=7))
    point = template.embedding.grid.corners().mean(0)[None]
    [fixed] = match_points([(template, point)], foreign, MatchOptions(method="fixed-point", compat=True))
    [plain] = match_points([(template, point)], foreign, MatchOptions(compat=True))
    assert "no anchor is more similar than 0.8" in fixed.note and fixed.status == "uncertain"
    np.testing.assert_array_equal(fixed.point_lps, plain.point_lps)
    assert plain.note == ""
