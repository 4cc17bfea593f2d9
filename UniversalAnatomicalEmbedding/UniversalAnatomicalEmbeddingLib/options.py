"""Settings of the jobs, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .system.errors import InputError

Method = Literal["nn", "fixed-point"]
Stage = Literal["rigid", "similarity", "affine", "deformable"]


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


@dataclass(frozen=True)
class RegisterOptions:
    """How two scans are registered.

    ``stage``: the last of the stages; "deformable" is a dense field on top of an affine map. ``refine``: improve the rigid, similarity or
    affine map by mutual information of the intensities, started at the embeddings' answer and bounded around it. ``inverse_consistent``: the
    deformable field is estimated both ways and averaged. ``keypoints``: points of the fixed body that are matched; ``seed``: of their choice and
    of all sampling, so that a run can be repeated. ``field_mm``: spacing of the deformable field.
    """

    stage: Stage = "affine"
    refine: bool = False
    inverse_consistent: bool = False
    keypoints: int = 2000
    seed: int = 0
    field_mm: float = 8.0

    def __post_init__(self) -> None:
        if self.stage not in get_args(Stage):
            raise InputError(f"Unknown registration stage '{self.stage}'; use one of {', '.join(get_args(Stage))}.")
        if not 50 <= self.keypoints <= 20_000:
            raise InputError(f"{self.keypoints} keypoints were asked for; use 50 to 20000.")
        if not 2.0 <= self.field_mm <= 50.0:
            raise InputError(f"A field spacing of {self.field_mm} mm was asked for; use 2 to 50 mm.")
