"""The 3-D feature pyramid that reads the descriptors of SAM and UAE out of the backbone (same papers as :mod:`.resnet3d`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from .resnet3d import convolve_inner


class FPN3D(nn.Module):
    """Feature pyramid with one output on its finest level: 1x1x1 laterals, nearest top-down sums, one 3x3x3 convolution.

    Neither norm nor activation. ``channels_in`` are the channels of the levels, finest first. With one level it is a plain head.
    """

    def __init__(self, channels_in: Sequence[int], channels_out: int = 128) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(_conv(channels, channels_out, 1) for channels in channels_in)
        self.fpn_convs = nn.ModuleList([_conv(channels_out, channels_out, 3)])

    def merge(self, level: int, feature: Tensor, coarser: Tensor | None = None) -> Tensor:
        """One top-down step: the lateral of ``feature`` ``(B, channels_in[level], Z, Y, X)`` plus the merged map of the next coarser level.

        ``coarser`` ``(B, channels_out, Z', Y', X')`` is enlarged by nearest neighbour to exactly ``(Z, Y, X)``.
        """
        lateral = self.lateral_convs[level](feature)
        if coarser is not None:
            lateral += F.interpolate(coarser, size=lateral.shape[2:], mode="nearest")
        return lateral

    def read_out(self, merged: Tensor) -> Tensor:
        """The output ``(B, channels_out, Z, Y, X)`` from the merged map of the finest level."""
        return self.fpn_convs[0](merged)

    def read_out_inner(self, merged: Tensor) -> Tensor:
        """The same for all slices but the first and the last, which only lend their neighbours what the convolution sees there."""
        return convolve_inner(cast("nn.Conv3d", self.fpn_convs[0].conv), merged)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The output ``(B, channels_out, Z, Y, X)`` on the grid of ``features[0]``; ``features`` are the levels, finest first."""
        if len(features) != len(self.lateral_convs):
            raise ValueError(f"found {len(features)} feature maps, this pyramid has {len(self.lateral_convs)} levels: pass one map a level")
        last = len(features) - 1
        merged = self.merge(last, features[last])
        for level in reversed(range(last)):
            merged = self.merge(level, features[level], merged)
        return self.read_out(merged)


def _conv(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    """A convolution with bias and "same" padding under the name "conv", as in the released checkpoints."""
    conv = nn.Conv3d(channels_in, channels_out, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(OrderedDict(conv=conv))
