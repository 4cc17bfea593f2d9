"""Register two scans: matched keypoints or landmarks, robust linear map, dense field, optional intensity refinement.

Entries: :func:`register` for two embedded scans (``Session.register`` embeds and calls it), :func:`register_landmarks` for landmark pairs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Event
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from ..images.grid import FloatArray, Grid
from ..images.volume import Volume
from ..matching import Searchable
from ..options import RegisterOptions
from ..system.progress import Progress, check, part, silent
from .correspondences import Correspondences, find_correspondences, in_anatomy, spread_points
from .dense import dense_field
from .linear import ALIKE_MM, INLIER_MM, LinearFit, Model, apply, expected_tre, find_linear, inverted
from .refine import refine_linear
from .result import NoCommonAnatomy, Registration
from .transform import Transform

PASSES = 5
UPRIGHT_DEG = 3.0
FEWEST_INLIERS = 12
AGREEING_SHARE = 0.08
TRE_POINTS = 300
REFINED_WITHIN_MM = 110.0
LEAST_SUPPORT = 0.1  # of the keypoints that agree with the embeddings' map must agree with the refined one


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan (its modality known) and its embedding."""

    volume: Volume
    searchable: Searchable


def register_scans(
    fixed: Scan,
    moving: Scan,
    embed: Callable[[Volume], Searchable],
    options: RegisterOptions | None = None,
    progress: Progress = silent,
    cancel: Event | None = None,
) -> Registration:
    """Register ``moving`` to ``fixed`` from their embeddings.

    ``embed`` embeds a further volume with the same model: a network sees patients upright, so a moving scan found to be tilted is turned by the first
    answer, embedded and matched again. Raises :class:`NoCommonAnatomy` where the embeddings agree on too little, :class:`Cancelled` when
    ``cancel`` is set meanwhile.
    """
    options, start = options or RegisterOptions(), perf_counter()
    model: Model = "affine" if options.stage == "deformable" else options.stage
    progress(0.0, "matching keypoints")
    pairs, rigid, upright, turned = _upright_pairs(fixed, moving, embed, options, part(progress, 0.0, 0.6), cancel)
    _require_consensus(rigid, pairs, fixed, moving, upright)
    fits = rigid if model == "rigid" else find_linear(model, pairs, options.seed) or rigid
    fit = fits[0]
    body = _shared_body(fixed.searchable, upright, fit.matrix, options.seed)
    matrix, refined_mm, note = turned @ fit.matrix, None, ""
    moving_points = apply(turned, pairs.moving_lps)
    if options.refine:
        progress(0.6, "refining on the intensities")
        starts = [turned @ f.matrix for f in fits]

        def believed(matrix: FloatArray) -> bool:
            return _agree(matrix, pairs.fixed_lps, moving_points).sum() >= LEAST_SUPPORT * fit.inlier.sum()

        refined = refine_linear(model, starts, fixed.volume, moving.volume, body, REFINED_WITHIN_MM, options.seed, cancel, believed)
        if refined.matrix is None:
            note = f"Not refined: {refined.failure}."
        else:
            matrix, refined_mm = refined.matrix, refined.moved_mm
    tre = expected_tre(model, fit.matrix, pairs.fixed_lps, pairs.moving_lps, fit.weight, body, ALIKE_MM)
    transform = Transform(matrix)
    if options.stage == "deformable":
        progress(0.75, "deforming")
        relative = np.linalg.inv(turned) @ matrix
        field, grid = dense_field(fixed.searchable, upright, relative, options, part(progress, 0.75, 1.0), cancel)
        transform = Transform(matrix, field, grid)
    progress(1.0, "registered")
    return Registration(
        transform=transform,
        stage=options.stage,
        source="embeddings",
        fixed_lps=pairs.fixed_lps,
        moving_lps=moving_points,
        residual_mm=np.linalg.norm(transform(pairs.fixed_lps) - moving_points, axis=1),
        inlier=_agree(matrix, pairs.fixed_lps, moving_points),
        expected_tre_mm=float(np.median(tre)),
        folding=transform.folding(),
        seconds=perf_counter() - start,
        refined_mm=refined_mm,
        note=note,
    )


def _upright_pairs(
    fixed: Scan, moving: Scan, embed: Callable[[Volume], Searchable], options: RegisterOptions, progress: Progress, cancel: Event | None
) -> tuple[Correspondences, list[LinearFit], Searchable, FloatArray]:
    """Pairs of the fixed scan and the moving one turned upright, their rigid maps, its embedding, the matrix (4, 4) from turned to moving scan."""
    turned, upright = np.eye(4), moving.searchable
    for n in range(PASSES):
        check(cancel)
        pairs = find_correspondences(fixed.searchable, upright, options.keypoints, options.seed, cancel)
        progress((n + 1) / PASSES, "matching keypoints")
        rigid = find_linear("rigid", pairs, options.seed)
        if n == PASSES - 1 or not rigid or _degrees(rigid[0].matrix) < UPRIGHT_DEG:
            break
        turned = turned @ rigid[0].matrix
        grid = Grid(moving.volume.grid.shape_zyx, np.linalg.inv(turned) @ moving.volume.grid.affine)
        upright = embed(replace(moving.volume, grid=grid))
    return pairs, rigid, upright, turned


def _agree(matrix: FloatArray, fixed_lps: FloatArray, moving_lps: FloatArray) -> NDArray[np.bool_]:
    """Which pairs of points (N, 3) a map brings together."""
    return np.linalg.norm(apply(matrix, fixed_lps) - moving_lps, axis=1) <= INLIER_MM


def _degrees(matrix: FloatArray) -> float:
    return float(np.rad2deg(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1))))


def _require_consensus(fits: list[LinearFit], pairs: Correspondences, fixed: Scan, moving: Scan, upright: Searchable) -> None:
    """:class:`NoCommonAnatomy` unless enough of the keypoints that the best fit places in the other scan's body agree with it."""
    agreeing = placed = 0
    if fits:
        fit = fits[0]
        agreeing = int(fit.inlier.sum())
        placed = int(in_anatomy(upright, apply(fit.matrix, pairs.fixed_keypoints)).sum())
        placed += int(in_anatomy(fixed.searchable, apply(inverted(fit.matrix), pairs.moving_keypoints)).sum())
        if agreeing >= max(FEWEST_INLIERS, AGREEING_SHARE * placed):
            return
    raise NoCommonAnatomy(
        f"{fixed.volume.name} and {moving.volume.name} seem to show no common anatomy: of {placed} keypoints that the best map places in both, "
        f"{agreeing} agree with it. Check that both show the same body part, or give landmarks."
    )


def _shared_body(fixed: Searchable, upright: Searchable, matrix: FloatArray, seed: int) -> FloatArray:
    """Points (N, 3) of the fixed body that the moving scan shows."""
    points = spread_points(fixed, 4 * TRE_POINTS, np.random.default_rng(seed))
    inside = points[upright.embedding.contains(apply(matrix, points))]
    return inside if len(inside) else points
