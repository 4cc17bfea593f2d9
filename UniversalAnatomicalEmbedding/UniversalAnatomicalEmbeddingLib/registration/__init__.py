"""Register two scans: matched keypoints or landmarks, robust linear map, dense field, refinement by
intensities, the transform and its files. No MRML node is known here; ``register`` is for two
embedded scans, ``register_landmarks`` for landmark pairs alone."""

from __future__ import annotations

from .landmarks import pair_landmarks, register_landmarks
from .register import Scan, register
from .result import NoCommonAnatomy, Registration, expected_error, outcome, support
from .transform import Transform, read_transform, write_transform

__all__ = [
    "NoCommonAnatomy",
    "Registration",
    "Scan",
    "Transform",
    "expected_error",
    "outcome",
    "pair_landmarks",
    "read_transform",
    "register",
    "register_landmarks",
    "support",
    "write_transform",
]
