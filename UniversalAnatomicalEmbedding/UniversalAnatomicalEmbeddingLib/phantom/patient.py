"""Procedural torso "patients" with exactly known correspondence: scans to demonstrate and to test with when no data is at hand.

A patient is the canonical anatomy of ``anatomy.py`` under a smooth invertible map. The same canonical point is the same
anatomical place in every patient, so patient A -> canonical -> patient B is the truth for matching and registration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

from ..images.grid import FloatArray, Grid
from ..images.volume import Modality, Volume
from ..system.errors import InputError
from .anatomy import LANDMARKS, MATERIALS, MEDIASTINUM_CREASE_MM, anatomy, diaphragm_height, lung_distance, mediastinum
from .shapes import FAR, Part, Structure, smooth_min
from .skeleton import cage_distance

Image = NDArray[np.float32]
Box = tuple[slice, slice, slice]
Landmarks = list[tuple[str, FloatArray]]

EDGE_MM = 1.8  # width of the ramp at a tissue border: the resolution of the scanner
STEEPEST = 0.5  # the displacement's Lipschitz constant stays below this: no folding, and the inverse iteration contracts
SLAB_VOXELS = 1_000_000
LATTICE_MM = 10.0
TEXTURE_MM = 2.5


@dataclass(frozen=True, eq=False)
class Patient:
    """One patient: ``lps = rotation @ (scale * (p + sum_k amplitudes_k sin(waves_k . p + phases_k))) + translation`` for canonical p.

    ``scale`` (3,), ``rotation`` (3, 3), ``translation`` (3,) mm, ``waves`` (K, 3) rad/mm, ``amplitudes`` (K, 3) mm, ``phases`` (K,) rad;
    ``fat_mm`` thickness of the subcutaneous fat, ``contrast`` 0 (none) to 1 (arterial and venous enhancement), ``seed`` of small
    differences in tissue intensity. InputError where the displacement could fold.
    """

    scale: FloatArray
    rotation: FloatArray
    translation: FloatArray
    waves: FloatArray
    amplitudes: FloatArray
    phases: FloatArray
    fat_mm: float = 12.0
    contrast: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        steepness = float((np.linalg.norm(self.amplitudes, axis=1) * np.linalg.norm(self.waves, axis=1)).sum())
        if not steepness < STEEPEST:
            raise InputError(f"The displacement has steepness {steepness:.2f} and could fold; keep it below {STEEPEST}.")

    def _displacement(self, points: FloatArray) -> FloatArray:
        return np.sin(points @ self.waves.T + self.phases) @ self.amplitudes

    def to_patient(self, points_canonical: ArrayLike) -> FloatArray:
        """Canonical points (N, 3) in mm to this patient's LPS mm (N, 3)."""
        points = np.asarray(points_canonical, dtype=np.float64).reshape(-1, 3)
        return ((points + self._displacement(points)) * self.scale) @ self.rotation.T + self.translation

    def to_canonical(self, points_lps: ArrayLike) -> FloatArray:
        """LPS mm (N, 3) of this patient to canonical points (N, 3); the inverse of ``to_patient`` to better than 1e-6 mm."""
        goal = ((np.asarray(points_lps, dtype=np.float64).reshape(-1, 3) - self.translation) @ self.rotation) / self.scale
        points = goal
        for _ in range(60):
            previous, points = points, goal - self._displacement(points)
            if np.abs(points - previous).max(initial=0) < 1e-8:
                break
        return points


def make_patient(seed: int) -> Patient:
    """A random but plausible patient: size within a tenth, pose, body shape, fat, contrast agent; equal seeds give equal patients."""
    rng = np.random.default_rng(seed)
    count, steepness = 6, 0.36
    directions = rng.normal(size=(2, count, 3))
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    lengths = rng.uniform(240, 620, count)
    share = rng.dirichlet(np.full(count, 4.0)) * steepness
    return Patient(
        scale=rng.uniform(0.93, 1.07) * rng.uniform(0.96, 1.05, 3),
        rotation=Rotation.from_euler("zyx", rng.normal(0, 3, 3), degrees=True).as_matrix(),
        translation=rng.uniform((-25, -160, -400), (25, 60, 300)),
        waves=directions[0] * (2 * np.pi / lengths)[:, None],
        amplitudes=directions[1] * (share * lengths / (2 * np.pi))[:, None],
        phases=rng.uniform(0, 2 * np.pi, count),
        fat_mm=float(rng.uniform(6, 18)),
        contrast=float(rng.choice([0.0, 0.0, rng.uniform(0.5, 1.0)])),
        seed=seed,
    )


