"""Find points of one embedded scan in another, and say how far each answer can be trusted. Scans
are not read here and nothing is embedded; several matches become one map in registration."""

from __future__ import annotations

from .confidence import Calibration, Status
from .match import Match, match_points
from .searchable import Searchable

__all__ = ["Calibration", "Match", "Searchable", "Status", "match_points"]
