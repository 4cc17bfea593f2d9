"""Made-up scans whose descriptors are a smooth code of the place in the body: perfect embeddings with known correspondence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from UniversalAnatomicalEmbeddingLib.embedding.embedding import Embedding
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume
from UniversalAnatomicalEmbeddingLib.matching import Searchable

FINE, COARSE = (2, 2, 2), (8, 8, 8)
Where = Callable[[np.ndarray], np.ndarray]


def motion(
    turn_deg: tuple[float, float, float], shift: tuple[float, float, float], centre: tuple[float, ...] = (0, 0, 0), scale: float = 1.0
) -> np.ndarray:
    """Matrix (4, 4): turn about ``centre``, stretch and shift."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix()
    matrix[:3, 3] = np.array(centre) - matrix[:3, :3] @ centre + shift
    return matrix


def carried(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The definition, written without the package."""
    return np.array([(matrix @ [*p, 1.0])[:3] for p in points])


def code(places: np.ndarray, channels: int, wavelength_mm: float, seed: int) -> np.ndarray:
    """Unit vectors (..., channels) that fall off smoothly with distance: random Fourier features."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(0, 2 * np.pi / wavelength_mm, (3, channels // 2))
    phase = (places @ waves).astype(np.float32)
    return np.concatenate([np.cos(phase), np.sin(phase)], axis=-1) / np.sqrt(channels / 2)


def ball(places: np.ndarray, radius: tuple[float, float, float] = (70.0, 50.0, 90.0)) -> np.ndarray:
    """Whether places (..., 3) of the body lie in the patient, an ellipsoid."""
    return ((places / radius) ** 2).sum(-1) < 1


def coded_scan(grid: Grid, to_body: Where, name: str = "scan", noise: float = 0.0, seed: int = 0, codes: int = 5) -> Searchable:
    """An embedded scan on an LPS ``grid`` of 2 mm voxels; ``to_body`` says which place of the body is at a point. Other ``codes``: another anatomy."""
    rng = np.random.default_rng(seed)
    maps, body = [], None
    for stride, channels, wavelength in ((FINE, 64, 120.0), (COARSE, 32, 400.0)):
        cells = grid.cells(stride)
        places = to_body(cells.index_to_world(np.argwhere(np.ones(cells.shape_zyx, dtype=bool)))).reshape(*cells.shape_zyx, 3)
        vectors = code(places, channels, wavelength, codes + channels)
        vectors = vectors + rng.normal(0, noise, vectors.shape) / np.sqrt(channels)
        maps.append((vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float16))
        body = ball(places) if body is None else body
    return Searchable(Embedding(maps[0], maps[1], body, body, grid, FINE, COARSE, 2, "coded", name))


def lps_grid(low: tuple[float, float, float], size_mm: tuple[float, float, float], spacing: float = 2.0) -> Grid:
    """An LPS grid of cubic voxels from ``low`` on, both in x, y, z."""
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = low
    return Grid(tuple(int(s / spacing) for s in size_mm[::-1]), affine)


def textured(grid: Grid, to_body: Where, modality: str = "ct", name: str = "scan") -> Volume:
    """A scan of the same body with soft structures; CT in HU, MR another, non-monotonous function of the same tissues."""
    points = np.array_split(np.argwhere(np.ones(grid.shape_zyx, dtype=bool)), max(1, int(np.prod(grid.shape_zyx)) // 100_000))
    values = []
    for part in points:
        places = to_body(grid.index_to_world(part))
        tissue = code(places, 24, 90.0, 3)[:, :6].sum(1) * 2
        ct = np.where(ball(places), 60 + 80 * tissue, -1000.0)
        mr = np.where(ball(places), 300 + 200 * np.sin(2 * tissue + 1), 0.0)
        values.append(ct if modality == "ct" else mr)
    return Volume(np.concatenate(values).reshape(grid.shape_zyx).astype(np.int16), grid, modality, name)
