"""The standard patient of the phantom and its tissues at given points."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume
from UniversalAnatomicalEmbeddingLib.phantom.patient import Patient, render

TORSO = np.array([(-190.0, -130, -300), (190, 120, 110)])


def standard_patient(contrast: float = 0.0) -> Patient:
    """The canonical anatomy itself."""
    return Patient(np.ones(3), np.eye(3), np.zeros(3), np.zeros((1, 3)), np.zeros((1, 3)), np.zeros(1), contrast=contrast)


def torso_grid(patient: Patient, spacing: float = 4.0) -> Grid:
    """An axial grid of cubic voxels around the patient's trunk."""
    corners = patient.to_patient([(x, y, z) for x in TORSO[:, 0] for y in TORSO[:, 1] for z in TORSO[:, 2]])
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = corners.min(axis=0)
    return Grid(tuple(np.ceil(np.ptp(corners, axis=0) / spacing).astype(int)[::-1]), affine)


def values_at(volume: Volume, points: np.ndarray) -> np.ndarray:
    """Trilinear intensities at LPS points (N, 3)."""
    return ndimage.map_coordinates(volume.array.astype(float), volume.grid.world_to_index(points).T, order=1, mode="nearest")


def probe(patient: Patient, points_canonical: list[tuple[float, float, float]], modality: str = "ct") -> np.ndarray:
    """Noise-free intensities at canonical points, each rendered as a scan of one voxel."""
    values = []
    for point in patient.to_patient(points_canonical):
        affine = np.eye(4)
        affine[:3, 3] = point
        values.append(float(render(patient, Grid((1, 1, 1), affine), modality, noise_seed=None).array[0, 0, 0]))
    return np.array(values)