def landmarks(patient: Patient) -> Landmarks:
    """Name and LPS mm position (3,) of every landmark of ``anatomy.LANDMARKS`` in this patient, exact."""
    return list(zip(LANDMARKS, patient.to_patient(list(LANDMARKS.values())), strict=True))


def render(patient: Patient, grid: Grid, modality: Modality = "ct", noise_seed: int | None = 0, slice_samples: int | None = None) -> Volume:
    """Scan a patient on any grid: CT in HU, or T1-like MR of arbitrary units with a bias field; int16 ``(Z, Y, X)``.

    The tissue at a voxel's centre, with edges as sharp as a scanner's (1.8 mm). ``slice_samples`` positions are averaged along the
    coarsest index axis; None: as many as make thick slices blur as they do in a scanner, one for nearly isotropic voxels.
    ``noise_seed`` None: no noise and no bias field. InputError for other modalities.
    """
    if modality not in ("ct", "mr"):
        raise InputError(f"The phantom can be scanned as ct or mr, not as '{modality}'.")
    spacing = grid.spacing_zyx
    axis = int(np.argmax(spacing))
    samples = slice_samples or (round(spacing[axis] / 2) if spacing[axis] > 1.5 * spacing.min() else 1)
    boxes = _part_boxes(patient, grid)
    image = np.zeros(grid.shape_zyx, dtype=np.float32)
    thickness = max(SLAB_VOXELS // (grid.shape_zyx[1] * grid.shape_zyx[2]), 1)
    for first in range(0, grid.shape_zyx[0], thickness):
        depth = min(thickness, grid.shape_zyx[0] - first)
        for k in range(samples):
            start = np.array([first, 0, 0], dtype=float)
            start[axis] += (k + 0.5) / samples - 0.5
            part = grid.cropped(start, (depth, *grid.shape_zyx[1:]))
            image[first : first + depth] += _Slab(patient, part, modality, boxes - np.array([first, 0, 0])).painted() / samples
    if noise_seed is not None:
        image = _scanner(image, modality, noise_seed)
    return Volume(np.rint(image).astype(np.int16), grid, modality, f"phantom_{patient.seed}_{modality}")


def canonical_coordinates(patient: Patient, grid: Grid) -> tuple[Image, Image, Image]:
    """Canonical x, y, z (mm) of every voxel centre, each ``(Z, Y, X)``: ``to_canonical`` on a coarse lattice, cubic splines between."""
    nodes, weights = [], []
    for count, spacing in zip(grid.shape_zyx, grid.spacing_zyx, strict=True):
        knots = np.linspace(0, count - 1, min(count, 4 + int(np.ceil(count * spacing / LATTICE_MM))))
        nodes.append(knots)
        weights.append(CubicSpline(knots, np.eye(len(knots)))(np.arange(count)) if count > 1 else np.ones((1, 1)))
    lattice = np.stack(np.meshgrid(*nodes, indexing="ij"), axis=-1)
    values = patient.to_canonical(grid.index_to_world(lattice)).reshape(lattice.shape)
    fine = np.einsum("zi,yj,ijkc->czyk", weights[0], weights[1], values, optimize=True)
    rows = np.ascontiguousarray(fine, dtype=np.float32).reshape(-1, len(nodes[2]))
    x, y, z = (rows @ weights[2].T.astype(np.float32)).reshape(3, *grid.shape_zyx)
    return x, y, z


@lru_cache(maxsize=1)
def _parts() -> tuple[list[list[int]], list[Part], FloatArray, FloatArray, list[int]]:
    """For every structure (and last the mediastinum) the numbers of its parts; all parts, their hulls, reach (mm) and hull starts."""
    groups = [(s.parts, s.blend) for s in anatomy()] + [(mediastinum(), MEDIASTINUM_CREASE_MM)]
    parts: list[Part] = []
    numbers, hulls, reach, starts = [], [], [], [0]
    for members, blend in groups:
        numbers.append(list(range(len(parts), len(parts) + len(members))))
        for part in members:
            points, radius = part.hull()
            parts.append(part)
            hulls.append(points)
            reach.append(radius + blend + EDGE_MM + 2)
            starts.append(starts[-1] + len(points))
    return numbers, parts, np.vstack(hulls), np.array(reach), starts[:-1]


def _part_boxes(patient: Patient, grid: Grid) -> NDArray[np.int64]:
    """First and one-past-last index (z, y, x) of the voxels that each part can reach: ``(parts, 2, 3)``, not cut to the grid."""
    _, _, hulls, reach, starts = _parts()
    index = grid.world_to_index(patient.to_patient(hulls))
    low, high = np.minimum.reduceat(index, starts), np.maximum.reduceat(index, starts)
    per_mm = np.linalg.norm(np.linalg.inv(grid.affine[:3, :3]), axis=1)[::-1]
    pad = np.outer(reach * (1 + STEEPEST / 2) * patient.scale.max(), per_mm) + 1
    return np.stack([np.floor(low - pad), np.ceil(high + pad) + 1], axis=1).astype(np.int64)


class _Slab:
    """A piece of the grid on which the structures are painted one after the other."""

    def __init__(self, patient: Patient, grid: Grid, modality: Modality, boxes: NDArray[np.int64]) -> None:
        self.shape = grid.shape_zyx
        self.x, self.y, self.z = canonical_coordinates(patient, grid)
        self.boxes = np.clip(boxes, 0, self.shape)
        self.numbers, self.parts = _parts()[:2]
        self.tissue = _tissues(patient, modality)
        self.texture = _texture_at(self.x, self.y, self.z)
        self.fat_mm = patient.fat_mm
        cage, dome = cage_distance(self.x, self.y, self.z), self.z - diaphragm_height(self.x, self.y)
        middle = np.full(self.shape, FAR, dtype=np.float32)
        self._unite(self.numbers[-1], MEDIASTINUM_CREASE_MM, middle, (slice(None),) * 3)
        self.fields = {"cage": cage, "dome": dome, "dome_shell": np.abs(dome + 2), "level": self.y}
        self.fields["lung"] = lung_distance(self.x, self.y, self.z, cage, dome, middle)

    def painted(self) -> Image:
        """Noise-free intensities ``(Z, Y, X)``."""
        image = np.full(self.shape, self.tissue["air"][0], dtype=np.float32)
        for structure, numbers in zip(anatomy(), self.numbers[:-1], strict=True):
            box = self._box(structure, numbers)
            if box is None:
                continue
            distance = np.full(self.x[box].shape, FAR, dtype=np.float32)
            self._unite(numbers, 0.0 if structure.base else structure.blend, distance, box)
            if structure.base:
                distance = smooth_min(distance, self.fields[structure.base[0]][box] - np.float32(structure.base[1]), structure.blend)
            if structure.name == "body":
                self.fields["body"] = distance = distance - self.fat_mm
            for name, sign, limit in structure.clip:
                np.maximum(distance, sign * self.fields[name][box] - limit, out=distance)
            self._paint(image, structure, distance, box)
        return image

    def _box(self, structure: Structure, numbers: list[int]) -> Box | None:
        if structure.base:
            return (slice(None),) * 3
        low, high = self.boxes[numbers, 0], self.boxes[numbers, 1]
        there = (low < high).all(axis=1)
        return _slices(low[there].min(axis=0), high[there].max(axis=0)) if there.any() else None

    def _unite(self, numbers: list[int], blend: float, distance: Image, box: Box) -> None:
        """Lower ``distance``, which covers ``box``, to that of the parts, in place."""
        origin = np.array([part.start or 0 for part in box])
        low, high = self.boxes[numbers, 0], self.boxes[numbers, 1]
        for k in np.flatnonzero((low < high).all(axis=1)):
            number, here, there = numbers[k], _slices(low[k], high[k]), _slices(low[k] - origin, high[k] - origin)
            distance[there] = smooth_min(distance[there], self.parts[number].distance(self.x[here], self.y[here], self.z[here]), blend)

    def _paint(self, image: Image, structure: Structure, distance: Image, box: Box) -> None:
        level, texture = self.tissue[structure.material]
        value = level + texture * self.texture[box]
        if structure.slope_y:
            value += structure.slope_y * self.y[box]
        if structure.rind:
            rind, coarse = self.tissue[structure.rind]
            outer = rind + 0.5 * coarse * self.texture[box]
            value = outer + np.clip(0.5 - (distance + structure.rind_mm) / EDGE_MM, 0, 1) * (value - outer)
        image[box] += np.clip(0.5 - distance / EDGE_MM, 0, 1) * (value - image[box])


def _slices(low: NDArray[np.int64], high: NDArray[np.int64]) -> Box:
    return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])


