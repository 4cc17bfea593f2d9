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

from ..embedding import Embedding


@dataclass(frozen=True, eq=False)
class Query:
    """Descriptors of points to be found: ``fine`` (Q, C) (one unit vector per head, side by side) and ``coarse`` (Q, C')."""

    fine: Tensor
    coarse: Tensor

    def __len__(self) -> int:
        return len(self.fine)

    def __getitem__(self, rows: slice | Tensor) -> Query:
        return Query(self.fine[rows], self.coarse[rows])


class Searchable:
    """An embedding arranged for repeated search on one device.

    ``rows`` (cells, C) float16 descriptors, ``coarse`` (z, y, x, C') float32, ``block_cells`` (blocks, n, 3) the fine cells under each coarse
    cell, ``block_used`` (blocks,) whether any of them lies in the body. ``guides`` remembers what was worked out once per template scan.
    """

    def __init__(self, embedding: Embedding, device: str = "cpu") -> None:
        self.embedding = embedding
        self.device = torch.device(device)
        self.shape = embedding.fine.shape[:3]
        self.rows = torch.from_numpy(np.asarray(embedding.fine)).to(device).flatten(0, 2)
        self.coarse = torch.from_numpy(np.asarray(embedding.coarse)).to(device).float()
        self.body = torch.from_numpy(np.asarray(embedding.body)).to(device).flatten()
        ratio = [c // f for c, f in zip(embedding.coarse_stride, embedding.fine_stride, strict=True)]
        blocks, inner = _lattice(self.coarse.shape[:3], device), _lattice(ratio, device)
        cells = blocks[:, None] * torch.tensor(ratio, device=device) + inner
        self.block_cells = torch.minimum(cells, torch.tensor(self.shape, device=device) - 1)
        self.block_used = self.body[self.flat(self.block_cells)].any(1)
        self.guides: WeakKeyDictionary[Searchable, Any] = WeakKeyDictionary()

    def flat(self, cells: Tensor) -> Tensor:
        """Row numbers of integer cells (..., 3)."""
        return (cells[..., 0] * self.shape[1] + cells[..., 1]) * self.shape[2] + cells[..., 2]

    def query(self, points_lps: np.ndarray) -> Query:
        """Descriptors at LPS positions (N, 3) of this scan."""
        fine, coarse = self.embedding.descriptors(points_lps)
        return Query(fine.to(self.device), coarse.to(self.device))

    def coarse_scores(self, query: Query) -> Tensor:
        """Coarse cosine on the coarse grid, (Q, z, y, x)."""
        return torch.einsum("qc,zyxc->qzyx", query.coarse, self.coarse)

    def scores_at(self, query: Query, coarse: Tensor, cells: Tensor) -> Tensor:
        """Fused similarity (Q, K) of each query with its own cells (Q, K, 3) (z, y, x integer); ``coarse`` from :meth:`coarse_scores`."""
        fine = torch.bmm(self.rows[self.flat(cells)].float(), query.fine[:, :, None])[..., 0]
        return (fine + self.interpolate_coarse(coarse, cells)) / self.embedding.heads

    def full_scores(self, query: Query) -> Tensor:
        """Fused similarity (Q, Z, Y, X) of every cell of the scan."""
        coarse = self.coarse_scores(query)
        ratio = torch.tensor(self.embedding.coarse_stride) // torch.tensor(self.embedding.fine_stride)
        whole = [int(n * r) for n, r in zip(self.coarse.shape[:3], ratio, strict=True)]
        wide = F.interpolate(coarse[:, None], size=whole, mode="trilinear", align_corners=False)[:, 0]
        z, y, x = self.shape
        wide = wide[:, :z, :y, :x]
        if self.coarse_gain is not None:
            wide = wide * self.coarse_gain.reshape(z, y, x)
        fine = torch.empty((len(query), len(self.rows)), device=self.device)
        for start in range(0, len(self.rows), 65536):
            fine[:, start : start + 65536] = query.fine @ self.rows[start : start + 65536].float().T
        return (fine.reshape(len(query), z, y, x) + wide) / self.embedding.heads

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
        ratio = [c // f for c, f in zip(self.embedding.coarse_stride, self.embedding.fine_stride, strict=True)]
        length = interpolated_length(self.coarse, [n * r for n, r in zip(self.coarse.shape[:3], ratio, strict=True)])
        z, y, x = self.shape
        return 1 / length[:z, :y, :x].flatten()

    def lattice(self, step: int) -> Tensor:
        """Body cells (K, 3) on every ``step``-th index of each axis."""
        cells = _lattice([-(-n // step) for n in self.shape], str(self.device)) * step
        return cells[self.body[self.flat(cells)]]


def interpolated_length(vectors: Tensor, size: Sequence[int]) -> Tensor:
    """Lengths (Z, Y, X) of the vectors ``(z, y, x, C)`` after trilinear interpolation to ``size``, a few channels at a time."""
    total = torch.zeros(tuple(size), device=vectors.device)
    for channels in vectors.permute(3, 0, 1, 2).split(8):
        wide = F.interpolate(channels[None], size=tuple(size), mode="trilinear", align_corners=False)[0]
        total += wide.square_().sum(0)
    return total.sqrt_().clamp_(min=1e-12)


def _lattice(shape: Sequence[int], device: str) -> Tensor:
    return torch.cartesian_prod(*(torch.arange(n, device=device) for n in shape))
