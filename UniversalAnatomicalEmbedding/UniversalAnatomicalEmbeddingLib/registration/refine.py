"""Intensity refinement of a linear map: mutual information (Mattes et al. 2003) in SimpleITK, started at the map and bounded around it."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..geometry import FloatArray, Grid
from ..preprocess import body_mask, to_canonical
from ..progress import Cancelled, check
from ..volume import Modality, Volume, guess_modality, to_sitk
from .linear import Model, apply

COARSE_MM, FINE_MM = 8.0, 2.0
CT_WINDOW_HU = (-250.0, 550.0)
MR_PERCENTILES = (0.5, 99.5)
MASK_MARGIN_MM = 8.0
BINS = 32
TURNS_DEG = (12.0, 25.0)
SHIFTS_MM = 35.0
FINALISTS = 3
FARTHEST_MM = 60.0
SCALE_LIMIT = 1.25


Prepared = tuple[sitk.Image, sitk.Image]


class Levels(NamedTuple):
    """Resolutions of one descent: shrink factors, smoothing in mm, share of the voxels that is sampled."""

    shrink: list[int]
    smooth_mm: list[float]
    sampled: list[float]


COARSE = Levels([1], [2.0], [1.0])
MIDDLE = Levels([2], [2.0], [0.5])
FINE = Levels([1], [1.0], [0.2])


@dataclass(frozen=True, eq=False)
class Refined:
    """``matrix`` (4, 4) fixed to moving LPS and the mean distance in mm by which it moves the body, or ``matrix`` None and the reason."""

    matrix: FloatArray | None
    moved_mm: float
    failure: str = ""


def refine_linear(
    model: Model, start: FloatArray, fixed: Volume, moving: Volume, body_lps: FloatArray, seed: int = 0, cancel: Event | None = None
) -> Refined:
    """Improve ``start`` (4, 4) by mutual information over the smaller of the two bodies.

    The start, turns and shifts of it compete on 8 mm voxels, the three best on 4 mm, the best of all is followed to 2 mm. Points ``body_lps`` (N, 3) of the
    shared body bound the result: where it moves them by more than 60 mm on average, or changes a length by more than a quarter, it is refused.
    """
    upright = Volume(moving.array, Grid(moving.grid.shape_zyx, np.linalg.inv(start) @ moving.grid.affine), moving.modality, moving.name)
    centre = body_lps.mean(axis=0)
    check(cancel)
    try:
        coarse, backwards = _smaller_first(_prepared(fixed, COARSE_MM), _prepared(upright, COARSE_MM))
        tried = _within([_descend(_initial("rigid", turn, centre), coarse, COARSE, seed, cancel) for turn in _starts(centre)], body_lps)
        fine = (
            (_prepared(upright, FINE_MM), _prepared(fixed, FINE_MM))
            if backwards
            else (_prepared(fixed, FINE_MM), _prepared(upright, FINE_MM))
        )
        tried = _within(
            [_descend(_initial("rigid", matrix, centre), fine, MIDDLE, seed, cancel) for _, matrix in tried[:FINALISTS]], body_lps
        )
        if not tried:
            return Refined(None, 0.0, f"the intensities would move the body by more than {FARTHEST_MM:.0f} mm")
        found = _descend(_initial(model, tried[0][1], centre), fine, FINE, seed, cancel)[1]
    except RuntimeError as error:
        return Refined(None, 0.0, f"the intensities overlap too little to be compared ({str(error).strip().splitlines()[-1]})")
    moved = _distance(found, body_lps)
    stretch = np.linalg.svd(found[:3, :3], compute_uv=False)
    if moved > FARTHEST_MM or stretch.max() > SCALE_LIMIT or stretch.min() < 1 / SCALE_LIMIT or np.linalg.det(found[:3, :3]) <= 0:
        return Refined(None, moved, f"the intensities would move the body by {moved:.0f} mm and stretch it by {stretch.max():.2f}")
    return Refined(start @ (np.linalg.inv(found) if backwards else found), moved)


def _smaller_first(fixed: Prepared, moving: Prepared) -> tuple[tuple[Prepared, Prepared], bool]:
    """The images, the one with the smaller body first, and whether that is the moving one.

    Mutual information is taken over the first body. The smaller one lies inside the other wherever it goes, so the answers compare like with like.
    """
    backwards = sitk.GetArrayViewFromImage(moving[1]).sum() < sitk.GetArrayViewFromImage(fixed[1]).sum()
    return ((moving, fixed) if backwards else (fixed, moving)), bool(backwards)


def _within(tried: list[tuple[float, FloatArray]], body_lps: FloatArray) -> list[tuple[float, FloatArray]]:
    """The candidates (minus mutual information, matrix) that stay within bounds, best first."""
    return sorted((t for t in tried if _distance(t[1], body_lps) <= FARTHEST_MM), key=lambda t: t[0])


def _distance(matrix: FloatArray, body_lps: FloatArray) -> float:
    return float(np.linalg.norm(apply(matrix, body_lps) - body_lps, axis=1).mean())


def _prepared(volume: Volume, spacing_mm: float) -> tuple[sitk.Image, sitk.Image]:
    """The scan on cubic LPS voxels, its intensities clipped to what tells tissues apart, and the mask of the body with its skin."""
    modality: Modality = volume.modality or guess_modality(volume.array)
    raw, grid = to_canonical(volume, modality, spacing_mm)
    mask = ndimage.binary_dilation(body_mask(raw, modality, spacing_mm), iterations=round(MASK_MARGIN_MM / spacing_mm))
    low, high = CT_WINDOW_HU if modality == "ct" else np.percentile(raw[mask] if mask.any() else raw, MR_PERCENTILES)
    image = to_sitk(Volume(np.clip(raw, low, max(high, low + 1e-3)), grid))
    inside = to_sitk(Volume((mask if mask.any() else ~mask).astype(np.uint8), grid))
    return image, inside


def _starts(centre: FloatArray) -> list[FloatArray]:
    """The identity, turns by 12 and 25 degrees about each axis around the centre of the body, and shifts by 35 mm along each, all both ways."""
    both_ways = [sign * axis for axis in np.eye(3) for sign in (1, -1)]
    starts = [np.eye(4)]
    for vector in [degrees * way for degrees in TURNS_DEG for way in both_ways]:
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_rotvec(vector, degrees=True).as_matrix()
        matrix[:3, 3] = centre - matrix[:3, :3] @ centre
        starts.append(matrix)
    for way in both_ways:
        matrix = np.eye(4)
        matrix[:3, 3] = SHIFTS_MM * way
        starts.append(matrix)
    return starts


def _initial(model: Model, matrix: FloatArray, centre: FloatArray) -> sitk.Transform:
    """An optimisable ITK transform of the model, equal to the rigid ``matrix``, turning about ``centre``."""
    if model == "affine":
        transform: Any = sitk.AffineTransform(3)
    else:
        transform = sitk.VersorRigid3DTransform() if model == "rigid" else sitk.Similarity3DTransform()
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation((apply(matrix, centre[None])[0] - centre).tolist())
    return transform


def _descend(
    transform: Any, images: tuple[Prepared, Prepared], levels: Levels, seed: int, cancel: Event | None
) -> tuple[float, FloatArray]:
    """Minus mutual information and matrix (4, 4) after gradient descent over the resolutions given."""
    (fixed, inside), (moving, _) = images
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(inside)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentagePerLevel(levels.sampled, seed=seed + 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(levels.shrink)
    method.SetSmoothingSigmasPerLevel(levels.smooth_mm)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.01, 80, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    method.AddCommand(sitk.sitkIterationEvent, lambda: method.StopRegistration() if cancel is not None and cancel.is_set() else None)
    method.Execute(fixed, moving)
    if cancel is not None and cancel.is_set():
        raise Cancelled("Stopped on request.")
    matrix = np.eye(4)
    matrix[:3, 3] = transform.TransformPoint([0.0, 0.0, 0.0])
    matrix[:3, :3] = np.stack([np.array(transform.TransformPoint(unit)) - matrix[:3, 3] for unit in np.eye(3).tolist()], axis=1)
    return float(method.GetMetricValue()), matrix
