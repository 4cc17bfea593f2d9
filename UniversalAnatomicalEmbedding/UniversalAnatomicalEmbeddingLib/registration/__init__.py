"""Register two scans: matched keypoints or landmarks, robust linear map, dense field, optional intensity refinement.

Entries: :func:`register` for two embedded scans (``Session.register`` embeds and calls it), :func:`register_landmarks` for landmark pairs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from numpy.typing import ArrayLike

from ..matching import Searchable
from ..options import RegisterOptions
from ..progress import Progress, silent
from ..volume import Volume
from .result import NoCommonAnatomy, Registration
from .transform import Transform, read_transform, write_transform

__all__ = ["NoCommonAnatomy", "Registration", "Scan", "Transform", "read_transform", "register", "register_landmarks", "write_transform"]


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan (its modality known) and its embedding."""

    volume: Volume
    searchable: Searchable


def register(
    fixed: Scan,
    moving: Scan,
    embed: Callable[[Volume], Searchable],
    options: RegisterOptions | None = None,
    progress: Progress = silent,
    cancel: Event | None = None,
) -> Registration:
    """Register ``moving`` to ``fixed`` from their embeddings.

    ``embed`` embeds a further volume with the same model (the moving scan turned upright, once a first answer shows it tilted). Raises
    :class:`NoCommonAnatomy` where the embeddings agree on too little, :class:`Cancelled` when ``cancel`` is set meanwhile.
    """
    raise NotImplementedError


def register_landmarks(
    fixed_lps: ArrayLike,
    moving_lps: ArrayLike,
    options: RegisterOptions | None = None,
    fixed: Volume | None = None,
    moving: Volume | None = None,
    progress: Progress = silent,
    cancel: Event | None = None,
) -> Registration:
    """Register from N landmark pairs (N, 3) LPS mm alone; all are trusted alike.

    ``fixed`` is needed for the deformable stage (thin-plate spline, on the field of view of this scan), both volumes for ``options.refine``. Needs 3
    pairs for rigid and similarity, 4 for affine and deformable, not on one line (plane): :class:`InputError` otherwise.
    """
    raise NotImplementedError
