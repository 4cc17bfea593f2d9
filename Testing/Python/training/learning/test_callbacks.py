"""The landmark error that is measured while a model trains."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from training_scene import make_scan, module

from training.batches.augment import Augmentation
from training.batches.data import PairDataModule
from training.learning.callbacks import FIGURES, LandmarkError
from UniversalAnatomicalEmbeddingLib.landmarks.points import Point, PointList, write_points

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|isinstance.treespec|srun|GPU available).*")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A scan to train on, and held-out pairs: a scan with itself."""
    make_scan(tmp_path / "a.nii.gz", 1, "ct")
    make_scan(tmp_path / "held.nii.gz", 2, "ct")
    (tmp_path / "index.csv").write_text("path,modality,frame\na.nii.gz,ct,p\n")
    points = tuple(Point(f"p{i}", (-10.0 + 10 * i, 50.0, 540.0)) for i in range(4))
    write_points(PointList(points), tmp_path / "held.mrk.json")
    pair = {"template": "held.nii.gz", "target": "held.nii.gz", "template_landmarks": "held.mrk.json", "target_landmarks": "held.mrk.json"}
    (tmp_path / "pairs.json").write_text(json.dumps([pair]))
    return tmp_path


def test_it_measures_at_its_steps_with_the_averaged_weights_and_disturbs_nothing(folder: Path) -> None:
    trained, measured = module(freeze_norm=0), LandmarkError(folder / "pairs.json", every_n_steps=2)
    seen: dict[int, torch.Tensor] = {}
    original = measured.measure

    def spying(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        before = {k: v.clone() for k, v in pl_module.state_dict().items()}
        figures = original(trainer, pl_module)
        assert all(torch.equal(v, before[k]) for k, v in pl_module.state_dict().items())
        assert pl_module.training
        seen[trainer.global_step] = before["network.stem.0.weight"]
        return figures

    measured.measure = spying
    used = []
    averaging = EMAWeightAveraging(decay=0.5)
    keep = averaging.on_validation_epoch_start
    averaging.on_validation_epoch_start = lambda *a: (used.append(1), keep(*a))
    logger = CSVLogger(folder, "log", flush_logs_every_n_steps=1)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=5,
        logger=logger,
        callbacks=[measured, averaging],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    )
    trainer.fit(trained, PairDataModule(folder / "index.csv", Augmentation(), 1, (48, 48, 48), 0.0))
    assert sorted(measured.history) == sorted(seen) == [2, 4]
    assert len(used) == 2
    for figures in measured.history.values():
        assert set(figures) == set(FIGURES)
        assert 0 <= figures["median_mm"] < 200
        assert 0 <= figures["cpm10"] <= 1
    header = (folder / "log" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    assert "landmark_median_mm" in header
