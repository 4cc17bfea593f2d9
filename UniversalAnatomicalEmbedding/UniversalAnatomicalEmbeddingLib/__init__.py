"""Universal Anatomical Embedding: find the same anatomy in other scans."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Cache": "cache",
    "Grid": "geometry",
    "InputError": "errors",
    "MatchOptions": "options",
    "Point": "points",
    "PointList": "points",
    "Session": "session",
    "Volume": "volume",
    "load_model": "catalogue",
    "read_points": "points",
    "read_volume": "volume",
    "write_points": "points",
}
__all__ = list(_PUBLIC)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
