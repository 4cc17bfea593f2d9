"""The embedding network of the released SAM and UAE models: 3-D ResNet-18, feature pyramid, coarse and semantic heads."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .embedder import Embedder
from .fpn3d import FPN3D
from .resnet3d import ResNet3D18, join_slices

CELLS_AT_ONCE = 8


class ResNetEmbedder(Embedder):
    """SAM (``semantic=False``) and UAE-S (``semantic=True``); keys and shapes are those of the released checkpoints.

    UAE-M has the weights of a semantic head that was neither trained nor used: leave them out and build it without.
    Use it in evaluation mode (batch norm). The maps, 128 channels each, of an image ``(B, 1, Z, Y, X)``:

    - "fine" and "semantic" ``(Z//2, ceil(Y/2), ceil(X/2))``: pyramids over c1, c2, c3 of the backbone
    - "coarse" ``(ceil(Z//2 / 2), ceil(Y/16), ceil(X/16))``: a single-level head on c4

    Images may have any size; tiles begin at multiples of ``align``. Coordinates: cell k of a map stands for
    voxel ``stride * k + (stride - 1) / 2``, the convention the models were trained with, although its receptive field is centred on
    ``stride * k`` in y and x and on ``stride * k + 0.5`` in z.

    ``halo``: a cell of "deep" reaches 1 slice and 24 rows or columns beyond its tile (stem 3; layer 1: 1 + 2 * 3; layer 2: 2 + 4 * 3). The
    last convolution of a fine map reaches 1 fine cell further, hence 2 slices and 4 rows or columns (a cell of c2): 3 and 28, rounded up to
    ``align``. ``decode_halo``: of that the last convolution alone, 2 slices and 8 rows or columns (a cell of "top"). A tile of few slices
    and whole rows has hardly any halo, and its full-resolution stem, by far the largest map, stays small.
    """

    fine_stride = (2, 2, 2)
    coarse_stride = (4, 16, 16)
    deep_stride = (2, 4, 4)
    top_stride = (2, 8, 8)
    align = (4, 16, 16)
    multiple = (1, 1, 1)
    halo = (4, 32, 32)
    decode_halo = (2, 8, 8)
    tile = (64, 256, 256)

    def __init__(self, semantic: bool = False) -> None:
        super().__init__()
        self.backbone = ResNet3D18()
        self.neck = FPN3D((64, 128, 256))
        self.read_out_head = FPN3D((512,))
        if semantic:
            self.semantic_head = FPN3D((64, 128, 256))
            self.heads = 3

    @property
    def kept(self) -> dict[str, tuple[int, int, int]]:
        return {"c1": self.fine_stride}

    def map_shape(self, shape_zyx: tuple[int, ...], stride: tuple[int, int, int]) -> tuple[int, ...]:
        z, y, x = shape_zyx
        return super().map_shape((2 * (z // 2), y, x), stride)

    @property
    def pyramids(self) -> dict[str, FPN3D]:
        """The heads of full resolution by the name of their map, in the order of their channels in "top"."""
        semantic = {"semantic": self.semantic_head} if hasattr(self, "semantic_head") else {}
        return {"fine": self.neck, **semantic}

    def local(self, image: Tensor) -> dict[str, Tensor]:
        """``(B, 1, Z, Y, X)`` to "c1" ``(B, 64, Z/2, Y/2, X/2)`` and "deep" = c2 ``(B, 128, Z/2, Y/4, X/4)``."""
        c1, c2 = self.backbone.shallow(image)
        return {"c1": c1, "deep": c2}

    def context(self, deep: Tensor) -> dict[str, Tensor]:
        """The raw "coarse" map, and "top" ``(B, 128 per pyramid, Z/2, Y/8, X/8)``: the laterals of c3."""
        c3, c4 = self.backbone.deep(deep)
        top = [pyramid.merge(2, c3) for pyramid in self.pyramids.values()]
        return {"coarse": self.read_out_head([c4]), "top": torch.cat(top, dim=1)}

    def decode(self, local: dict[str, Tensor], top: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The raw maps "fine" and, where the model has it, "semantic", ``(B, 128, Z/2, Y/2, X/2)`` each."""
        pyramids = self.pyramids
        tops = top.chunk(len(pyramids), dim=1)
        for (name, pyramid), part in zip(pyramids.items(), tops, strict=True):
            yield name, join_slices(_decode(pyramid, local, part), part.shape[2])


def _decode(pyramid: FPN3D, local: dict[str, Tensor], top: Tensor) -> Iterator[Tensor]:
    """One pyramid from its merged c3 map down to its output, in parts along z; in evaluation mode of a few cells, which saves memory.

    All its maps have the same cells in z, of which the last convolution sees one more on either side.
    """
    depth = top.shape[2]
    step = depth if pyramid.training else CELLS_AT_ONCE
    for start in range(0, depth, step):
        stop = min(start + step, depth)
        seen = slice(max(start - 1, 0), stop + 1)
        merged = pyramid.merge(0, local["c1"][:, :, seen], pyramid.merge(1, local["deep"][:, :, seen], top[:, :, seen]))
        merged = F.pad(merged, (0, 0, 0, 0, int(start == 0), int(stop == depth)))
        yield pyramid.read_out_inner(merged)
