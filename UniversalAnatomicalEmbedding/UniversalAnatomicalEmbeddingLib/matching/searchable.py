"""Fused similarity of query descriptors with every cell of an embedded scan.

similarity = mean over the heads of the cosine (SAM section 3.3). The coarse cosine is taken on its own small grid and interpolated as one
number per cell; coarse descriptors are never kept upsampled. The released SAM and UAE models take the cosine with the interpolated coarse
descriptor instead: the interpolated number times a gain per cell, the inverse length of that descriptor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..embedding.embedding import Embedding

CELLS_AT_ONCE = 16_384
AROUND_MM = 8.0


@dataclass(frozen=True, eq=False)
class Query:
    """Descriptors of points to be found: ``fine`` (Q, C) (one unit vector per head, side by side) and ``coarse`` (Q, C').

    ``around`` (Q, 6, C), where asked for, are the fine descriptors at the offsets ``around_mm`` of the scan to be searched.
    """

    fine: Tensor
    coarse: Tensor
    around: Tensor | None = None

    def __len__(self) -> int:
        return len(self.fine)

    def __getitem__(self, rows: slice | Tensor) -> Query:
        return Query(self.fine[rows], self.coarse[rows], None if self.around is None else self.around[rows])


class Searchable:
    """An embedding arranged for repeated search on one device.

    ``rows`` (cells, C) float16 descriptors, ``coarse`` (z, y, x, C') float32, ``searched`` (cells,) bool: where an answer may lie,
    ``anatomy`` (cells,) bool: about the patient. A block is the fine cells under one coarse
    cell: ``ratio`` (3,) how many there are along z, y, x, ``block_rows`` (blocks, n) their row numbers, ``block_searched`` (blocks, n) which of them
    are searched, ``block_used`` (blocks,) whether any is. ``guides`` remembers what was worked out once per template scan. For the device "mps", which
    lacks double precision and some of the search, the CPU stands in.
    """

    def __init__(self, embedding: Embedding, device: str = "cpu") -> None:
        device = "cpu" if device == "mps" else device
        self.embedding = embedding
        self.device = torch.device(device)
        self.shape = embedding.fine.shape[:3]
        self.rows = torch.from_numpy(np.asarray(embedding.fine)).to(device).flatten(0, 2)
        self.coarse = torch.from_numpy(np.asarray(embedding.coarse)).to(device).float()
        self.searched = torch.from_numpy(np.asarray(embedding.search_space)).to(device).flatten()
        self.anatomy = torch.from_numpy(np.asarray(embedding.anatomy)).to(device).flatten()
        self.ratio = [c // f for c, f in zip(embedding.coarse_stride, embedding.fine_stride, strict=True)]
        size = torch.tensor(self.shape, device=device)
        blocks = _lattice(self.coarse.shape[:3], device)
        cells = blocks[:, None] * torch.tensor(self.ratio, device=device) + _lattice(self.ratio, device)
        self.block_rows = self.flat(torch.minimum(cells, size - 1))
        self.block_searched = self.searched[self.block_rows] & (cells < size).all(-1)
        self.block_used = self.block_searched.any(1)
        around = blocks[:, None] + _lattice((3, 3, 3), device) - 1
        self._around = _flat(torch.minimum(around.clamp(min=0), blocks[-1]), self.coarse.shape)
        self._spread = _block_weights(self.ratio).to(device)
        self.guides: WeakKeyDictionary[Searchable, Any] = WeakKeyDictionary()

    def flat(self, cells: Tensor) -> Tensor:
        """Row numbers of integer cells (..., 3)."""
        return _flat(cells, self.shape)

    def cells(self, rows: Tensor) -> Tensor:
        """Integer cells (..., 3) of row numbers."""
        return torch.stack(torch.unravel_index(rows, self.shape), -1)

    def query(self, points_lps: np.ndarray, around_mm: np.ndarray | None = None) -> Query:
        """Descriptors at LPS positions (N, 3) of this scan and, with offsets ``around_mm`` (K, 3) LPS, of the places around them.

        A place outside the scan counts nothing, the others around the same point the more.
        """
        fine, coarse = self.embedding.descriptors(points_lps)
        around = None
        if around_mm is not None:
            places = (np.asarray(points_lps)[:, None] + around_mm).reshape(-1, 3)
            inside = torch.from_numpy(self.embedding.contains(places)).reshape(-1, len(around_mm), 1)
            weight = inside * len(around_mm) / inside.sum(1, keepdim=True).clamp(min=1)
            around = (self.embedding.descriptors(places)[0].unflatten(0, (-1, len(around_mm))) * weight).to(self.device)
        return Query(fine.to(self.device), coarse.to(self.device), around)

    @cached_property
    def around(self) -> Tensor:
        """Offsets (6, 3) in cells (z, y, x) to the places about 8 mm before and behind a cell along each axis."""
        steps = np.maximum(1, np.round(AROUND_MM / self.embedding.fine_grid.spacing_zyx)).astype(int)
        return torch.from_numpy(np.vstack([np.diag(steps), -np.diag(steps)])).to(self.device)

    @cached_property
    def around_mm(self) -> np.ndarray:
        """The offsets ``around`` (6, 3) in LPS mm."""
        grid = self.embedding.fine_grid
        return grid.index_to_world(self.around.cpu().numpy()) - grid.index_to_world(np.zeros((1, 3)))

    def coarse_scores(self, query: Query) -> Tensor:
        """Coarse cosine on the coarse grid, (Q, z, y, x)."""
        return torch.einsum("qc,zyxc->qzyx", query.coarse, self.coarse)

    def scores_at(self, query: Query, coarse: Tensor, cells: Tensor) -> Tensor:
        """Fused similarity (Q, K) of each query with its own cells (Q, K, 3) (z, y, x integer); ``coarse`` from :meth:`coarse_scores`."""
        return (
            self._fine_scores(query.fine[:, None], self.flat(cells))[:, 0] + self.interpolate_coarse(coarse, cells)
        ) / self.embedding.heads

    def near_scores(self, query: Query, coarse: Tensor, centre: Tensor, offsets: Tensor, coarse_share: Tensor) -> Tensor:
        """What tells the cells at ``offsets`` (K, 3) from each query's own ``centre`` (Q, 3) apart, (Q, K).

        As :meth:`scores_at`, but of the coarse cosine only a share (Q,), and the fine ones averaged over the cell and what is around it (where the
        query has that). A cell beyond the border is the one at it.
        """
        steps, descriptors = torch.zeros_like(offsets[:1]), query.fine[:, None]
        if query.around is not None:
            steps, descriptors = torch.cat([steps, self.around]), torch.cat([descriptors, query.around], 1)
        different, number = _distinct(offsets + steps[:, None])
        fine = self._fine_scores(descriptors, self.flat(self.clamp(centre[:, None] + different)))
        fine = fine.gather(2, number.expand(len(query), -1, -1)).mean(1)
        wide = self.interpolate_coarse(coarse, self.clamp(centre[:, None] + offsets))
        return (fine + coarse_share[:, None] * wide) / self.embedding.heads

    def clamp(self, cells: Tensor) -> Tensor:
        """Cells (..., 3), those beyond the border moved to it."""
        return torch.minimum(cells.clamp(min=0), torch.tensor(self.shape, device=self.device) - 1)

    def block_scores(self, query: Query, coarse: Tensor, blocks: Tensor) -> Tensor:
        """Fused similarity (Q, B, n) of each query with all cells of its own ``blocks`` (Q, B); -1 where nothing is searched."""
        around = coarse.flatten(1).gather(1, _take(self._around, blocks).flatten(1)).unflatten(1, (-1, 27))
        rows = _take(self.block_rows, blocks)
        fine = self._fine_scores(query.fine[:, None], rows.flatten(1))[:, 0].unflatten(1, (blocks.shape[1], -1))
        wide = around @ self._spread
        if self.coarse_gain is not None:
            wide = wide * self.coarse_gain[rows]
        return ((fine + wide) / self.embedding.heads).masked_fill_(~_take(self.block_searched, blocks), -1.0)

    def full_scores(self, query: Query) -> Tensor:
        """Fused similarity (Q, Z, Y, X) of every cell of the scan."""
        whole = [n * r for n, r in zip(self.coarse.shape[:3], self.ratio, strict=True)]
        z, y, x = self.shape
        wide = widen(self.coarse_scores(query), whole)[:, :z, :y, :x]
        if self.coarse_gain is not None:
            wide = wide * self.coarse_gain.reshape(z, y, x)
        fine = torch.empty((len(query), len(self.rows)), device=self.device)
        for start in range(0, len(self.rows), 65536):
            fine[:, start : start + 65536] = query.fine @ self.rows[start : start + 65536].float().T
        return (fine.reshape(len(query), z, y, x) + wide) / self.embedding.heads

    def _fine_scores(self, fine: Tensor, rows: Tensor) -> Tensor:
        """Fine cosines (Q, D, K) of D descriptors (Q, D, C) each with their own ``rows`` (Q, K), in portions that stay in the processor's cache."""
        portion = max(1, CELLS_AT_ONCE // rows.shape[1])
        scores = [
            torch.bmm(part, _take(self.rows, own).float().mT) for own, part in zip(rows.split(portion), fine.split(portion), strict=True)
        ]
        return torch.cat(scores)

    def interpolate_coarse(self, coarse: Tensor, cells: Tensor) -> Tensor:
        """Coarse scores (Q, z, y, x) at integer fine cells (Q, K, 3), trilinear, constant beyond the border, times the gain."""
        fine_stride = torch.tensor(self.embedding.fine_stride, device=self.device)
        coarse_stride = torch.tensor(self.embedding.coarse_stride, device=self.device)
        size = torch.tensor(self.coarse.shape[:3], device=self.device)
        at = (cells * fine_stride + (fine_stride - 1) / 2 - (coarse_stride - 1) / 2) / coarse_stride
        where = ((2 * at + 1) / size - 1).flip(-1)[:, None, None]
        values = F.grid_sample(coarse[:, None], where, align_corners=False, padding_mode="border")[:, 0, 0, 0]
        return values if self.coarse_gain is None else values * self.coarse_gain[self.flat(cells)]

    @cached_property
    def coarse_gain(self) -> Tensor | None:
        """What makes interpolated coarse scores cosines, (cells,); None where the model does without."""
        if self.embedding.pipeline == "standard":
            return None
        length = interpolated_length(self.coarse, [n * r for n, r in zip(self.coarse.shape[:3], self.ratio, strict=True)])
        z, y, x = self.shape
        return 1 / length[:z, :y, :x].flatten()

    def lattice(self, step: int) -> Tensor:
        """Cells (K, 3) of the approximate anatomy on every ``step``-th index of each axis; all of them where it is too small to hold any of those."""
        cells = _lattice([-(-n // step) for n in self.shape], str(self.device)) * step
        inside = cells[self.anatomy[self.flat(cells)]]
        return inside if len(inside) or step == 1 else self.lattice(1)

    def lattice_points(self, step_mm: float) -> np.ndarray:
        """Positions (K, 3) LPS mm of the cells of the anatomy on a lattice about ``step_mm`` apart."""
        grid = self.embedding.fine_grid
        return grid.index_to_world(self.lattice(max(1, round(step_mm / float(grid.spacing_xyz[0])))).cpu().numpy())


def widen(coarse: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (Q, z, y, x) interpolated trilinearly to ``size``, constant beyond the border.

    One small matrix product per axis: the result of ``F.interpolate(mode="trilinear")``, which is many times slower on a CPU.
    """
    for n in size:
        weights = F.interpolate(torch.eye(coarse.shape[1], device=coarse.device)[:, None], n, mode="linear", align_corners=False)[:, 0]
        coarse = torch.tensordot(coarse, weights, ([1], [0]))  # contracts the first axis and appends it: after three the order is restored
    return coarse


def _block_weights(ratio: Sequence[int]) -> Tensor:
    """Weights (27, n) with which the coarse scores around a block make those at its cells."""
    wide = widen(torch.eye(27).reshape(27, 3, 3, 3), [3 * r for r in ratio])
    return wide[(slice(None), *(slice(r, 2 * r) for r in ratio))].flatten(1)


def _take(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]`` along the first axis, several times faster."""
    return table.index_select(0, index.flatten()).unflatten(0, index.shape)


def _distinct(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The different ones (M, 3) among offsets (D, K, 3), and which of them each is (D, K)."""
    reach = int(offsets.abs().max())
    box = (2 * reach + 1,) * 3
    rows, number = torch.unique(_flat(offsets + reach, box), return_inverse=True)
    return torch.stack(torch.unravel_index(rows, box), -1) - reach, number


def _flat(index: Tensor, shape: Sequence[int]) -> Tensor:
    return (index[..., 0] * shape[1] + index[..., 1]) * shape[2] + index[..., 2]


def interpolated_length(vectors: Tensor, size: Sequence[int]) -> Tensor:
    """Lengths (Z, Y, X) of the vectors ``(z, y, x, C)`` after trilinear interpolation to ``size``, a few channels at a time."""
    total = torch.zeros(tuple(size), device=vectors.device)
    for channels in vectors.permute(3, 0, 1, 2).split(8):
        wide = F.interpolate(channels[None], size=tuple(size), mode="trilinear", align_corners=False)[0]
        total += wide.square_().sum(0)
    return total.sqrt_().clamp_(min=1e-12)


def _lattice(shape: Sequence[int], device: str) -> Tensor:
    return torch.cartesian_prod(*(torch.arange(n, device=device) for n in shape))
