"""The known-warp test: a scan against itself under a known smooth warp, with other spacing, other field of view and noise."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from UniversalAnatomicalEmbeddingLib.images import (
    Grid,
    Volume,
    anatomy_voxels,
    identify,
    to_canonical,
)

POINTS = 100
WARP_SD_MM = 6.0
WARP_NODES = 5
ROTATION_DEG = 6.0
SHIFT_MM = 25.0
SPACING_XYZ = (1.6, 1.4, 3.0)
KEPT_SHARE = 0.8
NOISE_SHARE = 0.02


class Warp:
    """A smooth map fixed -> warped patient space: rotation and shift about a centre plus a displacement on a 5x5x5 control lattice."""

    def __init__(self, grid: Grid, rng: np.random.Generator) -> None:
        low, high = grid.corners().min(0), grid.corners().max(0)
        self.centre, self.extent = (low + high) / 2, high - low
        angles = np.deg2rad(rng.uniform(-ROTATION_DEG, ROTATION_DEG, 3))
        self.rotation = _rotation(angles)
        self.shift = rng.uniform(-SHIFT_MM, SHIFT_MM, 3)
        nodes = rng.normal(0, WARP_SD_MM, (3, WARP_NODES, WARP_NODES, WARP_NODES))
        self.nodes = [ndimage.spline_filter(n, order=3) for n in nodes]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Where points (N, 3) LPS mm go."""
        lattice = ((points - self.centre) / self.extent + 0.5) * (WARP_NODES - 1)
        moved = [ndimage.map_coordinates(n, lattice.T, order=3, mode="nearest", prefilter=False) for n in self.nodes]
        return (points + np.stack(moved, 1) - self.centre) @ self.rotation.T + self.centre + self.shift

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """Fixed-point iteration to well under a micrometre."""
        straight = (points - self.centre - self.shift) @ self.rotation + self.centre
        guess = straight.copy()
        for _ in range(12):
            lattice = ((guess - self.centre) / self.extent + 0.5) * (WARP_NODES - 1)
            moved = [ndimage.map_coordinates(n, lattice.T, order=3, mode="nearest", prefilter=False) for n in self.nodes]
            guess = straight - np.stack(moved, 1)
        return guess


def warped_pair(volume: Volume, seed: int) -> tuple[Volume, np.ndarray, np.ndarray]:
    """The warped scan, 100 points (N, 3) of the anatomy of ``volume``, and their true places in the warped scan."""
    rng = np.random.default_rng(seed)
    volume = identify(volume).volume
    modality = volume.modality
    raw, grid = to_canonical(volume, modality)
    warp = Warp(grid, rng)
    target = _target_grid(grid, warp, rng)
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in target.shape_zyx), indexing="ij"), -1).reshape(-1, 3)
    source = np.concatenate([warp.inverse(target.index_to_world(part)) for part in np.array_split(voxels, max(1, len(voxels) // 200_000))])
    outside = -1024.0 if modality == "ct" else float(raw.min())
    image = ndimage.map_coordinates(raw, grid.world_to_index(source).T, order=1, mode="constant", cval=outside).reshape(target.shape_zyx)
    image = image + rng.normal(0, NOISE_SHARE * 1000 if modality == "ct" else NOISE_SHARE * np.percentile(raw, 99), image.shape)
    cells = np.argwhere(anatomy_voxels(raw, modality, float(grid.spacing_xyz[0])))
    points = grid.index_to_world(
        cells[rng.permutation(len(cells))[: 40 * POINTS]] + rng.uniform(-0.5, 0.5, (min(len(cells), 40 * POINTS), 3))
    )
    truth = warp(points)
    inside = target.contains(truth) & target.contains(truth + 4) & target.contains(truth - 4)
    return Volume(image.astype(np.float32), target, modality, volume.name), points[inside][:POINTS], truth[inside][:POINTS]


def _target_grid(grid: Grid, warp: Warp, rng: np.random.Generator) -> Grid:
    """A field of view over 80 % of the warped scan on each axis, with its own spacing."""
    corners = warp(grid.corners())
    low, high = corners.min(0), corners.max(0)
    size = (high - low) * KEPT_SHARE
    start = low + rng.uniform(0, 1, 3) * (high - low - size)
    affine = np.diag([*SPACING_XYZ, 1.0])
    affine[:3, 3] = start
    return Grid(tuple(np.ceil(size / SPACING_XYZ).astype(int)[::-1]), affine)


def _rotation(angles: np.ndarray) -> np.ndarray:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rz @ ry @ rx
