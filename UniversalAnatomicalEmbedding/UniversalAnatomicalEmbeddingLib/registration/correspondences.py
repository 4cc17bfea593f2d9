"""Dense correspondences of two embedded scans: keypoints in the body, matched both ways in bulk, kept when they return.

The stable points of SAME (Liu et al., MICCAI 2021) and of UAE section 3.4: a keypoint and its match that find each other again.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from ..images.grid import FloatArray
from ..matching.nearest import LATTICE_STEP, SECOND_MODE_MM, lattice_scores, refine
from ..matching.searchable import Query, Searchable
from ..system.progress import check

AT_ONCE = 128
RETURN_MM = 12.0


@dataclass(frozen=True, eq=False)
class Correspondences:
    """N pairs ``fixed_lps`` -> ``moving_lps`` (N, 3) mm, ``weight`` (N,) in 0.5..1.5 by rank of their margins, ``forward`` (N,): the keypoint was set in the
    fixed scan and its match found in the moving one (else the other way round); ``fixed_keypoints``, ``moving_keypoints`` (K, 3) are all that were tried."""

    fixed_lps: FloatArray
    moving_lps: FloatArray
    weight: FloatArray
    forward: NDArray[np.bool_]
    fixed_keypoints: FloatArray
    moving_keypoints: FloatArray

    def __len__(self) -> int:
        return len(self.fixed_lps)


def find_correspondences(fixed: Searchable, moving: Searchable, count: int, seed: int, cancel: Event | None = None) -> Correspondences:
    """Match ``count`` keypoints, half of them set in each scan, and keep those that return to within 12 mm of where they started."""
    rng = np.random.default_rng(seed)
    sides = []
    for start, goal in ((fixed, moving), (moving, fixed)):
        points = spread_points(start, count // 2, rng)
        check(cancel)
        found, margin = match_in_bulk(start.query(points), goal)
        check(cancel)
        back, _ = match_in_bulk(goal.query(found), start)
        kept = np.linalg.norm(back - points, axis=1) <= RETURN_MM
        sides.append((points[kept], found[kept], margin[kept], points))
    (a, b, forth, fixed_keypoints), (c, d, back, moving_keypoints) = sides
    weight = np.concatenate([_by_rank(forth), _by_rank(back)])
    forward = np.arange(len(weight)) < len(a)
    return Correspondences(np.concatenate([a, d]), np.concatenate([b, c]), weight, forward, fixed_keypoints, moving_keypoints)


def spread_points(scan: Searchable, count: int, rng: np.random.Generator) -> FloatArray:
    """About ``count`` points (N, 3) LPS mm in the anatomy, one at a random place of each cube of a lattice; never in the air around."""
    anatomy = scan.embedding.anatomy
    step = max(1.0, (anatomy.sum() / count) ** (1 / 3))
    axes = [np.arange(step / 2, n + step / 2, step) - 0.5 for n in anatomy.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    index = index + rng.uniform(-step / 2, step / 2, index.shape)
    nearest = np.rint(index).astype(int)
    inside = ((nearest >= 0) & (nearest < anatomy.shape)).all(axis=1)
    index, nearest = index[inside], nearest[inside]
    return scan.embedding.fine_grid.index_to_world(index[anatomy[tuple(nearest.T)]])


def in_anatomy(scan: Searchable, points_lps: FloatArray) -> NDArray[np.bool_]:
    """Whether the cell nearest to each point (N, 3) belongs to the (approximate) anatomy."""
    index = np.rint(scan.embedding.fine_grid.world_to_index(points_lps)).astype(int)
    inside = ((index >= 0) & (index < scan.shape)).all(axis=1)
    index = np.clip(index, 0, np.array(scan.shape) - 1)
    return inside & np.asarray(scan.embedding.anatomy)[tuple(index.T)]


def match_in_bulk(query: Query, target: Searchable) -> tuple[FloatArray, FloatArray]:
    """Most similar places (Q, 3) LPS mm in the anatomy of ``target`` and how much better (Q,) each is than the best more than 24 mm away.

    One matrix product of many queries with every second cell of each axis, then a refinement among the cells around.
    """
    lattice = target.lattice(LATTICE_STEP)
    spacing = torch.as_tensor(target.embedding.fine_grid.spacing_zyx, device=target.device, dtype=torch.float32)
    places, found, margins = lattice * spacing, [], []
    for part, coarse, scores in lattice_scores(query, target, lattice, AT_ONCE):
        best, number = scores.max(dim=1)
        margins.append(best - _second(scores, places, number))
        found.append(refine(part, target, coarse, lattice[number]))
    index = torch.cat(found).double().cpu().numpy()
    return target.embedding.fine_grid.index_to_world(index), torch.cat(margins).double().cpu().numpy() / target.embedding.heads


def _second(scores: Tensor, places: Tensor, best: Tensor) -> Tensor:
    """The best score (Q,) among the places (K, 3) mm that are far from the best one."""
    far = torch.cdist(places[best], places) > SECOND_MODE_MM
    second = scores.masked_fill(~far, -torch.inf).amax(dim=1)
    return torch.where(torch.isfinite(second), second, scores.amin(dim=1))


def _by_rank(margin: FloatArray) -> FloatArray:
    """Weights 0.5..1.5 in the order of the margins: what counts as a large margin differs from model to model, the order does not."""
    return 0.5 + rankdata(margin) / max(len(margin), 1) if len(margin) else np.empty(0)
