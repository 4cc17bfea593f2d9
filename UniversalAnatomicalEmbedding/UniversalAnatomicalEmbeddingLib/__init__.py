"""Universal Anatomical Embedding: find the same anatomy in other scans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .system.doors import open_door
from .system.version import VERSION

if TYPE_CHECKING:
    from .images import Grid, Volume, read_volume
    from .landmarks import Point, PointList, read_points, write_points
    from .options import MatchOptions, RegisterOptions
    from .registration import write_transform
    from .session import Session
    from .system import InputError

__all__, __getattr__ = open_door(__name__)
__version__ = VERSION

# A room or file imports only from those before it in this list, and files of one room from each other.
ROOMS = (
    "system",
    "networks",
    "images",
    "landmarks",
    "options",
    "models",
    "phantom",
    "embedding",
    "matching",
    "registration",
    "session",
    "mrml",
    "report",
    "worker",
    "workbench",
    "commands",
)
