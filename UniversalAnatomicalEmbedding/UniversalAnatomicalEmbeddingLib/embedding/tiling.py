"""Index mathematics of working through a large array tile by tile; no arrays are touched here."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

Size = tuple[int, int, int]
Slices = tuple[slice, ...]


@dataclass(frozen=True)
class Tile:
    """One tile: voxels ``read`` go into the network, of whose result the voxels ``core`` (both in scan coordinates) are kept."""

    read: Slices
    core: Slices

    def kept(self, stride: Size) -> Slices:
        """The core inside a map of the tile, in cells of ``stride`` (z, y, x)."""
        return self.within(self.core, stride)

    def within(self, box: Slices, stride: Size) -> Slices:
        """Scan voxels ``box`` inside a map of the tile, in cells of ``stride``."""
        return _cells(box, stride, [s.start for s in self.read])

    def target(self, stride: Size) -> Slices:
        """The core inside a map of the whole scan, in cells of ``stride``."""
        return _cells(self.core, stride, [0, 0, 0])

    def source(self, stride: Size) -> Slices:
        """The voxels read, inside a map of the whole scan, in cells of ``stride``."""
        return _cells(self.read, stride, [0, 0, 0])


def plan_tiles(shape: Size, core: Size, halo: Size, align: Size) -> list[Tile]:
    """Cover ``shape`` (z, y, x) with equal cores of at most about ``core`` voxels, each read with up to ``halo`` more on every side.

    Core origins are multiples of ``align``, so the cells of neighbouring tiles coincide; ``halo`` must be a multiple of the strides used.
    """
    steps = []
    for n, c, a in zip(shape, core, align, strict=True):
        parts = -(-n // c)
        steps.append(a * -(-n // (parts * a)))
    tiles = []
    for origin in itertools.product(*(range(0, n, s) for n, s in zip(shape, steps, strict=True))):
        ends = [min(o + s, n) for o, s, n in zip(origin, steps, shape, strict=True)]
        kept = tuple(slice(o, e) for o, e in zip(origin, ends, strict=True))
        read = tuple(slice(max(0, o - h), min(n, e + h)) for o, e, h, n in zip(origin, ends, halo, shape, strict=True))
        tiles.append(Tile(read, kept))
    return tiles


def _cells(box: Slices, stride: Size, origin: list[int]) -> Slices:
    return tuple(slice((s.start - o) // k, -(-(s.stop - o) // k)) for s, k, o in zip(box, stride, origin, strict=True))
