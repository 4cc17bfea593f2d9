"""Intensity refinement of a linear map: mutual information (Mattes et al. 2003) in SimpleITK, started at the map and bounded around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.linalg import polar
from scipy.spatial.transform import Rotation

from ..images.grid import FloatArray, Grid
from ..images.modality import modality_of
from ..images.preprocess import to_canonical
from ..images.search_space import anatomy_voxels
from ..images.volume import Volume, to_sitk
from ..system.progress import Cancelled, check
from .linear import Model, apply, distinct, inverted, mean_distance

COARSE_MM, FINE_MM = 8.0, 2.0
CT_WINDOW_HU = (-250.0, 550.0)
MR_PERCENTILES = (0.5, 99.5)
MASK_MARGIN_MM = 8.0
BINS = 32
TURN_DEG = 25.0
SIDE_MM, ALONG_MM = 35.0, (0.0, 50.0, -50.0, 100.0, -100.0)
FINALISTS = 3
DISTINCT_MM = 12.0
SCALE_LIMIT = 1.25


class Prepared(NamedTuple):
    """A scan on cubic LPS voxels with its intensities clipped to what tells tissues apart; ``body``: the patient and the skin, ``shown``: what was scanned.

    Both masks leave out the corners that a tilted scan does not reach, where ``image`` holds made-up air.
    """

    image: sitk.Image
    body: sitk.Image
    shown: sitk.Image


class Level(NamedTuple):
    """One descent: shrink factor, smoothing in mm, about how many points of the body are compared, the most steps, and what is left of a step where
    the gradient turns back."""

    shrink: int
    smooth_mm: float
    points: int
    steps: int = 80
    relaxation: float = 0.6


COARSE = Level(1, 2.0, 8_000)
MIDDLE = Level(2, 2.0, 20_000)
LONG = Level(2, 2.0, 20_000, 250, 0.9)  # the valley is long and narrow: steps that shrink quickly end on its slope, millimetres early
FINE = Level(1, 1.0, 60_000)


@dataclass(frozen=True, eq=False)
class Refined:
    """``matrix`` (4, 4) fixed to moving LPS and the mean distance in mm by which it moves the body, or ``matrix`` None and the reason."""

    matrix: FloatArray | None
    moved_mm: float
    failure: str = ""


def refine_linear(
    model: Model,
    starts: Sequence[FloatArray],
    fixed: Volume,
    moving: Volume,
    body_lps: FloatArray,
    farthest_mm: float,
    seed: int = 0,
    cancel: Event | None = None,
    believed: Callable[[FloatArray], bool] = lambda matrix: True,
) -> Refined:
    """Improve the first of ``starts`` (4, 4) by mutual information over the smaller of the two bodies; the others are second opinions.

    All of them, and turns and shifts of the first, compete on 8 mm voxels, the three best that differ on 4 mm; the best of all is followed there in
    many small steps, and to 2 mm.
    Points ``body_lps`` (N, 3) of the shared body bound the search and the result: what is more than ``farthest_mm`` on average away from every start,
    or changes a length by more than a quarter, is refused, and so is a map (4, 4) that is not ``believed`` for other reasons; where only the last level
    is not, the rigid map before it stands.
    """
    first, centre = starts[0], body_lps.mean(axis=0)
    upright = Volume(moving.array, Grid(moving.grid.shape_zyx, inverted(first) @ moving.grid.affine), moving.modality, moving.name)
    check(cancel)
    pairs = [(_prepared(fixed, mm), _prepared(upright, mm)) for mm in (COARSE_MM, FINE_MM)]
    # over the smaller body: it lies inside the other wherever it goes, so the answers compare like with like
    backwards = _size(pairs[0][1].body) < _size(pairs[0][0].body)
    coarse, fine = (pair[::-1] if backwards else pair for pair in pairs)
    opinions = [inverted(first) @ matrix for matrix in starts]
    if backwards:
        opinions = [inverted(matrix) for matrix in opinions]
    around = [matrix for matrix in _around(body_lps) if mean_distance(matrix, np.eye(4), body_lps) <= farthest_mm]
    best = [*opinions, *around]

    def whole(matrix: FloatArray) -> FloatArray:
        return first @ (inverted(matrix) if backwards else matrix)

    stages: tuple[tuple[Model, tuple[Prepared, Prepared], Level, int], ...]
    stages = (("rigid", coarse, COARSE, FINALISTS), ("rigid", fine, MIDDLE, 1), ("rigid", fine, LONG, 1), (model, fine, FINE, 1))
    before: list[tuple[float, FloatArray]] = []
    for stage, images, level, most in stages:
        found = [
            f for matrix in best if (f := _descend(stage, _unstretched(matrix, centre), centre, images, level, seed, cancel)) is not None
        ]
        if level is LONG:
            found += before  # many steps may lead off the body: where they began competes with where they end
        if not found:
            return Refined(None, 0.0, "the scans overlap too little for their intensities to be compared")
        ranked = [matrix for _, matrix in sorted(found, key=lambda f: -f[0])]
        within = [matrix for matrix in ranked if not _out_of_bounds(matrix, opinions, body_lps, farthest_mm)]
        trusted = [matrix for matrix in within if believed(whole(matrix))]
        allowed = within if level is COARSE else trusted  # what is still rough is judged later, but the best that is believed stays
        if level is FINE and within and not allowed:
            break  # what was believed before stays
        if not allowed:
            reason = _out_of_bounds(ranked[0], opinions, body_lps, farthest_mm)
            return Refined(None, 0.0, reason or "the intensities lead to where next to no keypoint agrees")
        best = [allowed[n] for n in distinct(allowed, body_lps, DISTINCT_MM, most)]
        before = [f for f in found if f[1] is best[0]]
        if level is COARSE:
            best += [matrix for matrix in trusted[:1] if all(matrix is not other for other in best)]
    return Refined(whole(best[0]), mean_distance(best[0], np.eye(4), body_lps))


def _out_of_bounds(matrix: FloatArray, opinions: list[FloatArray], body_lps: FloatArray, farthest_mm: float) -> str:
    """Why a refined map cannot be believed, else empty."""
    moved = min(mean_distance(matrix, opinion, body_lps) for opinion in opinions)
    stretch = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if moved > farthest_mm or stretch.max() > SCALE_LIMIT or stretch.min() < 1 / SCALE_LIMIT or np.linalg.det(matrix[:3, :3]) <= 0:
        return f"the intensities would move the body by {moved:.0f} mm and stretch it by {stretch.max():.2f}"
    return ""


def _size(mask: sitk.Image) -> int:
    return int(sitk.GetArrayViewFromImage(mask).sum())


def _prepared(volume: Volume, spacing_mm: float) -> Prepared:
    modality = modality_of(volume)
    raw, grid = to_canonical(volume, modality, spacing_mm)
    everywhere = Volume(np.ones(volume.grid.shape_zyx, dtype=np.float32), volume.grid)
    shown = to_canonical(everywhere, "ct", spacing_mm)[0] > 0
    anatomy = anatomy_voxels(raw, modality, spacing_mm)
    mask = ndimage.binary_dilation(anatomy, iterations=round(MASK_MARGIN_MM / spacing_mm)) & shown
    mask = mask if mask.any() else shown
    low, high = CT_WINDOW_HU if modality == "ct" else np.percentile(raw[mask], MR_PERCENTILES)
    clipped = np.clip(raw, low, max(high, low + 1e-3))
    return Prepared(*(to_sitk(Volume(array, grid)) for array in (clipped, mask.astype(np.uint8), shown.astype(np.uint8))))


def _around(body_lps: FloatArray) -> list[FloatArray]:
    """Places to look from: turns by 25 degrees about each axis of the body, there and 50 and 100 mm along its longest one; shifts by 35 mm across it.

    A limb or a trunk looks much the same a little higher or lower and turned about itself, so the map is least certain in just these ways.
    """
    centre = body_lps.mean(axis=0)
    axes = np.linalg.svd(body_lps - centre, full_matrices=False)[2]
    turns = [np.zeros(3), *(sign * TURN_DEG * axis for axis in axes for sign in (1, -1))]
    ways = [(turn, shift * axes[0]) for shift in ALONG_MM for turn in turns][1:]
    ways += [(np.zeros(3), sign * SIDE_MM * axis) for axis in axes[1:] for sign in (1, -1)]
    starts = np.tile(np.eye(4), (len(ways), 1, 1))
    for matrix, (turn, shift) in zip(starts, ways, strict=True):
        matrix[:3, :3] = Rotation.from_rotvec(turn, degrees=True).as_matrix()
        matrix[:3, 3] = centre - matrix[:3, :3] @ centre + shift
    return list(starts)


def _unstretched(matrix: FloatArray, centre: FloatArray) -> FloatArray:
    """The rotation and shift (4, 4) that is equal to ``matrix`` at ``centre`` and, but for the stretch, around."""
    rigid = np.eye(4)
    rigid[:3, :3] = polar(matrix[:3, :3])[0]
    rigid[:3, 3] = apply(matrix, centre[None])[0] - rigid[:3, :3] @ centre
    return rigid


def _descend(
    model: Model,
    start: FloatArray,
    centre: FloatArray,
    images: tuple[Prepared, Prepared],
    level: Level,
    seed: int,
    cancel: Event | None,
) -> tuple[float, FloatArray] | None:
    """How well the images agree and the matrix (4, 4), after gradient descent from ``start`` at the resolution given; None where they do not meet.

    What is sought is the rest beyond ``start``, a turn about ``centre`` that begins at none: versors are ill behaved near half a turn. The agreement is
    the mutual information times the number of points it was taken over: a small overlap easily looks alike.
    """
    fixed, moving = images
    share = level.points * level.shrink**3 / max(1, _size(fixed.body))
    kinds: dict[Model, Any] = {"rigid": sitk.VersorRigid3DTransform, "similarity": sitk.Similarity3DTransform}
    transform = sitk.AffineTransform(3) if model == "affine" else kinds[model]()
    transform.SetCenter(centre.tolist())
    placed = sitk.AffineTransform(start[:3, :3].ravel().tolist(), start[:3, 3].tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(fixed.body)
    method.SetMetricMovingMask(moving.shown)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(min(1.0, share), seed=seed + 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([level.shrink])
    method.SetSmoothingSigmasPerLevel([level.smooth_mm])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsRegularStepGradientDescent(
        2.0, 0.01, level.steps, relaxationFactor=level.relaxation, gradientMagnitudeTolerance=1e-6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetMovingInitialTransform(placed)
    method.SetInitialTransform(transform, inPlace=True)
    method.AddCommand(sitk.sitkIterationEvent, lambda: method.StopRegistration() if cancel is not None and cancel.is_set() else None)
    try:
        method.Execute(fixed.image, moving.image)
        agreement = -float(method.GetMetricValue()) * method.GetMetricNumberOfValidPoints()
    except RuntimeError:  # all samples fall outside of the moving image
        return None
    if cancel is not None and cancel.is_set():
        raise Cancelled("Stopped on request.")
    matrix = np.eye(4)
    matrix[:3, 3] = transform.TransformPoint([0.0, 0.0, 0.0])
    matrix[:3, :3] = np.stack([np.array(transform.TransformPoint(unit)) - matrix[:3, 3] for unit in np.eye(3).tolist()], axis=1)
    return agreement, start @ matrix
