"""Made-up labelled patients to train on, and one step of training them in any number of processes (run as a script)."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning as L
import torch
from torch.nn import functional as F

from training.augment import Augmentation
from training.data import PairDataModule
from training.labels import LabelTable
from training.losses import ContrastOptions, SemanticOptions
from training.modules import SelfSupervisedModule
from training.scan import Scan
from UniversalAnatomicalEmbeddingLib.networks.compact import Compact

SIZE = (48, 48, 48)
RATE = 1.0
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
TINY = {"widths": (8, 8, 8, 8), "blocks": (1, 1, 1), "fine_channels": 8, "coarse_channels": 8}


def labelled_scan(name: str, seed: int, known: bool = True) -> Scan:
    """Smooth noise, all of it body, with the left kidney in the left half and the right one in the other (x grows to the patient's left)."""
    table = LabelTable.read()
    coarse = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(seed))
    image = F.interpolate(coarse, size=SIZE, mode="trilinear", align_corners=True)[0, 0].tanh()
    labels = torch.zeros(SIZE, dtype=torch.int16)
    left, right = (table.id_of(f"kidney_{side}") or 0 for side in ("left", "right"))
    labels[:, 8:40, :20], labels[:, 8:40, 28:] = right, left
    body = torch.ones(SIZE, dtype=torch.bool)
    mm_to_index = torch.tensor([[0.5, 0, 0, 3], [0, 0.5, 0, -7], [0, 0, 0.5, 40]])
    certain = torch.from_numpy(table.known([left, right] if known else []))
    return Scan(name, "ct", name, image, body, body.nonzero()[::50], mm_to_index, labels=labels, known=certain)


def scene(scans: list[Scan], pairs_per_step: int = 1, **augmentation: float) -> PairDataModule:
    """A data module whose scans are in memory already."""
    a = Augmentation(**{"jitter_mm": 4.0, "truncate_p": 0.0} | augmentation)
    data = PairDataModule("unused.csv", a, pairs_per_step, (32, 32, 32), 0.0, labels=True)
    data.scans = scans
    return data


def semantic_module(semantic: SemanticOptions | None = None, channels: int = 8, **changes: object) -> SelfSupervisedModule:
    """A tiny network with a semantic head; batch norm frozen from the start, plain gradient descent."""
    torch.manual_seed(0)
    arguments = {
        "points": 40,
        "cells": 60,
        "near": 20,
        "optimizer": "sgd",
        "learning_rate": RATE,
        "weight_decay": 0.0,
        "warmup": 1,
        "decay": 0,
    }
    contrast = ContrastOptions(fine_pool=60, fine_keep=30, coarse_pool=50, coarse_keep=25, cross_negatives=40)
    network = Compact(**TINY, semantic_channels=channels)
    return SelfSupervisedModule(network, contrast, semantic, **(arguments | {"freeze_norm": 0} | changes))


def one_step(processes: int, pairs: int, folder: Path) -> dict[str, torch.Tensor]:
    """Weights after one step of ``pairs`` pairs in each of ``processes`` processes."""
    module = semantic_module(SemanticOptions(per_structure=10))
    data = scene([labelled_scan(n, s) for s, n in enumerate("abcd")], pairs)
    strategy = {"strategy": "ddp_fork", "devices": processes} if processes > 1 else {"devices": 1}
    trainer = L.Trainer(accelerator="cpu", max_steps=1, num_sanity_val_steps=0, default_root_dir=folder, **strategy, **QUIET)
    result = folder / f"{processes}.pt"

    class Save(L.Callback):
        def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.is_global_zero:
                torch.save(pl_module.network.state_dict(), result)

    trainer.callbacks.append(Save())
    trainer.fit(module, data)
    return torch.load(result, weights_only=True)


if __name__ == "__main__":
    one_step(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
