"""The scans and what is drawn from them, as Lightning wants it."""

from __future__ import annotations

import pickle
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from UniversalAnatomicalEmbeddingLib.images import Intensity

from ..scans.common_points import both_ways, read_common_points
from ..scans.labels import LabelTable
from ..scans.scan import Scan, load_scans, read_index
from .augment import Augmentation
from .places import Chooser, Example
from .stream import PairParameters, PairStream


def in_frames(scans: list[Scan], rows: list[dict[str, str]]) -> list[Scan]:
    """The scans in the frames of their index rows: those that :mod:`training.align` registered get the millimetres of the other scan."""
    placed = []
    for scan, row in zip(scans, rows, strict=True):
        if row.get("frame_to_scan"):
            matrix = torch.tensor([float(v) for v in row["frame_to_scan"].split()], dtype=torch.float64).reshape(3, 4)
            scan = scan.in_frame(matrix, float(row["slack_mm"]))
        placed.append(scan)
    return placed


class PairDataModule(L.LightningDataModule):
    """Loads every scan of ``index`` and serves ``pairs_per_step`` view pairs a step and process.

    ``max_view`` (z, y, x) voxels of 2 mm, ``least_view`` the smallest share of it; ``cross_p`` probability of taking the second view from another
    scan of the same frame. With a file of points ``between`` patients (:mod:`training.between`), ``between_p`` of the pairs of its scans are of two of them.
    ``labels``: load label maps for a semantic head. Scans that take more than ``resident_gb`` GiB are mapped from the folder ``store``.

    For a GPU: ``workers`` processes draw the pairs and choose their places ahead (0: the training process itself), and views are padded with air to
    one of a few ``shapes`` (z, y, x), because cuDNN plans its kernels anew for every size it sees.
    """

    def __init__(
        self,
        index: Path,
        augmentation: Augmentation,
        pairs_per_step: int = 3,
        max_view: tuple[int, int, int] = (128, 112, 176),
        cross_p: float = 0.4,
        between: Path | None = None,
        between_p: float = 0.5,
        seed: int = 0,
        least_view: float = 0.8,
        labels: bool = False,
        intensity: Intensity | None = None,
        store: Path | None = None,
        resident_gb: float = 8.0,
        workers: int = 0,
        shapes: list[tuple[int, int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["augmentation", "intensity"])
        self.augmentation = augmentation
        self.intensity = intensity or Intensity()
        self.table = LabelTable.read()
        self.scans: list[Scan] = []
        self.common: dict[tuple[int, int], Tensor] = {}

    def setup(self, stage: str) -> None:
        if not self.scans:
            h, rows = self.hparams, read_index(Path(self.hparams.index))
            table = self.table if h.labels else None
            self.scans = load_scans(rows, self.intensity, table, Path(h.store) if h.store else None, h.resident_gb)
            self.scans = in_frames(self.scans, rows)
            if h.between:
                self.common = both_ways(read_common_points(Path(h.between)), [s.name for s in self.scans])

    def transfer_batch_to_device(self, batch: bytes, device: torch.device, dataloader_idx: int) -> list[Example]:
        """Only drawn numbers travel; the module cuts the views on its device."""
        return pickle.loads(batch)

    def train_dataloader(self) -> DataLoader:
        h, world, rank = self.hparams, self.trainer.world_size, self.trainer.global_rank
        first = self.trainer.global_step * self.trainer.accumulate_grad_batches * h.pairs_per_step * world
        views = h.max_view, h.cross_p, self.common, h.between_p, h.least_view, [tuple(s) for s in h.shapes or ()]
        stream = PairStream(self.scans, self.augmentation, h.seed, first, *views, rank, world, h.pairs_per_step)
        choose = Chooser(self.scans, self.common, self.table if h.labels else None, self.trainer.lightning_module.place_options())
        return DataLoader(stream, batch_size=h.pairs_per_step, collate_fn=Packer(choose), num_workers=h.workers)


class Packer:
    """Pairs to their examples, as one block of bytes: tensor by tensor, each would need a file handle of its own between the processes."""

    def __init__(self, choose: Chooser) -> None:
        self.choose = choose

    def __call__(self, pairs: list[PairParameters]) -> bytes:
        if get_worker_info():
            torch.set_num_threads(1)
        return pickle.dumps([self.choose(p) for p in pairs], protocol=pickle.HIGHEST_PROTOCOL)
