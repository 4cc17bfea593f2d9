"""Register two scans: matched keypoints or landmarks, robust linear map, dense field, refinement by
intensities, the transform and its files. No MRML node is known here; ``register_scans`` is for two
embedded scans, ``register_landmarks`` for landmark pairs alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.doors import open_door

if TYPE_CHECKING:
    from .landmarks import pair_landmarks, register_landmarks
    from .register import Scan, register_scans
    from .result import NoCommonAnatomy, Registration, expected_error, outcome, support
    from .transform import Transform, read_transform, write_transform

__all__, __getattr__ = open_door(__name__)
