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


def find_peaks(query: Query, target: Searchable, exhaustive: bool = False) -> Peaks:
    """The most similar body cell of ``target`` for each query, with its sub-cell position.

    ``exhaustive`` scores every cell; otherwise only the fine cells under the most promising coarse cells.
    """
    chunks = [query[i : i + QUERIES_AT_ONCE] for i in range(0, len(query), QUERIES_AT_ONCE)]
    cell, offset, similarity, coarse, margin = (
        torch.cat(p).double().cpu().numpy() for p in zip(*(_search(c, target, exhaustive) for c in chunks), strict=True)
    )
    return Peaks(cell.astype(np.int64), target.embedding.fine_grid.index_to_world(cell + offset), similarity, coarse, margin)


def _search(query: Query, target: Searchable, exhaustive: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Best cell (Q, 3), sub-cell offset (Q, 3), and at that cell: similarity, coarse similarity, margin to the second mode (Q,)."""
    coarse = target.coarse_scores(query)
    if exhaustive:
        cells = target.block_cells.flatten(0, 1)[None].expand(len(query), -1, -1)
        scores = target.full_scores(query).flatten(1).gather(1, target.flat(cells))
    else:
        cells = target.block_cells[_promising(coarse, target)].flatten(1, 2)
        scores = target.scores_at(query, coarse, cells)
    scores = scores.masked_fill(~target.body[target.flat(cells)], -1.0)
    similarity, at = scores.max(dim=1)
    best = cells[torch.arange(len(query)), at]
    near = neighbourhood().to(target.device) + best[:, None]
    size = torch.tensor(target.shape, device=target.device)
    around = target.scores_at(query, coarse, torch.minimum(near.clamp(min=0), size - 1))
    cell_mm = torch.as_tensor(target.embedding.fine_grid.spacing_xyz[::-1].copy(), device=target.device)
    far = ((cells - best[:, None]) * cell_mm).square().sum(-1) > SECOND_MODE_MM**2
    second = scores.masked_fill(~far, -1.0).max(dim=1).values
    at_peak = target.interpolate_coarse(coarse, best[:, None])[:, 0]
    return best, peak_offset(around), similarity, at_peak, similarity - second


def _promising(coarse: Tensor, target: Searchable) -> Tensor:
    """Numbers (Q, n) of the coarse cells whose 3x3x3 surroundings score best, the share of them that is searched finely."""
    bound = F.max_pool3d(coarse[:, None], 3, stride=1, padding=1).flatten(1).masked_fill(~target.block_used, -2.0)
    used = int(target.block_used.sum())
    return bound.topk(min(used, max(CANDIDATE_BLOCKS, int(CANDIDATE_SHARE * used))), dim=1).indices
