"""Fused similarity against a plain numpy restatement. The synthetic scans of all matching tests are made here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from searchables import inner_points, restated, synthetic
from torch.nn import functional as F

from UniversalAnatomicalEmbeddingLib.embedding.embedding import Embedding
from UniversalAnatomicalEmbeddingLib.matching.searchable import Query, Searchable, widen

VARIANTS = {
    "two heads": {},
    "semantic head": {"heads": 3},
    "unequal strides": {"cells": (12, 16, 20), "fine_stride": (1, 2, 4), "coarse_stride": (4, 4, 16)},
    "ragged border": {"cells": (18, 21, 23)},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def scan(request: pytest.FixtureRequest) -> Searchable:
    return synthetic(**request.param)


@pytest.fixture
def query(scan: Searchable) -> Query:
    return scan.query(inner_points(5, 1, 8.0, scan))


def test_full_scores_equal_the_restatement(scan: Searchable, query: Query) -> None:
    np.testing.assert_allclose(scan.full_scores(query).numpy(), restated(query, scan), atol=2e-5)


def test_scores_at_cells_equal_full_scores_there(scan: Searchable, query: Query) -> None:
    cells = np.random.default_rng(2).integers(0, scan.shape, (5, 300, 3))
    cells[:, :2] = [[0, 0, 0], np.array(scan.shape) - 1]
    found = scan.scores_at(query, scan.coarse_scores(query), torch.from_numpy(cells))
    full = scan.full_scores(query).numpy()
    np.testing.assert_allclose(found.numpy(), np.stack([one[tuple(c.T)] for one, c in zip(full, cells, strict=True)]), atol=2e-5)


def test_places_around_lie_about_8_mm_away_along_each_axis_of_the_scan_that_is_searched(scan: Searchable) -> None:
    lengths = np.linalg.norm(scan.around_mm, axis=1)
    assert (np.abs(lengths - 8.0) <= scan.embedding.fine_grid.spacing_xyz.max() / 2).all()
    start = scan.embedding.fine_grid.index_to_world(np.zeros((6, 3)))
    np.testing.assert_allclose(scan.embedding.fine_grid.world_to_index(start + scan.around_mm), scan.around.numpy(), atol=1e-9)
    np.testing.assert_array_equal(np.sort(np.abs(scan.around.numpy()).sum(0) // 2), np.sort(np.abs(scan.around.numpy()).max(0)))


def test_scores_with_surroundings_are_the_mean_over_the_places_of_both_scans() -> None:
    scan = synthetic(heads=3)
    points, centre = inner_points(4, 2, 20.0, scan), np.array([[9, 9, 9], [6, 12, 8], [8, 8, 16], [12, 9, 9]])
    offsets = np.random.default_rng(3).integers(-3, 4, (50, 3))
    cells = centre[:, None] + offsets
    query = scan.query(points, scan.around_mm)
    share = torch.tensor([0.0, 0.25, 0.5, 1.0])
    where = torch.from_numpy(centre), torch.from_numpy(offsets)
    found = scan.near_scores(query, scan.coarse_scores(query), *where, share).numpy()
    silent = torch.zeros_like(query.coarse)
    expected = restated(Query(0 * query.fine, share[:, None] * query.coarse), scan)[np.arange(4)[:, None], *np.moveaxis(cells, 2, 0)]
    for step, move in zip([[0, 0, 0], *scan.around.tolist()], [np.zeros(3), *scan.around_mm], strict=True):
        there = restated(Query(scan.query(points + move).fine, silent), scan)
        expected = expected + there[np.arange(4)[:, None], *np.moveaxis(cells + step, 2, 0)] / 7
    np.testing.assert_allclose(found, expected, atol=3e-5)
    plain = scan.query(points)
    alone = scan.near_scores(plain, scan.coarse_scores(plain), *where, torch.ones(4))
    torch.testing.assert_close(alone, scan.scores_at(plain, scan.coarse_scores(plain), torch.from_numpy(cells)))


def test_what_is_around_a_point_at_the_border_of_the_scan_counts_only_inside() -> None:
    scan = synthetic()
    query = scan.query(scan.embedding.fine_grid.index_to_world([[8, 12, 1], [8, 12, 16]]), scan.around_mm)
    silent = query.around.norm(dim=2) < 1e-6
    assert silent.sum(1).tolist() == [1, 0]
    assert scan.around[silent[0]].tolist() == [[0, 0, -2]]
    np.testing.assert_allclose(query.around.norm(dim=2).sum(1), 6.0, rtol=1e-4)
    assert not scan.query(np.full((1, 3), 500.0), scan.around_mm).around.any()


def test_every_head_counts_the_same() -> None:
    scan = synthetic(heads=3)
    point = inner_points(1, 3, scan=scan)
    whole = scan.query(point)
    parts = [whole.fine[:, :32], whole.fine[:, 32:], whole.coarse]
    assert [round(float(part.norm()), 4) for part in parts] == [1.0, 1.0, 1.0]
    silent = torch.zeros_like(parts[0])
    shares = [
        Query(torch.cat([parts[0], silent], 1), torch.zeros_like(whole.coarse)),
        Query(torch.cat([silent, parts[1]], 1), torch.zeros_like(whole.coarse)),
        Query(torch.cat([silent, silent], 1), whole.coarse),
    ]
    best = [float(scan.full_scores(share).max()) for share in shares]
    assert best == pytest.approx([1 / 3, 1 / 3, 1 / 3], abs=0.02)


def test_coarse_cosine_is_interpolated_as_a_number() -> None:
    """Interpolating the coarse vectors and making them unit length again, as published, would give higher scores between rough cells."""
    rng = np.random.default_rng(4)
    smooth = synthetic()
    rough = rng.standard_normal(smooth.embedding.coarse.shape)
    rough /= np.linalg.norm(rough, axis=3, keepdims=True)
    e = smooth.embedding
    scan = Searchable(
        Embedding(e.fine, rough.astype(np.float16), e.search_space, e.anatomy, e.grid, e.fine_stride, e.coarse_stride, 2, "m", "rough")
    )
    query = Query(torch.zeros(1, 32), torch.from_numpy(rough[2, 2, 2].astype(np.float32))[None])
    cell = (np.array([2, 2, 2]) * 4 + [1, 2, 3]).tolist()
    found = float(scan.full_scores(query)[0][tuple(cell)]) * 2
    fraction = (np.array(cell) + 0.5) / 4 - 0.5 - [1, 2, 2]
    at = np.array([1, 2, 2])
    corners = [(np.where(c, fraction, 1 - fraction).prod(), rough[tuple(at + c)]) for c in np.ndindex(2, 2, 2)]
    vector = sum(weight * value for weight, value in corners)
    scalar = sum(weight * (value @ rough[2, 2, 2]) for weight, value in corners)
    assert found == pytest.approx(scalar, abs=1e-3)
    assert abs(vector @ rough[2, 2, 2] / np.linalg.norm(vector) - found) > 0.05


def test_query_at_a_cell_centre_is_the_descriptor_of_the_cell() -> None:
    scan = synthetic()
    cell = (7, 11, 4)
    query = scan.query(scan.embedding.fine_grid.index_to_world(cell))
    np.testing.assert_allclose(query.fine[0].numpy(), scan.embedding.fine[cell], atol=1e-3)
    assert float(scan.full_scores(query)[0].argmax()) == np.ravel_multi_index(cell, scan.shape)


def test_blocks_hold_every_cell_under_its_own_coarse_cell(scan: Searchable) -> None:
    e = scan.embedding
    cells = scan.cells(scan.block_rows)
    assert torch.equal(scan.flat(cells), scan.block_rows)
    where = e.fine_grid.index_to_world(cells.flatten(0, 1).numpy())
    centres = e.coarse_grid.index_to_world(np.indices(e.coarse.shape[:3]).reshape(3, -1).T)
    apart = np.abs(where.reshape(len(centres), -1, 3) - centres[:, None])
    assert (apart <= np.array(e.coarse_stride[::-1])).all()
    assert sorted(scan.block_rows[scan.block_searched].tolist()) == list(range(len(scan.rows))), "every cell once, all of them body"


def test_scores_of_blocks_equal_full_scores_there(scan: Searchable, query: Query) -> None:
    scan.searched[::3] = False
    scan = Searchable(scan.embedding)  # with the thinned body: its array is shared
    blocks = torch.from_numpy(np.stack([np.random.default_rng(i).permutation(len(scan.block_rows))[:25] for i in range(5)]))
    blocks[:, :2] = torch.tensor([0, len(scan.block_rows) - 1])
    found = scan.block_scores(query, scan.coarse_scores(query), blocks).numpy()
    full = scan.full_scores(query).flatten(1).numpy()
    for one, scores, own in zip(full, found, blocks, strict=True):
        rows, body = scan.block_rows[own].numpy(), scan.block_searched[own].numpy()
        np.testing.assert_allclose(scores, np.where(body, one[rows], -1), atol=2e-5)
        assert 0.4 < body.mean() < 0.8


@pytest.mark.parametrize("size", [(10, 14, 9), (7, 5, 4), (5, 28, 3)])
def test_widening_is_trilinear_interpolation(size: tuple[int, int, int]) -> None:
    maps = torch.rand((3, 5, 7, 3), generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(maps[:, None], size, mode="trilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(widen(maps, size), expected, atol=1e-5, rtol=0)


def test_only_blocks_with_a_body_cell_are_used() -> None:
    body = np.zeros((20, 24, 28), dtype=bool)
    body[5, 9, 14] = body[19, 23, 27] = True
    scan = synthetic(body=body)
    used = np.argwhere(scan.block_used.reshape(scan.coarse.shape[:3]).numpy())
    assert used.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_query_slices_like_a_sequence(scan: Searchable, query: Query) -> None:
    part = query[1:3]
    assert len(part) == 2
    assert torch.equal(part.fine, query.fine[1:3])
    assert torch.equal(part.coarse, query.coarse[1:3])
