"""Nearest-neighbour search: the cell most similar to a query, exhaustively or pruned from coarse to fine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..images.grid import FloatArray
from .searchable import Query, Searchable, widen
from .subcell import neighbourhood, peak_offset

SECOND_MODE_MM = 24.0
CANDIDATE_SHARE = 0.05
CANDIDATE_BLOCKS = 128
QUERIES_AT_ONCE = 16
NEAR_AT_ONCE = 128
LATTICE_STEP = 2
STRAY_COST_PER_MM2 = 3e-4
NEAR_COARSE = 0.25  # near the expected place the coarse cosine, on cells of 16 mm, has little to say


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
    """The most similar cell of ``target`` for each query, with its sub-cell position.

    ``exhaustive`` scores every cell; otherwise only the fine cells under the most promising coarse cells. ``near``: expected positions (Q, 3)
    LPS mm and radii (Q,) within which the answer must lie, the less far from the middle the better; an infinite radius leaves the query free.
    """
    region = None if near is None else _Region.around(*near, target, STRAY_COST_PER_MM2)
    parts = []
    for start in range(0, len(query), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        parts.append(_search(query[rows], target, exhaustive, region and region[rows]))
    cell, offset, similarity, coarse, margin = (torch.cat(p).double().cpu().numpy() for p in zip(*parts, strict=True))
    return Peaks(cell.astype(np.int64), target.embedding.fine_grid.index_to_world(cell + offset), similarity, coarse, margin)


def find_near(query: Query, target: Searchable, centre_lps: FloatArray, radius_mm: float) -> FloatArray:
    """The most similar positions (Q, 3) LPS mm within ``radius_mm`` of some (Q, 3); not a number where nothing is searched there."""
    region = _Region.around(centre_lps, np.full(len(query), radius_mm), target, 0.0)
    found = []
    for start in range(0, len(query), NEAR_AT_ONCE):
        part, own = query[start : start + NEAR_AT_ONCE], region[start : start + NEAR_AT_ONCE]
        coarse = target.coarse_scores(part)
        best, similarity = _best_within(part, target, coarse, own)
        found.append(torch.where((similarity > -1.0)[:, None], refine(part, target, coarse, best, own), torch.nan))
    return target.embedding.fine_grid.index_to_world(torch.cat([*found, region.centre[:0]]).double().cpu().numpy())


def lattice_scores(query: Query, target: Searchable, lattice: Tensor, at_once: int) -> Iterator[tuple[Query, Tensor, Tensor]]:
    """Portions of a query, their coarse scores (Q, z, y, x), and the sum of their cosines (Q, K) with the cells of ``target.lattice(LATTICE_STEP)``.

    One matrix product for each portion of ``at_once`` points.
    """
    shape = [-(-n // LATTICE_STEP) for n in target.shape]
    whole = [n * r // LATTICE_STEP for n, r in zip(target.coarse.shape[:3], target.ratio, strict=True)]
    z, y, x = (lattice // LATTICE_STEP).unbind(1)
    at = (z * shape[1] + y) * shape[2] + x
    rows = target.rows.index_select(0, target.flat(lattice)).float().T
    for start in range(0, len(query), at_once):
        part = query[start : start + at_once]
        coarse = target.coarse_scores(part)
        wide = widen(coarse, whole)[:, : shape[0], : shape[1], : shape[2]].flatten(1)
        yield part, coarse, torch.addmm(wide.index_select(1, at), part.fine, rows)


@dataclass(frozen=True, eq=False)
class _Region:
    """Where Q queries are expected: ``centre`` (Q, 3) continuous cells (z, y, x), ``radius`` (Q,) mm, infinite for a free one, ``cell_mm`` (3,), and
    what similarity a place loses for each square millimetre it lies away from the centre."""

    centre: Tensor
    radius: Tensor
    cell_mm: Tensor
    cost_per_mm2: float

    @staticmethod
    def around(centre_lps: FloatArray, radius_mm: FloatArray, target: Searchable, cost_per_mm2: float) -> _Region:
        centre = torch.from_numpy(target.embedding.fine_grid.world_to_index(centre_lps).copy()).to(target.device)
        radius = torch.from_numpy(np.asarray(radius_mm, dtype=np.float64)).to(target.device)
        return _Region(centre, radius, _cell_mm(target), cost_per_mm2)

    def __getitem__(self, rows: slice) -> _Region:
        return replace(self, centre=self.centre[rows], radius=self.radius[rows])

    def squared_mm(self, cells: Tensor) -> Tensor:
        """Squared distance (Q, K) of cells (Q, K, 3) from the centres."""
        return ((cells - self.centre[:, None]) * self.cell_mm).square().sum(-1)

    def scores(self, query: Query, target: Searchable, coarse: Tensor, centre: Tensor, offsets: Tensor) -> Tensor:
        """How well the cells at ``offsets`` (K, 3) from ``centre`` (Q, 3) suit the queries, less what they lose for lying away from where those are
        expected, (Q, K) float32."""
        bounded = torch.isfinite(self.radius)
        scores = target.near_scores(query, coarse, centre, offsets, torch.where(bounded, NEAR_COARSE, 1.0).float())
        stray = self.cost_per_mm2 * self.squared_mm(centre[:, None] + offsets)
        return scores - torch.where(bounded[:, None], stray, 0.0).float()


def _search(query: Query, target: Searchable, exhaustive: bool, region: _Region | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Best cell (Q, 3), sub-cell offset (Q, 3), and at that cell: similarity, coarse similarity, margin to the second mode (Q,)."""
    coarse = target.coarse_scores(query)
    if exhaustive:
        blocks = torch.arange(len(target.block_rows), device=target.device).expand(len(query), -1)
        scores = target.full_scores(query).flatten(1).index_select(1, target.block_rows.flatten())
        scores = scores.unflatten(1, target.block_rows.shape).masked_fill_(~target.block_searched, -1.0)
    else:
        blocks = _promising(coarse, target)
        scores = target.block_scores(query, coarse, blocks)
    similarity, at = scores.flatten(1).max(dim=1)
    block, inner = at // scores.shape[2], at % scores.shape[2]
    best = target.cells(target.block_rows[blocks.gather(1, block[:, None])[:, 0], inner])
    if region is not None and torch.isfinite(region.radius).any():
        local, local_similarity = _best_within(query, target, coarse, region)
        use = torch.isfinite(region.radius) & (local_similarity > -1.0)
        best, similarity = torch.where(use[:, None], local, best), torch.where(use, local_similarity, similarity)
        region = replace(region, radius=torch.where(use, region.radius, torch.inf))
    second = scores.masked_fill_(~_beyond(best, blocks, target), -1.0).flatten(1).max(dim=1).values
    at_peak = target.interpolate_coarse(coarse, best[:, None])[:, 0]
    return best, refine(query, target, coarse, best, region) - best, similarity, at_peak, similarity - second


