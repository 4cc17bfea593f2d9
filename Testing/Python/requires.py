"""Packages that only some tests need: missing ones skip, or, where the continuous integration asks for them, fail."""

from __future__ import annotations

import importlib
import os

import pytest


def needs(package: str, variable: str) -> None:
    """Skip the calling test file where ``package`` is missing; fail it when the environment variable is "1" (UAE_REQUIRE_MRML, UAE_REQUIRE_GUI)."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        if os.environ.get(variable) == "1":
            raise
        pytest.skip(f"needs {package} ({error}); set {variable}=1 to make this a failure", allow_module_level=True)


def needs_mrml() -> None:
    """Real MRML nodes (package slicer-core)."""
    needs("slicer", "UAE_REQUIRE_MRML")


def needs_views() -> None:
    """Real slice views (package trame-slicer[standalone]) and Qt (PySide6-Essentials), without a screen."""
    os.environ.pop("DISPLAY", None)
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    needs_mrml()
    needs("trame_slicer.core", "UAE_REQUIRE_GUI")
    needs("PySide6.QtWidgets", "UAE_REQUIRE_GUI")
