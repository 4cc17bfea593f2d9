"""Places of the same anatomy in pairs of scans of different patients, and the file that keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from UniversalAnatomicalEmbeddingLib.system import write_atomically

CommonPoints = dict[tuple[str, str], Tensor]
"""(fixed scan, moving scan) -> (N, 6) float32: continuous voxel index z, y, x in the fixed scan, then in the moving one."""


def write_common_points(path: Path, points: CommonPoints) -> None:
    """Write all pairs into one ``.npz`` file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as staged, staged.open("wb") as file:
        np.savez_compressed(
            file,
            names=np.array(list(points), dtype=str).reshape(-1, 2),
            counts=[len(rows) for rows in points.values()],
            rows=torch.cat([*points.values(), torch.empty(0, 6)]).numpy(),
        )


def read_common_points(path: Path) -> CommonPoints:
    """The pairs of a file of :func:`write_common_points`."""
    with np.load(path) as table:
        parts = torch.from_numpy(table["rows"]).split(table["counts"].tolist())
        return {(str(a), str(b)): rows for (a, b), rows in zip(table["names"], parts, strict=True)}


def both_ways(points: CommonPoints, names: list[str]) -> dict[tuple[int, int], Tensor]:
    """The pairs by the numbers of their scans in ``names``, each also with fixed and moving exchanged; scans that are not listed are left out."""
    number = {name: i for i, name in enumerate(names)}
    known = {(number[a], number[b]): rows for (a, b), rows in points.items() if a in number and b in number}
    return known | {(b, a): rows.roll(3, dims=1) for (a, b), rows in known.items()}
