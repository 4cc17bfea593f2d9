"""Doors of rooms: a package exports the names of its files and loads a file when a name is used."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any


def open_door(package: str) -> tuple[list[str], Callable[[str], Any]]:
    """``__all__`` and ``__getattr__`` for the ``__init__`` of ``package``: the names that it imports
    under ``if TYPE_CHECKING:``.

    So one list serves both type checkers, which follow those imports, and programs, which do
    without: they read it from the source and load a file, with the packages that it needs, when
    one of its names is first asked for.
    """
    tree = ast.parse(inspect.getsource(sys.modules[package]))
    homes = {name: home for node in tree.body for name, home in _listed(node)}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{homes[name]}", package), name)

    return list(homes), load


def _listed(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Names and their modules below the package, where ``node`` is ``if TYPE_CHECKING:``."""
    if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
        return
    for statement in node.body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            yield from ((alias.name, statement.module) for alias in statement.names)
