"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_models_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the models that the user has imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UAE_MODELS", str(tmp_path_factory.mktemp("none") / "models"))
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real scans: ``UAE_DATA``, or ``shared/data`` beside the repository; tests that need it are skipped without it."""
    folder = Path(os.environ.get("UAE_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs the real scans, and {folder} does not exist (set UAE_DATA to their folder)")
    return folder