def _beyond(best: Tensor, blocks: Tensor, target: Searchable) -> Tensor:
    """Whether the cells (Q, B, n) of blocks (Q, B) lie more than 24 mm from cells (Q, 3)."""
    ratio = torch.tensor(target.ratio, device=target.device)
    corner = torch.stack(torch.unravel_index(blocks, target.coarse.shape[:3]), -1) * ratio - best[:, None]
    steps = [torch.arange(r, device=target.device) for r in target.ratio]
    z, y, x = (((corner[..., a, None] + steps[a]) * mm).square() for a, mm in enumerate(_cell_mm(target)))
    return (z[..., :, None, None] + y[..., None, :, None] + x[..., None, None, :]).flatten(2) > SECOND_MODE_MM**2


def _best_within(query: Query, target: Searchable, coarse: Tensor, region: _Region) -> tuple[Tensor, Tensor]:
    """Best searched cell (Q, 3) within each query's finite radius, and its similarity (Q,); -1 where none is."""
    bounded = torch.isfinite(region.radius)
    middle, ball = region.centre.round().long(), _ball(float(region.radius[bounded].max()), target)
    anywhere = middle[:, None] + ball
    cells = target.clamp(anywhere)
    inside = (cells == anywhere).all(-1) & (region.squared_mm(cells) <= region.radius[:, None] ** 2) & target.searched[target.flat(cells)]
    at = region.scores(query, target, coarse, middle, ball).masked_fill(~inside, -torch.inf).argmax(1, keepdim=True)
    best = cells.gather(1, at[..., None].expand(-1, 1, 3))
    return best[:, 0], target.scores_at(query, coarse, best)[:, 0].masked_fill(~inside.any(1), -1.0)


def _ball(radius_mm: float, target: Searchable) -> Tensor:
    """Offsets (K, 3) to all cells that can lie within ``radius_mm`` of a place half a cell or less away."""
    mm = _cell_mm(target)
    cube = torch.cartesian_prod(*(torch.arange(-r, r + 1, device=target.device) for r in (radius_mm / mm).ceil().int().tolist()))
    return cube[((cube.abs() - 0.5).clamp(min=0) * mm).square().sum(-1) <= radius_mm**2]


def refine(query: Query, target: Searchable, coarse: Tensor, cells: Tensor, region: _Region | None = None) -> Tensor:
    """Continuous cell index (Q, 3) of the similarity peak at or beside integer ``cells`` (Q, 3): one step uphill, then between cells."""
    offsets = neighbourhood().to(target.device)

    def around(cells: Tensor) -> tuple[Tensor, Tensor]:
        near = target.clamp(cells[:, None] + offsets)
        return near, target.scores_at(query, coarse, near) if region is None else region.scores(query, target, coarse, cells, offsets)

    for _ in range(2):
        near, scores = around(cells)
        best = scores.masked_fill(~target.searched[target.flat(near)], -torch.inf).argmax(1)
        cells = near[torch.arange(len(query), device=target.device), best]
    return cells + peak_offset(around(cells)[1])


def _cell_mm(target: Searchable) -> Tensor:
    return torch.as_tensor(target.embedding.fine_grid.spacing_zyx, device=target.device)


def _promising(coarse: Tensor, target: Searchable) -> Tensor:
    """Numbers (Q, n) of the coarse cells whose 3x3x3 surroundings score best, the share of them that is searched finely."""
    highest = F.pad(coarse, (1,) * 6, value=-2.0)
    for axis in (1, 2, 3):  # axis by axis this is many times faster than F.max_pool3d
        highest = highest.unfold(axis, 3, 1).amax(-1)
    bound = highest.flatten(1).masked_fill(~target.block_used, -2.0)
    used = int(target.block_used.sum())
    return bound.topk(min(used, max(CANDIDATE_BLOCKS, int(CANDIDATE_SHARE * used))), dim=1).indices
