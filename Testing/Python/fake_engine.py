"""An engine whose answers are known: what it finds is the template's point plus a shift, in the frame of the scans."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

SHIFT = np.array([5.0, -7.0, 11.0])


class FakeEngine:
    """Searchables are the volumes themselves. ``absent`` and ``unsure`` say which template points are so, by a test on the point."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.warmed: list[tuple[str, str]] = []
        self.absent = lambda point: False
        self.unsure = lambda point: False

    def match(self, template: Any, points_lps: Any, target: Any) -> list[Any]:
        points = np.asarray(points_lps, dtype=float).reshape(-1, 3)
        self.calls.append(len(points))
        if not template.grid.contains(points).all():
            raise InputError("Point 1 lies outside the patient in the template; place it inside the scan.")
        return [self._one(p) for p in points]

    def warm(self, template: Any, target: Any) -> None:
        self.warmed.append((template.name, target.name))

    def similarity(self, template: Any, point_lps: Any, target: Any) -> tuple[np.ndarray, Grid]:
        grid = target.grid.cells((2, 2, 2))
        distance = np.linalg.norm(grid.index_to_world(np.argwhere(np.ones(grid.shape_zyx))) - (point_lps + SHIFT), axis=1)
        return np.exp(-distance / 20).reshape(grid.shape_zyx).astype(np.float32), grid

    def _one(self, point: np.ndarray) -> Any:
        if self.absent(point):
            return SimpleNamespace(point_lps=point, confidence=0.05, status="absent", note="")
        status = "uncertain" if self.unsure(point) else "found"
        return SimpleNamespace(point_lps=point + SHIFT, confidence=0.3 if status == "uncertain" else math.nan, status=status, note="")