def _tissues(patient: Patient, modality: Modality) -> dict[str, tuple[float, float]]:
    """Mean intensity and texture amplitude of every material in this patient."""
    rng = np.random.default_rng([patient.seed, 77])
    tissues = {}
    for name, m in MATERIALS.items():
        vary = float(rng.normal())
        if modality == "ct":
            tissues[name] = m.hu + m.enhancement * patient.contrast + 0.25 * m.texture * vary, m.texture
        else:
            tissues[name] = m.mr * (1 + 0.04 * vary), 0.05 * m.mr + 0.1 * m.texture
    return tissues


@lru_cache(maxsize=1)
def _texture_tile() -> Image:
    """Periodic correlated noise of unit variance on a lattice of TEXTURE_MM: fixed in canonical anatomy."""
    white = np.random.default_rng(3).normal(size=(2, 80, 80, 80))
    octaves = [ndimage.gaussian_filter(part, sigma, mode="wrap") for part, sigma in zip(white, (0.8, 2.5), strict=True)]
    mixed = sum(part / part.std() for part in octaves)
    return (mixed / mixed.std()).astype(np.float32)


def _texture_at(x: Image, y: Image, z: Image) -> Image:
    return ndimage.map_coordinates(_texture_tile(), [v / TEXTURE_MM for v in (z, y, x)], order=1, mode="grid-wrap", prefilter=False)


