"""Procedural bodies with exactly known correspondence, for the demonstration and for tests. Nothing
here knows a model or an embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.doors import open_door

if TYPE_CHECKING:
    from .patient import demo_pair, make_patient, render

__all__, __getattr__ = open_door(__name__)
