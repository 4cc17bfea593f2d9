"""Universal Anatomical Embedding: find the same anatomy in other scans."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Cache": "embedding.cache",
    "Grid": "images.grid",
    "InputError": "system.errors",
    "MatchOptions": "options",
    "Point": "landmarks.points",
    "PointList": "landmarks.points",
    "Session": "session",
    "Volume": "images.volume",
    "load_model": "models.model",
    "read_points": "landmarks.points",
    "read_volume": "images.volume",
    "write_points": "landmarks.points",
}
__all__ = list(_PUBLIC)
__version__ = "0.1.0"

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


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
