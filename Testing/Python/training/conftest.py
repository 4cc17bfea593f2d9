"""Fixtures that several files of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_scene import Recorder, make_scan, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans of one frame and their index."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "scans").mkdir()
    for name, seed in (("ct", 1), ("mr", 2)):
        make_scan(folder / "scans" / f"{name}.nii.gz", seed, name)
    (folder / "index.csv").write_text("path,modality,frame\nscans/ct.nii.gz,ct,p\nscans/mr.nii.gz,mr,p\n")
    return folder


@pytest.fixture(scope="module")
def killed(folder: Path) -> Recorder:
    recorder = Recorder(folder / "killed.ckpt", die=True)
    with pytest.raises(RuntimeError, match="killed"):
        train(folder, recorder)
    return recorder
