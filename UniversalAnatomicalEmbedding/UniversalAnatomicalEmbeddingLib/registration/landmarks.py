"""Registration from landmark pairs alone: closed form or thin-plate spline, fiducial registration error, leave-one-out error."""

from __future__ import annotations

from collections import Counter
from threading import Event
from time import perf_counter

import numpy as np
from numpy.typing import ArrayLike

from ..images.grid import FloatArray
from ..images.volume import Volume
from ..landmarks.points import PointList
from ..options import RegisterOptions, Stage
from ..system.errors import InputError
from ..system.progress import Progress, silent
from .dense import thin_plate, thin_plate_field
from .linear import Model, apply, expected_tre, fit_linear
from .refine import refine_linear
from .result import Registration
from .transform import Transform

REFINED_WITHIN_MM = 30.0


def register_landmarks(
    fixed_lps: ArrayLike,
    moving_lps: ArrayLike,
    options: RegisterOptions | None = None,
    fixed: Volume | None = None,
    moving: Volume | None = None,
    progress: Progress = silent,
    cancel: Event | None = None,
) -> Registration:
    """Register from N landmark pairs (N, 3) LPS mm alone; all are trusted alike.

    ``fixed`` is needed for the deformable stage (thin-plate spline, on the field of view of this scan), both volumes for ``options.refine``. Needs 3
    pairs for rigid and similarity, 4 for affine and deformable, not on one line (plane): :class:`InputError` otherwise.
    """
    options, start = options or RegisterOptions(), perf_counter()
    source, destination = (np.asarray(p, dtype=np.float64).reshape(-1, 3) for p in (fixed_lps, moving_lps))
    if len(source) != len(destination):
        raise InputError(f"{len(source)} fixed and {len(destination)} moving landmarks were given; give each landmark in both scans.")
    if not (np.isfinite(source).all() and np.isfinite(destination).all()):
        raise InputError("A landmark has a position that is no finite number. Place it again.")
    model = _model(options.stage)
    progress(0.0, "fitting landmarks")
    matrix = fit_linear(model, source, destination)
    tre = expected_tre(model, matrix, source, destination, np.ones(len(source)), source)
    loo = _leave_one_out(source, destination, options)
    refined_mm, note = None, ""
    if options.refine:
        if fixed is None or moving is None:
            raise InputError("Refining compares intensities; give both scans, or leave it out.")
        progress(0.3, "refining on the intensities")
        refined = refine_linear(model, [matrix], fixed, moving, source, REFINED_WITHIN_MM, options.seed, cancel)
        if refined.matrix is None:
            note = f"Not refined: {refined.failure}."
        else:
            matrix, refined_mm = refined.matrix, refined.moved_mm
    transform = _transform(matrix, source, destination, options, fixed)
    progress(1.0, "registered")
    return Registration(
        transform=transform,
        stage=options.stage,
        source="landmarks",
        fixed_lps=source,
        moving_lps=destination,
        residual_mm=np.linalg.norm(transform(source) - destination, axis=1),
        inlier=np.ones(len(source), dtype=bool),
        expected_tre_mm=float(np.median(tre)),
        folding=transform.folding(),
        seconds=perf_counter() - start,
        loo_mm=loo,
        refined_mm=refined_mm,
        note=note,
    )


def pair_landmarks(fixed: PointList, moving: PointList) -> tuple[list[str], tuple[FloatArray, FloatArray]]:
    """Names and positions (N, 3), (N, 3) LPS mm of the landmarks that are placed in both lists, paired by name, in the order of the fixed one.

    InputError where a name is used twice in a list, or no landmark is in both.
    """
    sides = []
    for points, side in ((fixed, "fixed"), (moving, "moving")):
        placed = [p for p in points if p.position_lps is not None]
        twice = sorted(name for name, count in Counter(p.label for p in placed).items() if count > 1)
        if twice:
            raise InputError(f"The {side} landmarks hold '{twice[0]}' more than once; give every landmark its own name.")
        sides.append({p.label: p.position_lps for p in placed})
    labels = [label for label in sides[0] if label in sides[1]]
    if not labels:
        raise InputError("No landmark is placed in both scans under the same name. Give corresponding landmarks equal names.")
    a, b = (np.array([side[label] for label in labels], dtype=np.float64) for side in sides)
    return labels, (a, b)


def _model(stage: Stage) -> Model:
    return "affine" if stage == "deformable" else stage


def _transform(
    matrix: FloatArray, source: FloatArray, destination: FloatArray, options: RegisterOptions, fixed: Volume | None
) -> Transform:
    if options.stage != "deformable":
        return Transform(matrix)
    if fixed is None:
        raise InputError("A deformable registration of landmarks needs the fixed scan, whose field of view it covers.")
    field, grid = thin_plate_field(matrix, source, destination, fixed.grid, options.field_mm)
    return Transform(matrix, field, grid)


def _leave_one_out(source: FloatArray, destination: FloatArray, options: RegisterOptions) -> FloatArray:
    """Error (N,) mm at each landmark of the map through all others; NaN where these do not determine it."""
    errors = np.full(len(source), np.nan)
    for n in range(len(source)):
        rest = np.arange(len(source)) != n
        try:
            matrix = fit_linear(_model(options.stage), source[rest], destination[rest])
        except InputError:
            continue
        point = source[n : n + 1]
        if options.stage == "deformable":
            point = point + thin_plate(matrix, source[rest], destination[rest])(point)
        errors[n] = np.linalg.norm(apply(matrix, point) - destination[n])
    return errors