def _scanner(image: Image, modality: Modality, noise_seed: int) -> Image:
    """Add correlated noise (CT), or the coil's bias field and noise of the magnitude (MR)."""
    rng = np.random.default_rng([noise_seed, 1])
    if modality == "ct":
        noise = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), (0, 0.6, 0.6))
        return np.clip(image + 13 / max(float(noise.std()), 1e-3) * noise, -1024, 3071)
    points = [
        np.linspace(-1, 1, n, dtype=np.float32).reshape([-1 if k == axis else 1 for k in range(3)]) for axis, n in enumerate(image.shape)
    ]
    tilt = rng.normal(0, 0.12, 3)
    bias = np.exp(sum(float(t) * p - 0.18 * p * p for t, p in zip(tilt, points, strict=True)) + 0.15)
    return np.hypot(
        image * bias + 12 * rng.standard_normal(image.shape, dtype=np.float32), 12 * rng.standard_normal(image.shape, dtype=np.float32)
    )


class DemoPair(NamedTuple):
    """Two patients to match: all template landmarks, the target's true ones inside its field of view, the names of the others."""

    template: Volume
    template_landmarks: Landmarks
    target: Volume
    target_landmarks: Landmarks
    absent: list[str]


def demo_pair(seed: int = 0, coarsening: float = 1.0) -> DemoPair:
    """A template (chest and upper abdomen, 1.2 x 1.2 x 2.5 mm, contrast) and another patient's target scan (1.7 x 1.7 x 4 mm, none).

    The target ends in the upper abdomen: the kidneys' lower poles and what else lies below are absent.
    ``coarsening`` multiplies the spacings: 2 gives a quick, small pair.
    """
    first = replace(make_patient(2 * seed + 1000), contrast=0.9)
    second = replace(make_patient(2 * seed + 1001), contrast=0.0)
    template = render(first, _field_of_view(first, coarsening * np.array([1.2, 1.2, 2.5]), 112, -290), "ct", seed)
    target = render(second, _field_of_view(second, coarsening * np.array([1.7, 1.7, 4.0]), 108, -190), "ct", seed + 1)
    truth = landmarks(second)
    inside = target.grid.contains([point for _, point in truth])
    present = [pair for pair, here in zip(truth, inside, strict=True) if here]
    return DemoPair(template, landmarks(first), target, present, [name for (name, _), here in zip(truth, inside, strict=True) if not here])


def _field_of_view(patient: Patient, spacing_xyz: FloatArray, top: float, bottom: float) -> Grid:
    """The axial grid around the trunk between two canonical heights (mm)."""
    box = patient.to_patient([(x, y, z) for x in (-185, 0, 185) for y in (-135, 0, 120) for z in (bottom, (bottom + top) / 2, top)])
    middle = patient.to_patient([(0, 0, bottom), (0, 0, top)])
    low, high = box.min(axis=0), box.max(axis=0)
    low[2], high[2] = middle[:, 2]
    affine = np.diag([*spacing_xyz, 1.0])
    affine[:3, 3] = low
    return Grid(tuple(np.ceil((high - low) / spacing_xyz).astype(int)[::-1]), affine)
