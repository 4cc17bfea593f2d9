"""Labelled points in LPS millimetres with their files, and the table of landmarks against target
volumes. Voxels, models and MRML nodes are not known here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.doors import open_door

if TYPE_CHECKING:
    from .points import Point, PointList, read_points, write_points
    from .table import Cell

__all__, __getattr__ = open_door(__name__)
