"""Made-up labelled patients to train on, and one step of training them in any number of processes (run as a script)."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.batches.augment import Augmentation
from training.batches.data import PairDataModule
from training.batches.places import Example, choose_places
from training.batches.stream import PairParameters, PairStream
from training.learning.losses import ContrastOptions, PairDescriptors, SemanticOptions
from training.learning.modules import SelfSupervisedModule
from training.scans.labels import LabelTable
from training.scans.scan import Scan
from UniversalAnatomicalEmbeddingLib.images.volume import from_array, write_volume
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


def blank(name: str, frame: str, size: tuple[int, int, int] = (60, 70, 80), body: tuple[slice, ...] = (slice(None),)) -> Scan:
    """A scan of 2 mm voxels whose body is a box."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[body] = True
    mm_to_index = torch.tensor([[0.5, 0, 0, 3], [0, 0.5, 0, -7], [0, 0, 0.5, 40]])
    return Scan(name, "ct", frame, torch.zeros(size), mask, mask.nonzero(), mm_to_index)


def stream(scans: list[Scan] | None = None, **changes: object) -> PairStream:
    arguments = {"augmentation": Augmentation(), "seed": 3, "first": 0, "max_view": (64, 64, 96), "cross_p": 0.5} | changes
    return PairStream(scans or [blank("a", "p"), blank("b", "p"), blank("c", "q")], **arguments)


def same(a: object, b: object) -> bool:
    """Equal in every number, views included."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if hasattr(a, "__dataclass_fields__"):
        return all(same(value, getattr(b, name)) for name, value in vars(a).items())
    if isinstance(a, tuple):
        return all(map(same, a, b))
    return a == b


def first_of(examples: Iterator[PairParameters], n: int) -> list[PairParameters]:
    return list(itertools.islice(iter(examples), n))


def make_scan(path: Path, seed: int, modality: str) -> None:
    """48 voxels of 2 mm on each side: a block of smooth texture in air."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((48, 48, 48)) / 5
    waves = sum(np.sin(rng.uniform(0.3, 1.2, 3) @ [z.ravel(), y.ravel(), x.ravel()] + rng.uniform(0, 6)) for _ in range(6)).reshape(z.shape)
    array = np.full((48, 48, 48), -1000.0 if modality == "ct" else 0.0)
    array[4:-4, 4:-4, 4:-4] = (50 + 60 * waves if modality == "ct" else 400 + 80 * waves)[4:-4, 4:-4, 4:-4]
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-40, 10, 500]
    write_volume(from_array(array.astype(np.int16), affine), path)


def module(**changes: object) -> SelfSupervisedModule:
    torch.manual_seed(0)
    arguments = {"points": 48, "cells": 100, "near": 60, "warmup": 2, "decay": 3, "freeze_norm": 3} | changes
    return SelfSupervisedModule(Compact(**TINY), ContrastOptions(fine_pool=150, fine_keep=60), **arguments)


def described(
    trained: SelfSupervisedModule, pair: PairParameters, fixed: Scan, moving: Scan, common: Tensor | None = None
) -> PairDescriptors:
    """One pair as a training step sees it."""
    places = choose_places(pair, fixed, moving, trained.place_options(), None if fixed.labels is None else LabelTable.read(), common)
    return trained.describe(Example(pair, places), fixed, moving)


STEPS, KILLED_AFTER = 4, 2


def common_of(a: Scan, b: Scan, count: int = 600) -> Tensor:
    """Common points spread over two scans: the same share of the size of each."""
    share = torch.rand(count, 3, generator=torch.Generator().manual_seed(1))
    return torch.cat([share * torch.tensor(s.image.shape) for s in (a, b)], dim=1)


class Recorder(L.Callback):
    """Keeps the loss of every step; saves a checkpoint after one step and then dies, where told to."""

    def __init__(self, checkpoint: Path, die: bool = False) -> None:
        self.checkpoint, self.die, self.losses = checkpoint, die, {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: dict, batch: object, batch_idx: int) -> None:
        self.losses[trainer.global_step] = float(outputs["loss"])
        if self.die and trainer.global_step == KILLED_AFTER:
            trainer.save_checkpoint(self.checkpoint)
            raise RuntimeError("killed")


def train(folder: Path, recorder: Recorder, resume: Path | None = None, **changes: int) -> SelfSupervisedModule:
    data = PairDataModule(str(folder / "index.csv"), Augmentation(), pairs_per_step=1, max_view=(48, 48, 48), cross_p=0.5)
    trained = module()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    settings = {"max_steps": STEPS, "num_sanity_val_steps": 0, "default_root_dir": folder} | quiet | changes
    trainer = L.Trainer(accelerator="cpu", callbacks=[recorder], **settings)
    trainer.fit(trained, data, ckpt_path=resume)
    return trained
