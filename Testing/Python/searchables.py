"""Made-up embeddings to search, and what their matches must be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from UniversalAnatomicalEmbeddingLib.embedding.embedding import Embedding
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.matching.searchable import Query, Searchable

Points = NDArray[np.float64]

ORIGIN = (-60.0, -45.0, -30.0)


def field(points: Points, channels: int, length_mm: float, seed: int) -> Points:
    """Unit descriptors (N, channels) as a smooth known function of position; their cosine depends only on how two positions differ."""
    waves = np.random.default_rng(seed).standard_normal((3, channels // 2)) / length_mm
    phase = points @ waves
    return np.hstack([np.cos(phase), np.sin(phase)]) / np.sqrt(channels // 2)


def synthetic(
    to_template: Callable[[Points], Points] = lambda points: points,
    cells: tuple[int, int, int] = (20, 24, 28),
    fine_stride: tuple[int, int, int] = (2, 2, 2),
    coarse_stride: tuple[int, int, int] = (8, 8, 8),
    origin: tuple[float, float, float] = ORIGIN,
    heads: int = 2,
    body: NDArray[np.bool_] | None = None,
    channels: int = 32,
    seed: int = 0,
    model_id: str = "synthetic-1",
    name: str = "scan",
) -> Searchable:
    """A scan whose point p looks like the template's point ``to_template(p)``, embedded without any network."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = origin
    z, y, x = (n * s for n, s in zip(cells, fine_stride, strict=True))
    grid = Grid((z, y, x), affine)

    def described(cell_grid: Grid, length_mm: float, number: int) -> NDArray[np.float16]:
        where = cell_grid.index_to_world(np.indices(cell_grid.shape_zyx).reshape(3, -1).T)
        values = field(to_template(where), channels, length_mm, 10 * seed + number)
        return values.reshape(*cell_grid.shape_zyx, channels).astype(np.float16)

    fine = [described(grid.cells(fine_stride), length, number) for number, length in ((1, 14.0), (3, 25.0))[: heads - 1]]
    return Searchable(
        Embedding(
            fine=np.concatenate(fine, axis=3),
            coarse=described(grid.cells(coarse_stride), 40.0, 2),
            search_space=np.ones(cells, dtype=bool) if body is None else body,
            anatomy=np.ones(cells, dtype=bool) if body is None else body,
            grid=grid,
            fine_stride=fine_stride,
            coarse_stride=coarse_stride,
            heads=heads,
            model_id=model_id,
            name=name,
        )
    )


def inner_points(n: int, seed: int, margin_mm: float = 16.0, scan: Searchable | None = None) -> Points:
    """Random continuous positions of a synthetic scan, away from its border."""
    corners = (scan or synthetic()).embedding.grid.corners()
    return np.random.default_rng(seed).uniform(corners.min(0) + margin_mm, corners.max(0) - margin_mm, (n, 3))


def restated(query: Query, scan: Searchable) -> NDArray[np.float32]:
    """Fused similarity (Q, Z, Y, X) in plain numpy: cosine per head, the coarse one interpolated as a scalar, mean of the heads."""
    e = scan.embedding
    index = np.indices(scan.shape)
    at = [
        (index[a] * fine + (fine - 1) / 2 - (coarse - 1) / 2) / coarse
        for a, (fine, coarse) in enumerate(zip(e.fine_stride, e.coarse_stride, strict=True))
    ]
    total = np.einsum("qc,zyxc->qzyx", query.fine.numpy(), e.fine.astype(np.float32))
    for one, small in zip(total, np.einsum("qc,zyxc->qzyx", query.coarse.numpy(), e.coarse.astype(np.float32)), strict=True):
        one += ndimage.map_coordinates(small, at, order=1, mode="nearest")
    return total / e.heads


SHIFT = np.array([9.3, -5.1, 7.7])


def shifted(**changes: object) -> Searchable:
    """A scan of the same patient moved by SHIFT."""
    return synthetic(lambda p: p - SHIFT, name="target", **changes)


def warped(points: np.ndarray) -> np.ndarray:
    return points * 1.05 + 2.0 * np.sin(points[:, [2, 0, 1]] / 25) - SHIFT
