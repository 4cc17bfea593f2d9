"""Scans in memory and the endless stream of view pairs drawn from them."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, IterableDataset

from UniversalAnatomicalEmbeddingLib.preprocess import Intensity, body_mask, scale_intensity
from UniversalAnatomicalEmbeddingLib.volume import read_volume

from .augment import Augmentation, ViewParameters, draw_view


@dataclass(frozen=True)
class Scan:
    """One canonical scan: ``image`` and ``body`` ``(Z, Y, X)``, ``seeds`` (n, 3) some body voxels (z, y, x), ``mm_to_index`` (3, 4)."""

    name: str
    modality: str
    frame: str
    image: Tensor
    body: Tensor
    seeds: Tensor
    mm_to_index: Tensor

    def to(self, device: torch.device) -> Scan:
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return Scan(**{**vars(self), **moved})


@dataclass(frozen=True)
class PairParameters:
    """One training example: two views, of one scan or of two scans that share a physical frame."""

    fixed_scan: int
    moving_scan: int
    fixed: ViewParameters
    moving: ViewParameters
    seed: int


def read_index(path: Path) -> list[dict[str, str]]:
    """Rows of an index file (columns ``path``, relative to the file, ``modality`` ct or mr, ``frame``) as :mod:`training.prepare` writes it."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    missing = {"path", "modality", "frame"} - set(rows[0] if rows else {})
    if missing:
        raise ValueError(f"{path} lacks the column(s) {', '.join(sorted(missing))}; make it with 'python -m training.prepare'.")
    return [{**row, "path": str((path.parent / row["path"]).resolve())} for row in rows]


def load_scan(path: str, modality: str, frame: str, intensity: Intensity) -> Scan:
    """Read one canonical 2 mm scan."""
    volume = read_volume(path)
    inverse = np.linalg.inv(volume.grid.affine)[:3]
    body = body_mask(volume.array, modality)
    voxels = np.argwhere(body)
    return Scan(
        name=Path(path).name.split(".")[0],
        modality=modality,
        frame=frame,
        image=torch.from_numpy(scale_intensity(volume.array.astype(np.float32), modality, intensity)),
        body=torch.from_numpy(body),
        seeds=torch.from_numpy(voxels[:: max(1, len(voxels) // 20_000)]),
        mm_to_index=torch.from_numpy(inverse).float(),
    )


class PairStream(IterableDataset):
    """Endless :class:`PairParameters`; example number i of a seed is always the same, so a resumed run continues exactly."""

    def __init__(
        self, scans: list[Scan], augmentation: Augmentation, seed: int, first: int, max_view: tuple[int, int, int], cross_p: float
    ) -> None:
        self.scans, self.augmentation, self.seed, self.first = scans, augmentation, seed, first
        self.max_view, self.cross_p = max_view, cross_p
        self.frames: dict[str, list[int]] = defaultdict(list)
        for i, scan in enumerate(scans):
            self.frames[scan.frame].append(i)
        extent = torch.tensor([float(s.body.sum()) for s in scans])
        self.weights = extent.clamp(min=1)

    def __iter__(self) -> Iterator[PairParameters]:
        number = self.first
        while True:
            yield self.draw(number)
            number += 1

    def draw(self, number: int) -> PairParameters:
        """Example ``number``: two views around one random point of the body."""
        g = Generator().manual_seed(self.seed * 1_000_003 + number)
        fixed = int(torch.multinomial(self.weights, 1, generator=g))
        others = [i for i in self.frames[self.scans[fixed].frame] if i != fixed]
        cross = bool(others) and bool(torch.rand(1, generator=g) < self.cross_p)
        moving = others[int(torch.randint(0, len(others), (1,), generator=g))] if cross else fixed
        seeds = self.scans[moving].seeds
        point = seeds[int(torch.randint(0, len(seeds), (1,), generator=g))].float()
        shape = tuple(_view_size(n, m, g) for n, m in zip(self.scans[fixed].image.shape, self.max_view, strict=True))
        views = [
            draw_view(_view_centre(self.scans[moving], point, shape), shape, elastic, self.augmentation, g) for elastic in (False, True)
        ]
        return PairParameters(fixed, moving, views[0], views[1], seed=int(torch.randint(0, 2**31, (1,), generator=g)))


def _view_centre(scan: Scan, point_zyx: Tensor, shape_zyx: tuple[int, int, int]) -> Tensor:
    """Patient mm (x, y, z) of the view centre nearest to a voxel that keeps the view inside the scan where the scan is larger."""
    size = torch.tensor(scan.image.shape, dtype=torch.float32)
    half = torch.minimum(torch.tensor(shape_zyx) / 2, size / 2)
    index = torch.minimum(torch.maximum(point_zyx, half), size - half).flip(0)
    return torch.linalg.solve(scan.mm_to_index[:, :3], index - scan.mm_to_index[:, 3])


def _view_size(available: int, maximum: int, g: Generator) -> int:
    """A random view size, a multiple of 16 voxels, up to the scan's own size or ``maximum``."""
    largest = min(maximum, 16 * -(-available // 16))
    smallest = max(48, int(0.8 * largest))
    return 16 * round((smallest + (largest - smallest) * float(torch.rand(1, generator=g))) / 16)


class PairDataModule(L.LightningDataModule):
    """Loads every scan of ``index`` into memory and serves ``pairs_per_step`` view pairs a step.

    ``max_view`` (z, y, x) voxels of 2 mm; ``cross_p`` probability of taking the second view from another scan of the same frame.
    """

    def __init__(
        self,
        index: Path,
        augmentation: Augmentation,
        pairs_per_step: int = 3,
        max_view: tuple[int, int, int] = (128, 112, 176),
        cross_p: float = 0.4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["augmentation"])
        self.augmentation = augmentation
        self.scans: list[Scan] = []

    def setup(self, stage: str) -> None:
        if not self.scans:
            rows = read_index(Path(self.hparams.index))
            self.scans = [load_scan(r["path"], r["modality"], r["frame"], Intensity()) for r in rows]

    def transfer_batch_to_device(self, batch: list[PairParameters], device: torch.device, dataloader_idx: int) -> list[PairParameters]:
        """Only the drawn numbers travel; the module cuts the views on its device."""
        return batch

    def train_dataloader(self) -> DataLoader:
        h, world, rank = self.hparams, self.trainer.world_size, self.trainer.global_rank
        first = self.trainer.global_step * h.pairs_per_step
        stream = PairStream(self.scans, self.augmentation, h.seed * world + rank, first, h.max_view, h.cross_p)
        return DataLoader(stream, batch_size=h.pairs_per_step, collate_fn=list)
