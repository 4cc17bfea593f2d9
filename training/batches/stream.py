"""The endless stream of view pairs drawn from the scans."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..scans.scan import Scan
from .augment import Augmentation, ViewParameters, draw_mirror, draw_view, padded


@dataclass(frozen=True)
class PairParameters:
    """One training example: two views, of one scan, of two scans that share a physical frame, or of two patients (then by their common points)."""

    fixed_scan: int
    moving_scan: int
    fixed: ViewParameters
    moving: ViewParameters
    seed: int


class PairStream(IterableDataset):
    """Endless :class:`PairParameters`; example number i of a seed is always the same, so a resumed run continues exactly.

    Of ``processes`` that train together, number ``rank`` gets ``block`` examples, then the next gets the following: together they see what one
    process with the larger block would. The loader's workers take the blocks of their process in turn. Views are padded to the smallest of the
    sizes ``shapes`` (z, y, x) that holds them, where one does.
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
        shapes: Sequence[tuple[int, int, int]] = (),
        rank: int = 0,
        processes: int = 1,
        block: int = 1,
    ) -> None:
        self.scans, self.augmentation, self.seed, self.first = scans, augmentation, seed, first
        self.max_view, self.cross_p, self.between_p, self.least_view = max_view, cross_p, between_p, least_view
        self.shapes = shapes
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
        worker = get_worker_info()
        own, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.processes * self.block
        number = self.first + self.rank * self.block + own * step
        while True:
            for i in range(self.block):
                yield self.draw(number + i)
            number += workers * step

    def draw(self, number: int) -> PairParameters:
        """Example ``number``: two views around one random point of the body."""
        pair = self._draw(number)
        return replace(pair, fixed=padded(pair.fixed, self.shapes), moving=padded(pair.moving, self.shapes))

    def _draw(self, number: int) -> PairParameters:
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
