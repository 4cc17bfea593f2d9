"""Deformable fields: thin-plate spline through landmarks, and a dense field from embedding similarity.

The dense field starts where the common anchors of both scans put it and follows ConvexAdam (Siebert et al. 2021; SAMConvex, Li et al. 2023): a
discrete search over displacements coupled to a smooth field, then Adam on the field itself. Costs are counted in units of their own scatter, so
that no weight hangs on one model's similarities.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import RBFInterpolator
from torch import Tensor
from torch.nn import functional as F

from ..images.grid import FloatArray, Grid
from ..matching.guide import guide_between
from ..matching.searchable import Searchable
from ..options import RegisterOptions
from ..system.progress import Progress, check, part
from .correspondences import in_anatomy
from .linear import apply, inverted
from .transform import Transform, jacobian

MARGIN_MM = 64.0
COUPLINGS = (0.05, 0.15, 0.5, 1.5, 5.0)
SMOOTH_NODES = 1.0
FEWEST_NODES = 8
ADAM_STEPS, ADAM_RATE_MM = 60, 0.5
STIFFNESS = 0.6
SAMPLES = 12_000
NODES_AT_ONCE = 256
MOST_FOLDING = 0.005


class Level(NamedTuple):
    """A discrete search: node spacing in units of the field's, how many steps each way, step in mm."""

    nodes: float
    reach: int
    step_mm: float


LEVELS = (Level(3.0, 4, 12.0), Level(2.0, 3, 6.0))


def field_grid(around: Grid, spacing_mm: float) -> Grid:
    """LPS-oriented nodes that cover ``around`` with a margin on all sides, where the field falls to zero."""
    grid, margin = around.axis_aligned(spacing_mm), margin_nodes(spacing_mm)
    return grid.cropped([-margin] * 3, np.array(grid.shape_zyx) + 2 * margin)


def margin_nodes(spacing_mm: float) -> int:
    """How many nodes the margin is wide: so many that a field of some centimetres can fall to zero there without folding."""
    return int(np.ceil(MARGIN_MM / spacing_mm))


def thin_plate(matrix: FloatArray, fixed_lps: FloatArray, moving_lps: FloatArray) -> RBFInterpolator:
    """Displacement before ``matrix`` (4, 4) that carries the fixed landmarks (N, 3) exactly onto the moving ones.

    Biharmonic spline of space, kernel r, with an affine part (Bookstein 1989 in three dimensions, as in 3D Slicer).
    """
    return RBFInterpolator(fixed_lps, apply(inverted(matrix), moving_lps) - fixed_lps, kernel="linear", degree=1)


