"""The endless stream of view pairs drawn from the scans."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, IterableDataset

from UniversalAnatomicalEmbeddingLib.preprocess import Intensity

from .augment import Augmentation, ViewParameters, draw_mirror, draw_view
from .common_points import both_ways, read_common_points
from .labels import LabelTable
from .scan import Scan, load_scans, read_index


@dataclass(frozen=True)
class PairParameters:
    """One training example: two views, of one scan, of two scans that share a physical frame, or of two patients (then by their common points)."""

    fixed_scan: int
    moving_scan: int
    fixed: ViewParameters
    moving: ViewParameters
    seed: int


def in_frames(scans: list[Scan], rows: list[dict[str, str]]) -> list[Scan]:
    """The scans in the frames of their index rows: those that :mod:`training.align` registered get the millimetres of the other scan."""
    placed = []
    for scan, row in zip(scans, rows, strict=True):
        if row.get("frame_to_scan"):
            matrix = torch.tensor([float(v) for v in row["frame_to_scan"].split()], dtype=torch.float64).reshape(3, 4)
            scan = scan.in_frame(matrix, float(row["slack_mm"]))
        placed.append(scan)
    return placed


class PairStream(IterableDataset):
    """Endless :class:`PairParameters`; example number i of a seed is always the same, so a resumed run continues exactly.

    Of ``processes`` that train together, number ``rank`` gets ``block`` examples, then the next gets the following: together they see what one
    process with the larger block would.
    """

    def __init__(
        self,
        scans: list[Scan],
        augmentation: Augmentation,
        seed: int,
        first: int,
        max_view: tuple[int, int, int],
        cross_p: float,
        common: dict[tuple[int, int], Tensor] | None = None,
        between_p: float = 0.0,
        least_view: float = 0.8,
        rank: int = 0,
        processes: int = 1,
        block: int = 1,
    ) -> None:
        self.scans, self.augmentation, self.seed, self.first = scans, augmentation, seed, first
        self.max_view, self.cross_p, self.between_p, self.least_view = max_view, cross_p, between_p, least_view
        self.common = common or {}
        self.partners: dict[int, list[int]] = defaultdict(list)
        for a, b in sorted(self.common):
            self.partners[a].append(b)
        self.rank, self.processes, self.block = rank, processes, block
        self.frames: dict[str, list[int]] = defaultdict(list)
        for i, scan in enumerate(scans):
            self.frames[scan.frame].append(i)
        extent = torch.tensor([float(s.body.sum()) for s in scans])
        self.weights = extent.clamp(min=1)

    def __iter__(self) -> Iterator[PairParameters]:
        number = self.first + self.rank * self.block
        while True:
            for i in range(self.block):
                yield self.draw(number + i)
            number += self.processes * self.block

    def draw(self, number: int) -> PairParameters:
        """Example ``number``: two views around one random point of the body."""
        g = Generator().manual_seed(self.seed * 1_000_003 + number)
        fixed = int(torch.multinomial(self.weights, 1, generator=g))
        if self.partners[fixed] and bool(torch.rand(1, generator=g) < self.between_p):
            return self._draw_between(fixed, g)
        others = [i for i in self.frames[self.scans[fixed].frame] if i != fixed]
        cross = bool(others) and bool(torch.rand(1, generator=g) < self.cross_p)
        moving = others[int(torch.randint(0, len(others), (1,), generator=g))] if cross else fixed
        seeds = self.scans[moving].seeds
        point = seeds[int(torch.randint(0, len(seeds), (1,), generator=g))].float()
        shape = self._shape(fixed, g)
        mirror = draw_mirror(self.augmentation, g)
        views = [
            draw_view(
                _view_centre(self.scans[moving], point, shape), shape, i == 1, self.augmentation, g, self.scans[scan].modality, mirror
            )
            for i, scan in enumerate((fixed, moving))
        ]
        return PairParameters(fixed, moving, views[0], views[1], seed=int(torch.randint(0, 2**31, (1,), generator=g)))

    def _draw_between(self, fixed: int, g: Generator) -> PairParameters:
        """Two patients around one of their common points."""
        others = self.partners[fixed]
        moving = others[int(torch.randint(0, len(others), (1,), generator=g))]
        common = self.common[fixed, moving]
        places = common[int(torch.randint(0, len(common), (1,), generator=g))].split(3)
        shape = self._shape(fixed, g)
        mirror = draw_mirror(self.augmentation, g)
        views = []
        for scan, index in zip((self.scans[fixed], self.scans[moving]), places, strict=True):
            views.append(draw_view(_view_centre(scan, index, shape), shape, False, self.augmentation, g, scan.modality, mirror))
        return PairParameters(fixed, moving, views[0], views[1], seed=int(torch.randint(0, 2**31, (1,), generator=g)))

    def _shape(self, scan: int, g: Generator) -> tuple[int, int, int]:
        z, y, x = (_view_size(n, m, self.least_view, g) for n, m in zip(self.scans[scan].image.shape, self.max_view, strict=True))
        return z, y, x


def _view_centre(scan: Scan, point_zyx: Tensor, shape_zyx: tuple[int, int, int]) -> Tensor:
    """Patient mm (x, y, z) of the view centre nearest to a voxel that keeps the view inside the scan where the scan is larger."""
    size = torch.tensor(scan.image.shape, dtype=torch.float32)
    half = torch.minimum(torch.tensor(shape_zyx) / 2, size / 2)
    return scan.place(torch.minimum(torch.maximum(point_zyx, half), size - half)[None])[0]


def _view_size(available: int, maximum: int, share: float, g: Generator) -> int:
    """A random view size, a multiple of 16 voxels, between a ``share`` of the largest (at least 48 voxels) and the scan's own size or ``maximum``."""
    largest = min(maximum, 16 * -(-available // 16))
    smallest = min(largest, max(48, int(share * largest)))
    return 16 * round((smallest + (largest - smallest) * float(torch.rand(1, generator=g))) / 16)


class PairDataModule(L.LightningDataModule):
    """Loads every scan of ``index`` and serves ``pairs_per_step`` view pairs a step and process.

    ``max_view`` (z, y, x) voxels of 2 mm, ``least_view`` the smallest share of it; ``cross_p`` probability of taking the second view from another
    scan of the same frame. With a file of points ``between`` patients (:mod:`training.between`), ``between_p`` of the pairs of its scans are of two of them.
    ``labels``: load label maps for a semantic head. Scans that take more than ``resident_gb`` GiB are mapped from the folder ``store``.
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

    def transfer_batch_to_device(self, batch: list[PairParameters], device: torch.device, dataloader_idx: int) -> list[PairParameters]:
        """Only the drawn numbers travel; the module cuts the views on its device."""
        return batch

    def train_dataloader(self) -> DataLoader:
        h, world, rank = self.hparams, self.trainer.world_size, self.trainer.global_rank
        first = self.trainer.global_step * self.trainer.accumulate_grad_batches * h.pairs_per_step * world
        views = h.max_view, h.cross_p, self.common, h.between_p, h.least_view
        stream = PairStream(self.scans, self.augmentation, h.seed, first, *views, rank, world, h.pairs_per_step)
        return DataLoader(stream, batch_size=h.pairs_per_step, collate_fn=list)
