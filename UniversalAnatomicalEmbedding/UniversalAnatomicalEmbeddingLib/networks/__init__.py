"""Networks that give every voxel a unit vector saying where in the body it is: tensors in, maps
out. They know neither files nor scans nor models, only torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.doors import open_door

if TYPE_CHECKING:
    from .compact import Compact
    from .embedder import Embedder
    from .fold import fold_batch_norm

__all__, __getattr__ = open_door(__name__)
