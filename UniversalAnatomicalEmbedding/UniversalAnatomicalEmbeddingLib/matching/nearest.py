"""Nearest-neighbour search: the cell most similar to a query, exhaustively or pruned from coarse to fine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..geometry import FloatArray
from .similarity import Query, Searchable
from .subcell import neighbourhood, peak_offset

SECOND_MODE_MM = 24.0
CANDIDATE_SHARE = 0.06
CANDIDATE_BLOCKS = 160
QUERIES_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Peaks:
    """Best cells of Q queries: ``cell`` (Q, 3) integer (z, y, x), ``points_lps`` (Q, 3) sub-cell positions in mm, ``similarity`` (Q,) fused and
    ``coarse`` (Q,) of the coarse head alone, ``margin`` (Q,) how much better the best is than the best cell more than 24 mm away."""

    cell: NDArray[np.int64]
    points_lps: FloatArray
    similarity: FloatArray
    coarse: FloatArray
    margin: FloatArray


def find_peaks(query: Query, target: Searchable, exhaustive: bool = False, near: tuple[FloatArray, FloatArray] | None = None) -> Peaks:
    """The most similar body cell of ``target`` for each query, with its sub-cell position.

    ``exhaustive`` scores every cell; otherwise only the fine cells under the most promising coarse cells. ``near``: expected positions (Q, 3)
    LPS mm and radii (Q,) within which the answer must lie; an infinite radius leaves the query free.
    """
    parts = []
    for start in range(0, len(query), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        parts.append(_search(query[rows], target, exhaustive, None if near is None else (near[0][rows], near[1][rows])))
    cell, offset, similarity, coarse, margin = (torch.cat(p).double().cpu().numpy() for p in zip(*parts, strict=True))
    return Peaks(cell.astype(np.int64), target.embedding.fine_grid.index_to_world(cell + offset), similarity, coarse, margin)


def _search(
    query: Query, target: Searchable, exhaustive: bool, near: tuple[FloatArray, FloatArray] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Best cell (Q, 3), sub-cell offset (Q, 3), and at that cell: similarity, coarse similarity, margin to the second mode (Q,)."""
    coarse = target.coarse_scores(query)
    if exhaustive:
        blocks = torch.arange(len(target.block_rows), device=target.device).expand(len(query), -1)
        scores = target.full_scores(query).flatten(1).index_select(1, target.block_rows.flatten())
        scores = scores.unflatten(1, target.block_rows.shape).masked_fill_(~target.block_body, -1.0)
    else:
        blocks = _promising(coarse, target)
        scores = target.block_scores(query, coarse, blocks)
    similarity, at = scores.flatten(1).max(dim=1)
    block, inner = at // scores.shape[2], at % scores.shape[2]
    best = target.cells(target.block_rows[blocks.gather(1, block[:, None])[:, 0], inner])
    if near is not None:
        best, similarity = _best_within(query, target, coarse, near, best, similarity)
    second = scores.masked_fill_(~_beyond(best, blocks, target), -1.0).flatten(1).max(dim=1).values
    at_peak = target.interpolate_coarse(coarse, best[:, None])[:, 0]
    return best, refine(query, target, coarse, best) - best, similarity, at_peak, similarity - second


def _beyond(best: Tensor, blocks: Tensor, target: Searchable) -> Tensor:
    """Whether the cells (Q, B, n) of blocks (Q, B) lie more than 24 mm from cells (Q, 3)."""
    ratio = torch.tensor(target.ratio, device=target.device)
    corner = torch.stack(torch.unravel_index(blocks, target.coarse.shape[:3]), -1) * ratio - best[:, None]
    steps = [torch.arange(r, device=target.device) for r in target.ratio]
    z, y, x = (((corner[..., a, None] + steps[a]) * mm).square() for a, mm in enumerate(_cell_mm(target)))
    return (z[..., :, None, None] + y[..., None, :, None] + x[..., None, None, :]).flatten(2) > SECOND_MODE_MM**2


def _best_within(
    query: Query, target: Searchable, coarse: Tensor, near: tuple[FloatArray, FloatArray], best: Tensor, similarity: Tensor
) -> tuple[Tensor, Tensor]:
    """Best body cell and its similarity within each query's radius of its expected position; the given ones where the radius is infinite
    or holds no body cell."""
    centre = torch.from_numpy(target.embedding.fine_grid.world_to_index(near[0]).copy()).to(target.device)
    radius = torch.from_numpy(np.asarray(near[1], dtype=np.float64)).to(target.device)
    bounded = torch.isfinite(radius)
    if not bounded.any():
        return best, similarity
    cells = centre.round().long()[:, None] + _ball(float(radius[bounded].max()), target)
    inside = ((cells >= 0) & (cells < torch.tensor(target.shape, device=target.device))).all(-1)
    cells = torch.minimum(cells.clamp(min=0), torch.tensor(target.shape, device=target.device) - 1)
    inside &= ((cells - centre[:, None]) * _cell_mm(target)).square().sum(-1) <= radius[:, None] ** 2
    scores = target.scores_at(query, coarse, cells).masked_fill(~(inside & target.body[target.flat(cells)]), -1.0)
    local, at = scores.max(dim=1)
    use = bounded & (local > -1.0)
    return torch.where(use[:, None], cells[torch.arange(len(query)), at], best), torch.where(use, local, similarity)


def _ball(radius_mm: float, target: Searchable) -> Tensor:
    """Offsets (K, 3) to all cells that can lie within ``radius_mm`` of a place half a cell or less away."""
    mm = _cell_mm(target)
    cube = torch.cartesian_prod(*(torch.arange(-r, r + 1, device=target.device) for r in (radius_mm / mm).ceil().int().tolist()))
    return cube[((cube.abs() - 0.5).clamp(min=0) * mm).square().sum(-1) <= radius_mm**2]


def refine(query: Query, target: Searchable, coarse: Tensor, cells: Tensor) -> Tensor:
    """Continuous cell index (Q, 3) of the similarity peak at or beside integer ``cells`` (Q, 3): one step uphill, then between cells."""
    size = torch.tensor(target.shape, device=target.device)
    offsets = neighbourhood().to(target.device)
    for _ in range(2):
        near = torch.minimum((cells[:, None] + offsets).clamp(min=0), size - 1)
        around = target.scores_at(query, coarse, near)
        cells = near[torch.arange(len(query)), around.masked_fill(~target.body[target.flat(near)], -1.0).argmax(1)]
    near = torch.minimum((cells[:, None] + offsets).clamp(min=0), size - 1)
    return cells + peak_offset(target.scores_at(query, coarse, near))


def _cell_mm(target: Searchable) -> Tensor:
    return torch.as_tensor(target.embedding.fine_grid.spacing_xyz[::-1].copy(), device=target.device)


def _promising(coarse: Tensor, target: Searchable) -> Tensor:
    """Numbers (Q, n) of the coarse cells whose 3x3x3 surroundings score best, the share of them that is searched finely."""
    highest = F.pad(coarse, (1,) * 6, value=-2.0)
    for axis in (1, 2, 3):  # axis by axis this is many times faster than F.max_pool3d
        highest = highest.unfold(axis, 3, 1).amax(-1)
    bound = highest.flatten(1).masked_fill(~target.block_used, -2.0)
    used = int(target.block_used.sum())
    return bound.topk(min(used, max(CANDIDATE_BLOCKS, int(CANDIDATE_SHARE * used))), dim=1).indices
