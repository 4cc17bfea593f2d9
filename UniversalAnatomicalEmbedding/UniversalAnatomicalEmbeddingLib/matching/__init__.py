"""Find points of one embedded scan in another, and say how far each answer can be trusted. Scans
are not read here and nothing is embedded; several matches become one map in registration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.doors import open_door

if TYPE_CHECKING:
    from .confidence import FEATURES, Calibration, Evidence, Status, probability
    from .guide import build_guide
    from .match import Match, match_points
    from .nearest import find_peaks
    from .searchable import Searchable

__all__, __getattr__ = open_door(__name__)
