"""A small grid and label maps on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume, write_volume

GRID = Grid((6, 7, 8), np.diag([2.0, 2.0, 2.0, 1.0]))


def labels_of(path: Path, array: np.ndarray, grid: Grid = GRID) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(Volume(array.astype(np.uint16), grid), path)
    return path
