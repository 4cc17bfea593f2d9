"""Matching in the arithmetic of the published UAE code, its flaws included, to reproduce results made with it.

Points are whole voxels of the scanner's grid, mapped to cells by ``floor(voxel * spacing / 4 mm)`` and back by rounding, and truncated at the
end. With perfect matching that alone is off by half a voxel or more on every axis; :mod:`.fixed_point` has none of it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..images.grid import FloatArray, Grid
from ..options import MatchOptions
from ..system.errors import InputError
from .searchable import Query, Searchable, interpolated_length

MARGIN_CELLS = 2
PASSES = 4
FARTHEST_VOXELS = 100.0
LEAST_SCORE = 0.8
HUBER = 1.345
AT_ONCE = 8

Index = NDArray[np.int64]


class PublishedScan:
    """An embedded scan seen as the published code sees it. All indices are in the order x, y, z.

    ``size`` and ``ratio`` are the number of scanner voxels and their size in canonical ones, ``cells`` the number of fine cells.
    """

    def __init__(self, scan: Searchable) -> None:
        embedding = scan.embedding
        if embedding.pipeline != "published":
            raise InputError(
                f"{embedding.name} was not embedded in the published way; embed and match it with --compat (Session(compat=True))."
            )
        self.scan = scan
        self.native = lps_ordered(embedding.native or embedding.grid, embedding.name)
        self.size = np.array(self.native.shape_zyx[::-1])
        self.ratio = self.native.spacing_xyz / embedding.grid.spacing_xyz
        self.cells = np.array(scan.shape[::-1])
        self.length = interpolated_length(scan.coarse, scan.shape)

    def to_cells(self, voxels: FloatArray | Index) -> Index:
        """Fine cells of scanner voxels (N, 3)."""
        return np.floor(voxels * self.ratio * 0.5).astype(np.int64)

    def to_voxels(self, cells: Index) -> Index:
        """Scanner voxels of fine cells (N, 3)."""
        return np.round((2 * cells + 0.5) / self.ratio).astype(np.int64)

    def query(self, cells: Index) -> Query:
        """Descriptors of fine cells (N, 3); cells beyond the scan count as its last ones."""
        at = torch.from_numpy(np.clip(cells, 0, self.cells - 1)[:, ::-1].copy()).to(self.scan.device)
        size = torch.tensor(self.scan.shape, device=self.scan.device)
        where = ((2 * at + 1) / size - 1).flip(-1)[None, None, None]
        coarse = F.grid_sample(self.scan.coarse.permute(3, 0, 1, 2)[None], where, align_corners=False, padding_mode="border")
        return Query(self.scan.rows[self.scan.flat(at)].float(), F.normalize(coarse[0, :, 0, 0].T, dim=1))

    def scores(self, query: Query) -> Tensor:
        """Mean cosine of the heads (Q, Z, Y, X); the coarse map is stretched to the size of the fine one, its vectors to unit length."""
        coarse = F.interpolate(self.scan.coarse_scores(query)[:, None], self.scan.shape, mode="trilinear", align_corners=False)[:, 0]
        fine = torch.cat([query.fine @ rows.float().T for rows in self.scan.rows.split(65536)], dim=1)
        return (fine.reshape(coarse.shape) + coarse / self.length) / self.scan.embedding.heads

    def best_cells(self, query: Query) -> tuple[Index, FloatArray]:
        """The most similar fine cell (Q, 3) of each query, the first of equal ones, and its similarity (Q,)."""
        cells, similarity = [], []
        for start in range(0, len(query), AT_ONCE):
            score, at = self.scores(query[start : start + AT_ONCE]).flatten(1).max(dim=1)
            cells.append(torch.stack(torch.unravel_index(at, self.scan.shape)[::-1], -1))
            similarity.append(score)
        return torch.cat(cells).cpu().numpy(), torch.cat(similarity).double().cpu().numpy()

    def best_voxel(self, query: Query) -> tuple[Index, float]:
        """The first scanner voxel (3,) at which the similarity of one query, enlarged to the scanner's grid, is greatest, and that value."""
        shape = self.native.shape_zyx
        wide = F.interpolate(self.scores(query)[:, None], shape, mode="trilinear", align_corners=False).flatten()
        score, at = wide.max(dim=0)
        return np.array(np.unravel_index(int(at), shape)[::-1]), float(score)

    def to_world(self, voxels: FloatArray | Index) -> FloatArray:
        """LPS mm (N, 3) of scanner voxels (N, 3)."""
        return self.native.index_to_world(np.asarray(voxels, dtype=np.float64)[..., ::-1])


