"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real scans: ``UAE_DATA``, or ``shared/data`` beside the repository; tests that need it are skipped without it."""
    folder = Path(os.environ.get("UAE_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs the real scans, and {folder} does not exist (set UAE_DATA to their folder)")
    return folder