def thin_plate_field(
    matrix: FloatArray, fixed_lps: FloatArray, moving_lps: FloatArray, around: Grid, spacing_mm: float
) -> tuple[FloatArray, Grid]:
    """:func:`thin_plate` on the nodes of a field grid over ``around``, and that grid."""
    grid = field_grid(around, spacing_mm)
    spline = thin_plate(matrix, fixed_lps, moving_lps)
    nodes = grid.index_to_world(np.argwhere(np.ones(grid.shape_zyx, dtype=bool)))
    values = np.concatenate([spline(part) for part in np.array_split(nodes, max(1, len(nodes) // 20_000))])
    return unfolded(values.reshape(*grid.shape_zyx, 3), grid), grid


@dataclass(frozen=True, eq=False)
class Way:
    """The task of one direction: a field ``u`` such that what ``start`` shows at ``placed x`` is found in ``goal`` at ``matrix (x + u(x))``."""

    start: Searchable
    goal: Searchable
    matrix: FloatArray
    placed: FloatArray
    around: Grid
    seed: int
    cancel: Event | None

    def nodes(self, grid: Grid) -> tuple[NDArray[np.int64], FloatArray]:
        """Indices (N, 3) and positions (N, 3) of the nodes that lie in the body of ``start`` and in the field of view of ``goal``."""
        index = np.argwhere(np.ones(grid.shape_zyx, dtype=bool))
        nodes = grid.index_to_world(index)
        used = in_anatomy(self.start, apply(self.placed, nodes)) & self.goal.embedding.contains(apply(self.matrix, nodes))
        return index[used], nodes[used]


def dense_field(
    fixed: Searchable, moving: Searchable, matrix: FloatArray, options: RegisterOptions, progress: Progress, cancel: Event | None
) -> tuple[FloatArray, Grid]:
    """Field ``(Z, Y, X, 3)`` in mm of fixed space and its grid, on top of ``matrix`` (4, 4) from fixed to the embedded moving scan."""
    there = Way(fixed, moving, matrix, np.eye(4), fixed.embedding.grid, options.seed, cancel)
    steps = 2 if options.inverse_consistent else 1
    field, grid = _one_way(there, options.field_mm, part(progress, 0.0, 1 / steps))
    if options.inverse_consistent:
        shown = Grid(moving.embedding.grid.shape_zyx, np.linalg.inv(matrix) @ moving.embedding.grid.affine)
        back = Way(moving, fixed, np.eye(4), matrix, shown, options.seed, cancel)
        field = _symmetric(field, grid, *_one_way(back, options.field_mm, part(progress, 1 / steps, 1.0)))
    return unfolded(field, grid), grid


def _one_way(way: Way, field_mm: float, progress: Progress) -> tuple[FloatArray, Grid]:
    """Field and grid of one direction: what the common anchors say, coarse and medium discrete search around it, then the continuous optimisation."""
    grid = field_grid(way.around, field_mm)
    field = _expected(way, grid)
    for n, level in enumerate(LEVELS):
        coarse = field_grid(way.around, level.nodes * field_mm)
        index, nodes = way.nodes(coarse)
        if len(nodes) < FEWEST_NODES:
            break
        before = displacement_at(field, grid, nodes)
        cost, offsets = _displacement_costs(way, nodes, before, level, part(progress, 0.3 * n, 0.3 * (n + 1)))
        field = _resampled(_coupled(cost, offsets, before, index, coarse, level), coarse, grid)
    nodes = way.nodes(grid)[1]
    if len(nodes) >= FEWEST_NODES:
        field = _adam(field, grid, way, nodes, part(progress, 0.6, 1.0))
    return tapered(field, grid), grid


def _expected(way: Way, grid: Grid) -> FloatArray:
    """Field on ``grid`` that carries the body where the anchors around say (stable points that move with their neighbours); zero where none is near."""
    coarse = field_grid(way.around, LEVELS[0].nodes * float(grid.spacing_xyz[0]))
    index, nodes = way.nodes(coarse)
    place, spread = guide_between(way.start, way.goal).predict(apply(way.placed, nodes))
    known = np.isfinite(spread)
    return _resampled(_spread(apply(inverted(way.matrix), place[known]) - nodes[known], index[known], coarse), coarse, grid)


def displacement_at(field: FloatArray, grid: Grid, points_lps: FloatArray) -> FloatArray:
    """Vectors (N, 3) of a field at points (N, 3)."""
    return Transform(np.eye(4), field, grid)(points_lps) - points_lps


def _resampled(field: FloatArray, source: Grid, target: Grid) -> FloatArray:
    nodes = target.index_to_world(np.argwhere(np.ones(target.shape_zyx, dtype=bool)))
    return displacement_at(field, source, nodes).reshape(*target.shape_zyx, 3)


def _displacement_costs(way: Way, nodes: FloatArray, before: FloatArray, level: Level, progress: Progress) -> tuple[Tensor, FloatArray]:
    """Standardised cost (N, D) of moving every node (N, 3) by ``before`` (N, 3) and an offset (D, 3) mm: minus the similarity of the cell there."""
    reach = np.arange(-level.reach, level.reach + 1) * level.step_mm
    offsets = np.stack(np.meshgrid(reach, reach, reach, indexing="ij"), -1).reshape(-1, 3)
    goal, query = way.goal, way.start.query(apply(way.placed, nodes))
    limit = torch.tensor(goal.shape, device=goal.device) - 1
    parts = []
    for first in range(0, len(nodes), NODES_AT_ONCE):
        check(way.cancel)
        progress(first / len(nodes), "searching displacements")
        some = slice(first, first + NODES_AT_ONCE)
        points = apply(way.matrix, ((nodes + before)[some, None] + offsets).reshape(-1, 3))
        cells = np.rint(goal.embedding.fine_grid.world_to_index(points)).astype(np.int64).reshape(-1, len(offsets), 3)
        at = torch.from_numpy(cells).to(goal.device)
        inside = torch.minimum(at.clamp(min=0), limit)
        similarity = goal.scores_at(query[some], goal.coarse_scores(query[some]), inside)
        outside = (at != inside).any(-1) | ~goal.searched[goal.flat(inside)]
        parts.append(torch.where(outside, similarity.amin(1, keepdim=True), similarity))
    similarity = torch.cat(parts)
    return (similarity.amax(1, keepdim=True) - similarity) / similarity.std(dim=1).mean().clamp(min=1e-6), offsets


def _coupled(cost: Tensor, offsets: FloatArray, before: FloatArray, index: NDArray, grid: Grid, level: Level) -> FloatArray:
    """Alternate between the best displacement near the smooth field, and smoothing; the nearness counts ever more."""
    choices = torch.from_numpy(offsets).to(cost)
    smooth = torch.zeros((len(cost), 3)).to(cost)
    field = np.zeros((*grid.shape_zyx, 3))
    for weight in (0.0, *COUPLINGS):
        total = cost + weight * (torch.cdist(smooth, choices) / level.step_mm) ** 2
        chosen = choices[total.argmin(dim=1)].cpu().numpy()
        field = _spread(before + chosen, index, grid)
        smooth = torch.from_numpy(field[tuple(index.T)] - before).to(cost)
    return field


def _spread(vectors: FloatArray, index: NDArray, grid: Grid) -> FloatArray:
    """Vectors (N, 3) at some nodes, smoothed and carried on to the others."""
    total = np.zeros((*grid.shape_zyx, 3))
    known = np.zeros(grid.shape_zyx)
    total[tuple(index.T)], known[tuple(index.T)] = vectors, 1.0
    share = ndimage.gaussian_filter(known, SMOOTH_NODES, mode="constant")
    field = np.stack([ndimage.gaussian_filter(total[..., c], SMOOTH_NODES, mode="constant") for c in range(3)], axis=-1)
    return np.asarray(field / np.maximum(share, 1e-3)[..., None])


def tapered(field: FloatArray, grid: Grid) -> FloatArray:
    """The field on ``grid``, falling to zero over the margin."""
    margin = margin_nodes(float(grid.spacing_xyz[0]))
    result = field
    for axis, n in enumerate(grid.shape_zyx):
        to_border = np.minimum(np.arange(n), np.arange(n)[::-1])
        result = result * np.minimum(to_border / margin, 1.0).reshape([-1 if a == axis else 1 for a in range(4)])
    return result


@dataclass(frozen=True, eq=False)
class _Feature:
    """A map ``(1, C, Z, Y, X)`` of a scan and the matrix from points (x, y, z) of fixed space to its sampling coordinates -1..1."""

    values: Tensor
    matrix: Tensor

    @staticmethod
    def of(cells: NDArray, grid: Grid, matrix: FloatArray, device: torch.device) -> _Feature:
        size = np.array(grid.shape_zyx[::-1])
        scale = np.diag([*(2 / size), 1.0])
        scale[:3, 3] = 1 / size - 1
        to_unit = scale @ np.linalg.inv(grid.affine) @ matrix
        values = torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(cells), 3, 0))).to(device).float()[None]
        return _Feature(values, torch.from_numpy(to_unit).to(device, torch.float32))

    def __call__(self, points: Tensor) -> Tensor:
        where = points @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        return F.grid_sample(self.values, where[None, None, None], align_corners=False, padding_mode="border")[0, :, 0, 0].T


def _adam(field: FloatArray, grid: Grid, way: Way, nodes: FloatArray, progress: Progress) -> FloatArray:
    """Raise the mean similarity at random places between the nodes under a diffusion penalty (instance optimisation)."""
    rng, device = np.random.default_rng(way.seed), way.goal.device
    low = nodes[rng.choice(len(nodes), min(SAMPLES, 8 * len(nodes)))]
    points = low + rng.uniform(-0.5, 0.5, low.shape) * grid.spacing_xyz
    query = way.start.query(apply(way.placed, points))
    scan = way.goal.embedding
    maps = [_Feature.of(scan.fine, scan.fine_grid, way.matrix, device), _Feature.of(scan.coarse, scan.coarse_grid, way.matrix, device)]
    wanted = [query.fine.to(device), query.coarse.to(device)]
    here = torch.from_numpy(points).to(device, torch.float32)
    sampler = _Feature.of(np.zeros((*grid.shape_zyx, 1)), grid, np.eye(4), device)
    vectors = torch.from_numpy(np.moveaxis(field, 3, 0).copy()).to(device, torch.float32)[None].requires_grad_()
    inner = torch.from_numpy(tapered(np.ones((*grid.shape_zyx, 1)), grid)[None, None, ..., 0]).to(device, torch.float32)

    def similarity(displacement: Tensor) -> Tensor:
        return sum(((m(here + displacement) * w).sum(1) for m, w in zip(maps, wanted, strict=True)), torch.zeros(1).to(device))

    with torch.no_grad():
        scatter = similarity(torch.zeros_like(here)).std().clamp(min=1e-6)
    optimiser = torch.optim.Adam([vectors], lr=ADAM_RATE_MM)
    for step in range(ADAM_STEPS):
        check(way.cancel)
        progress(step / ADAM_STEPS, "adapting the field")
        optimiser.zero_grad()
        shift = _Feature(vectors * inner, sampler.matrix)(here)
        loss = STIFFNESS * _diffusion(vectors, grid) - similarity(shift).mean() / scatter
        loss.backward()
        optimiser.step()
    return np.moveaxis(vectors.detach()[0].double().cpu().numpy(), 0, 3)


def _diffusion(vectors: Tensor, grid: Grid) -> Tensor:
    """Mean squared gradient of the field ``(1, 3, Z, Y, X)`` in units of a tenth (mm per mm)."""
    total = torch.zeros((), device=vectors.device)
    for axis, mm in zip((2, 3, 4), grid.spacing_zyx.tolist(), strict=True):
        total = total + (vectors.diff(dim=axis) / (0.1 * mm)).square().mean()
    return total


def _symmetric(forward: FloatArray, grid: Grid, backward: FloatArray, back_grid: Grid) -> FloatArray:
    """Forward field averaged with the inverse of the backward one, both of fixed space."""
    nodes = grid.index_to_world(np.argwhere(np.ones(grid.shape_zyx, dtype=bool)))
    inverse = Transform(np.eye(4), backward, back_grid).inverse(nodes) - nodes
    both = back_grid.contains(nodes)[:, None]
    own = forward.reshape(-1, 3)
    return forward + tapered(np.where(both, (inverse - own) / 2, 0.0).reshape(forward.shape), grid)


def unfolded(field: FloatArray, grid: Grid) -> FloatArray:
    """The field, smoothed by as much as it takes that under 0.5 % of it folds."""
    sigma = 0.5
    while (jacobian(field, grid) <= 0).mean() >= MOST_FOLDING:
        field = np.stack([ndimage.gaussian_filter(field[..., c], sigma) for c in range(3)], axis=-1)
        sigma *= 1.5
    return field
