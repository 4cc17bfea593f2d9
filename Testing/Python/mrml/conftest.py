"""Fixtures that several files of this folder share."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def scene() -> Any:
    import slicer

    return slicer.vtkMRMLScene()
