"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from file_server import Server

from UniversalAnatomicalEmbeddingLib.images.padding import thinned
from UniversalAnatomicalEmbeddingLib.images.volume import read_volume
from UniversalAnatomicalEmbeddingLib.phantom.patient import demo_pair


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


@pytest.fixture(scope="session")
def thin_scans(data_dir: Path) -> dict[str, np.ndarray]:
    """About 60,000 voxels of every training and development scan of the trunk, limbs and head, and of every
    tenth head-neck, by "ct/NAME" or "mr/NAME"."""
    folders = [data_dir / split / kind for split in ("dev", "train") for kind in ("ct", "mr", "okbp")]
    found = {}
    for folder in folders:
        paths = sorted(p for p in folder.glob("*.nii.gz") if ".seg." not in p.name)
        for path in paths[:: 10 if folder.name == "okbp" else 1]:
            small = np.ascontiguousarray(thinned(read_volume(path).array, 60_000))
            kind = "mr" if folder.name == "mr" else "ct"
            found[f"{kind}/{path.name.removesuffix('.nii.gz')}"] = small
    return found


@pytest.fixture(scope="session")
def torso() -> np.ndarray:
    """A made-up CT in Hounsfield units, int16."""
    return np.asarray(demo_pair(coarsening=2.0).template.array)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()
