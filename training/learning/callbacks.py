"""What is measured while a model trains."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging

from UniversalAnatomicalEmbeddingLib.models import Model, ModelCard
from UniversalAnatomicalEmbeddingLib.report import evaluate, read_pairs, summarise
from UniversalAnatomicalEmbeddingLib.session import Session

FIGURES = ("median_mm", "mean_mm", "p95_mm", "cpm10")


class LandmarkError(L.Callback):
    """Landmark error on held-out pairs every ``every_n_steps`` steps, with the averaged weights where they are averaged.

    ``pairs`` is a file as ``uae evaluate`` reads it, of scans that are not trained on. The figures go to the run's logs as "landmark_median_mm" and so
    on, and to ``history`` by step. One process measures; the others wait for it at the next step.
    """

    def __init__(self, pairs: Path, every_n_steps: int = 500) -> None:
        self.pairs, self.every_n_steps = Path(pairs), every_n_steps
        self.history: dict[int, dict[str, float]] = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int) -> None:
        step = trainer.global_step
        if step == 0 or step % self.every_n_steps or step in self.history or not trainer.is_global_zero:
            return
        figures = self.measure(trainer, pl_module)
        self.history[step] = figures
        for logger in trainer.loggers:
            logger.log_metrics({f"landmark_{k}": v for k, v in figures.items()}, step)

    def measure(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        """Median, mean, 95th percentile in mm and the share within 10 mm, as of now."""
        averaging = [c for c in trainer.callbacks if isinstance(c, WeightAveraging)]
        for callback in averaging:
            callback.on_validation_epoch_start(trainer, pl_module)
        network = copy.deepcopy(pl_module.network).eval().requires_grad_(False)
        for callback in averaging:
            callback.on_validation_epoch_end(trainer, pl_module)
        card = ModelCard("training", "Model in training", "", ("ct", "mr"), (), "", "", intensity=trainer.datamodule.intensity)
        found = summarise(evaluate(read_pairs(self.pairs), Session(Model(network, card), str(pl_module.device))))
        return {k: math.nan if found[k] is None else found[k] for k in FIGURES}
