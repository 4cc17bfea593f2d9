"""Measuring against known truth, and the pictures and tables of a report. Stateless; the library
never needs it, and neither vtk nor slicer is known here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.doors import open_door

if TYPE_CHECKING:
    from .evaluation import evaluate, read_pairs, summarise

__all__, __getattr__ = open_door(__name__)
