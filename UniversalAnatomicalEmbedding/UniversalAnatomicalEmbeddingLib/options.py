"""Settings of the jobs, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .errors import InputError

Method = Literal["nn", "fixed-point"]


@dataclass(frozen=True)
class MatchOptions:
    """How points are matched.

    ``method``: "nn", the most similar cell near where the common anchors of both scans put it, or "fixed-point", a local map through anchors
    that return to themselves (UAE section 3.4). ``exact``: the plain rule instead, the most similar cell of the whole scan (SAM section 3.3).
    ``compat``: either method in the arithmetic of the published code, whole voxels and truncation included; for scans embedded so.
    Fixed points: anchors up to ``anchor_reach`` steps of ``anchor_spacing_mm`` away on each axis, kept when they return within
    ``return_mm`` and lie within ``anchor_mm`` of the query.
    """

    method: Method = "nn"
    exact: bool = False
    compat: bool = False
    anchor_reach: int = 2
    anchor_spacing_mm: float = 4.0
    return_mm: float = 4.0
    anchor_mm: float = 40.0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(f"Unknown matching method '{self.method}'; use {' or '.join(get_args(Method))}.")
