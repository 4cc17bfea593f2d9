"""A scan embedded once: the value with its maps and grids, how it is made tile by tile, and how it
is kept on disk. What is searched in it belongs to matching."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.doors import open_door

if TYPE_CHECKING:
    from .cache import Cache, default_folder
    from .embedding import Embedding, embed_image

__all__, __getattr__ = open_door(__name__)