def match_published(
    points_lps: FloatArray, template: Searchable, target: Searchable, options: MatchOptions
) -> tuple[FloatArray, FloatArray, list[str]]:
    """Carry points (N, 3) LPS mm over: places (N, 3) in ``target``, similarities (N,), and why fixed points failed ("": they did not).

    The published fixed-point code stops with an error where no or too few anchors hold; here the nearest neighbour stands in, with the reason.
    """
    source, destination = PublishedScan(template), PublishedScan(target)
    places, scores, notes = [], [], []
    for voxel in source.native.world_to_index(points_lps)[:, ::-1]:
        fixed = _fixed_point(voxel, source, destination) if options.method == "fixed-point" else ""
        if isinstance(fixed, str):
            place, score = destination.best_voxel(source.query(source.to_cells(voxel[None])))
            notes.append(f"nearest neighbour, no fixed points: {fixed}" if fixed else "")
        else:
            place, score = fixed
            notes.append("")
        places.append(destination.to_world(place[None])[0])
        scores.append(score)
    return np.array(places), np.array(scores), notes


def _fixed_point(voxel: FloatArray, source: PublishedScan, target: PublishedScan) -> tuple[Index, float] | str:
    """Scanner voxel (3,) of ``target`` and mean similarity of the anchors for a continuous one of ``source``, or why there is none."""
    around = np.stack(np.meshgrid(*[np.arange(-MARGIN_CELLS, MARGIN_CELLS + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    here = np.unique(np.clip(source.to_cells(np.round(voxel)) + around, 0, source.cells - 1), axis=0)
    for _ in range(PASSES // 2):
        there = target.to_voxels(target.best_cells(source.query(here))[0])
        cells, score = source.best_cells(target.query(target.to_cells(there)))
        back = source.to_voxels(cells)
        here = source.to_cells(back)
    kept = (np.linalg.norm((back - voxel) * source.ratio, axis=1) < FARTHEST_VOXELS) & (score > LEAST_SCORE)
    if not kept.any():
        return f"no anchor is more similar than {LEAST_SCORE}"
    _, first = np.unique(there[kept], axis=0, return_index=True)
    anchors, images = back[kept][np.sort(first)], there[kept][np.sort(first)]
    flat = len(np.unique(images[:, 2])) == 1
    if len(images) < (3 if flat else 4):
        return f"only {len(images)} different anchors hold"
    linear = np.zeros((3, 3))
    used = [0, 1] if flat else [0, 1, 2]
    design = np.hstack([anchors[:, used], np.ones((len(anchors), 1))])
    for axis in used:
        linear[axis, used] = huber_regression(design, images[:, axis])[:-1]
    if flat:
        linear[2, 2] = source.ratio[2] / target.ratio[2]
    carried = (images - (anchors - voxel) @ linear.T).astype(np.int64).clip(0, target.size - 1)
    return carried.mean(axis=0).astype(np.int64), float(score[kept].mean())


def huber_regression(design: FloatArray, values: FloatArray | Index) -> FloatArray:
    """Coefficients (P,) of values (N,) on design (N, P): Huber's M-estimator with the scale from the median absolute residual.

    Iteratively reweighted least squares, at most 49 steps, until the deviance settles to 1e-8 (the defaults of statsmodels' RLM).
    """
    coefficients = np.linalg.pinv(design) @ values
    previous = np.inf
    for step in range(49):
        residual = np.abs(values - design @ coefficients)
        scale = np.median(residual) / 0.6744897501960817
        if scale == 0:
            break
        z = residual / scale
        deviance = np.where(z <= HUBER, 0.5 * z**2, HUBER * z - 0.5 * HUBER**2).sum()
        if step and abs(deviance - previous) <= 1e-8:
            break
        previous = deviance
        root = np.sqrt(np.where(z <= HUBER, 1.0, HUBER / np.maximum(z, HUBER)))
        coefficients = np.linalg.pinv(design * root[:, None]) @ (values * root)
    return coefficients


def lps_ordered(grid: Grid, name: str) -> Grid:
    """The same voxels numbered along the patient's axes. Raises :class:`InputError` for an oblique grid, which the published code cannot take."""
    linear = grid.affine[:3, :3]
    spacing = grid.spacing_xyz
    axes = np.abs(linear).argmax(axis=0)
    if sorted(axes) != [0, 1, 2] or not np.allclose(np.abs(linear).max(axis=0), spacing, rtol=1e-4):
        raise InputError(f"{name} is oblique, which the published code cannot take; match it without --compat.")
    order = np.argsort(axes)
    shape_xyz = np.array(grid.shape_zyx[::-1])[order]
    affine = np.diag([*spacing[order], 1.0])
    affine[:3, 3] = grid.corners().min(axis=0) + spacing[order] / 2
    return Grid(tuple(shape_xyz[::-1]), affine)
