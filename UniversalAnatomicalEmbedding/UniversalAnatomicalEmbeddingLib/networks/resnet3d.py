"""The 3-D ResNet-18 of SAM (Yan et al., "SAM: Self-supervised Learning of Pixel-wise Anatomical Embeddings in Radiological Images") and
UAE (Bai et al., "UAE: Universal Anatomical Embedding on Multi-modality Medical Images").

Module names and mathematics are those of the released checkpoints. Only the stem, the pooling and layers 3 and 4 look along z; the blocks
of layers 1 and 2 have 1x3x3 kernels.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Triple = tuple[int, int, int]
STEM_SLICES = 8


class ConvNorm(nn.Module):
    """Convolution without bias, "same" padding for odd kernels, then batch norm: ``(B, C, Z, Y, X)`` to ``(B, C', Z', Y', X')``."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(channels_out)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    def inner(self, x: Tensor) -> Tensor:
        """The result for all slices but the first and the last, which only lend their neighbours what the kernel sees there (3 taps in z)."""
        return self.bn(convolve_inner(self.conv, x))


def convolve_inner(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A convolution of stride 1 without padding along z, ``(B, C, Z, Y, X)`` to ``(B, C', Z - 2, Y, X)`` for 3 taps in z."""
    _, rows, columns = conv.kernel_size
    return F.conv3d(x, conv.weight, conv.bias, padding=(0, rows // 2, columns // 2))


def join_slices(parts: Iterable[Tensor], depth: int) -> Tensor:
    """Parts ``(B, C, z, Y, X)`` one behind the other along z, ``depth`` slices in all, channels last in memory.

    Unlike torch.cat it takes them one at a time, so that they need not exist together.
    """
    whole, start = torch.empty(0), 0
    for part in parts:
        if part.shape[2] == depth:
            return part
        if start == 0:
            batch, channels, _, rows, columns = part.shape
            whole = part.new_empty((batch, depth, rows, columns, channels)).movedim(-1, 1)
        whole[:, :, start : start + part.shape[2]] = part
        start += part.shape[2]
        del part  # before the next one is made
    return whole


class BasicBlock(nn.Module):
    """Two convolutions around a skip connection, ReLU after the sum.

    The skip is a strided 1x1x1 convolution where the stride or the number of channels changes, else the input itself.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels_in, channels_out, kernel, stride)
        self.conv2 = ConvNorm(channels_out, channels_out, kernel)
        changes = stride != (1, 1, 1) or channels_in != channels_out
        self.downsample = ConvNorm(channels_in, channels_out, (1, 1, 1), stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x), inplace=True))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)


class ResNet3D18(nn.Module):
    """Image ``(B, 1, Z, Y, X)`` to four feature maps; the first half sees a small neighbourhood, the second half a wide one.

    ===  ========  ==============  ===================
    map  channels  stride (zyx)    size for (Z, Y, X)
    ===  ========  ==============  ===================
    c1   64        2, 2, 2         Z//2, Y/2, X/2
    c2   128       2, 4, 4         Z//2, Y/4, X/4
    c3   256       2, 8, 8         Z//2, Y/8, X/8
    c4   512       4, 16, 16       Z//2/2, Y/16, X/16
    ===  ========  ==============  ===================

    All divisions round up, except ``Z//2``, the max pooling after layer 1: a last odd slice counts only through the stem's kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        flat, cube = (1, 3, 3), (3, 3, 3)
        self.conv1 = ConvNorm(1, 64, (3, 7, 7))
        self.layer1 = _stage(64, 64, flat, (1, 2, 2))
        self.pool2 = nn.MaxPool3d((2, 1, 1))
        self.layer2 = _stage(64, 128, flat, (1, 2, 2))
        self.layer3 = _stage(128, 256, cube, (1, 2, 2))
        self.layer4 = _stage(256, 512, cube, (2, 2, 2))

    def shallow(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The maps c1 and c2 of an image ``(B, 1, Z, Y, X)``.

        In evaluation mode a few slices at a time, so that the largest maps by far, those at full resolution, never exist for the whole image.
        """
        even = 2 * (image.shape[2] // 2)
        step = even if self.training else STEM_SLICES
        image = F.pad(image, (0, 0, 0, 0, 1, 1))
        parts = (self._first_stage(image[:, :, start : min(start + step, even) + 2]) for start in range(0, even, step))
        c1 = join_slices(parts, even // 2)
        return c1, self.layer2(c1)

    def _first_stage(self, image: Tensor) -> Tensor:
        """The part of c1 that an even number of slices makes, given with one slice more on either side for the stem."""
        return self.pool2(self.layer1(F.relu(self.conv1.inner(image), inplace=True)))

    def deep(self, c2: Tensor) -> tuple[Tensor, Tensor]:
        """The maps c3 and c4 that follow from c2 ``(B, 128, Z/2, Y/4, X/4)``."""
        c3 = self.layer3(c2)
        return c3, self.layer4(c3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The maps c1, c2, c3 and c4 of an image ``(B, 1, Z, Y, X)``."""
        c1, c2 = self.shallow(image)
        return c1, c2, *self.deep(c2)


def _stage(channels_in: int, channels_out: int, kernel: Triple, stride: Triple) -> nn.Sequential:
    """Two blocks, the first one strided."""
    return nn.Sequential(BasicBlock(channels_in, channels_out, kernel, stride), BasicBlock(channels_out, channels_out, kernel))
