"""Small scans to measure on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from UniversalAnatomicalEmbeddingLib.images.volume import Volume, from_array


def small(name: str, seed: int = 0) -> Volume:
    texture = np.kron(np.random.default_rng(seed).normal(40, 60, (12, 12, 12)), np.ones((4, 4, 4))).clip(-150, 250)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-40, 10, 500]
    return replace(from_array(texture.astype(np.float32), affine, "ct"), name=name)
