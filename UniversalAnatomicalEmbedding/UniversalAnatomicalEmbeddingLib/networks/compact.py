"""The compact embedding network: a four-level residual pyramid that works at 4 mm and below, made for plain CPUs.

Batch norm is used with frozen statistics (from early in the training on, and always for inference), so a vector never depends on the
tile or the field of view. All strided layers are 2x2x2 and all others centred, so cell k of every level sits exactly in the middle of
the voxels it covers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .embedder import Embedder


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Down(nn.Sequential):
    """Halve the resolution with a centred 2x2x2 convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(nn.Conv3d(channels_in, channels_out, 2, stride=2, bias=False), nn.BatchNorm3d(channels_out), nn.ReLU())


class Head(nn.Module):
    """3x3x3 convolution, ReLU, 1x1x1 projection."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_in, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm3d(channels_in)
        self.project = nn.Conv3d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.relu(self.norm(self.conv(x))))


class Compact(Embedder):
    """Levels at 4, 8, 16 and 32 mm for 2 mm voxels; fine map at 4 mm, coarse map at 16 mm.

    ``widths`` are the channels of the four levels, ``blocks`` the residual blocks of the lower three, ``fine_blocks`` those of the finest level where
    it meets what comes from below, ``fine_channels`` and ``coarse_channels`` the lengths of the two descriptors. ``semantic_channels``: 0, or
    ``fine_channels`` for a third map, "semantic", beside the fine one. ValueError for any other length: the two are searched side by side.
    """

    fine_stride = (2, 2, 2)
    coarse_stride = (8, 8, 8)
    deep_stride = (8, 8, 8)
    top_stride = (8, 8, 8)
    align = (16, 16, 16)
    multiple = (16, 16, 16)
    halo: tuple[int, int, int]

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (32, 64, 128, 176),
        blocks: tuple[int, int, int] = (2, 2, 2),
        fine_channels: int = 64,
        coarse_channels: int = 128,
        semantic_channels: int = 0,
        fine_blocks: int = 0,
    ) -> None:
        super().__init__()
        if semantic_channels not in (0, fine_channels):
            raise ValueError(f"semantic_channels is {semantic_channels}; it must be 0 or equal to fine_channels ({fine_channels}).")
        w0, w1, w2, w3 = widths
        reach = 14 + 8 * blocks[0] + 4 * fine_blocks
        self.halo = (16 * -(-reach // 16),) * 3
        self.stem = nn.Sequential(nn.Conv3d(8, w0, 3, padding=1, bias=False), nn.BatchNorm3d(w0), nn.ReLU())
        self.level1 = nn.Sequential(Down(w0, w1), *(ResidualBlock(w1) for _ in range(blocks[0])))
        self.down2 = Down(w1, w2)
        self.level2 = nn.Sequential(*(ResidualBlock(w2) for _ in range(blocks[1])))
        self.level3 = nn.Sequential(Down(w2, w3), *(ResidualBlock(w3) for _ in range(blocks[2])))
        self.lateral3 = nn.Conv3d(w3, w2, 1)
        self.merge2 = ResidualBlock(w2)
        self.lateral2 = nn.Conv3d(w2, w1, 1)
        self.merge1 = ResidualBlock(w1)
        self.lateral1 = nn.Conv3d(w1, w0, 1)
        self.merge0 = nn.Sequential(*(ResidualBlock(w0) for _ in range(fine_blocks)))
        self.coarse_head = Head(w2, coarse_channels)
        self.fine_head = Head(w0, fine_channels)
        self.heads = 3 if semantic_channels else 2
        if semantic_channels:
            self.semantic_head = Head(w0, semantic_channels)

    def local(self, image: Tensor) -> dict[str, Tensor]:
        level0 = self.stem(_space_to_depth(image))
        level1 = self.level1(level0)
        return {"level0": level0, "level1": level1, "deep": self.down2(level1)}

    def context(self, deep: Tensor) -> dict[str, Tensor]:
        level2 = self.level2(deep)
        top = self.merge2(level2 + _double(self.lateral3(self.level3(level2))))
        return {"coarse": self.coarse_head(top), "top": self.lateral2(top)}

    def decode(self, local: dict[str, Tensor], top: Tensor) -> Iterator[tuple[str, Tensor]]:
        level1 = self.merge1(local["level1"] + _double(top))
        level0 = self.merge0(local["level0"] + _double(self.lateral1(level1)))
        yield "fine", self.fine_head(level0)
        if hasattr(self, "semantic_head"):
            yield "semantic", self.semantic_head(level0)


def _space_to_depth(image: Tensor) -> Tensor:
    """``(B, 1, Z, Y, X)`` to ``(B, 8, Z/2, Y/2, X/2)``: each 2x2x2 block becomes the channels of one cell."""
    b, _, z, y, x = image.shape
    blocks = image.reshape(b, z // 2, 2, y // 2, 2, x // 2, 2).permute(0, 2, 4, 6, 1, 3, 5)
    return blocks.reshape(b, 8, z // 2, y // 2, x // 2).contiguous(memory_format=torch.channels_last_3d)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
