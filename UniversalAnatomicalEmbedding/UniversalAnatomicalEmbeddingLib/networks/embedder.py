"""The one interface of all embedding networks.

A network is cut in three parts so that a scan of any size embeds exactly in bounded memory: ``local`` sees a small neighbourhood
and runs tile by tile, ``context`` runs once over the whole scan at a low resolution, ``decode`` runs tile by tile again.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F


class Embedder(nn.Module):
    """Base of the embedding networks: image ``(B, 1, Z, Y, X)`` in, unit-length maps out.

    Class attributes, all (z, y, x) in voxels: ``fine_stride`` and ``coarse_stride`` of the two maps, ``deep_stride`` and ``top_stride`` of the
    features that enter and leave ``context``, ``align`` (tiles begin at multiples of it, no input is smaller), ``multiple`` (input sizes are
    multiples of it), ``tile`` (the size that works best), ``halo`` (how far ``local`` and ``decode`` together see beyond a tile),
    ``decode_halo`` (how far ``decode`` alone does, where features are ``kept``). ``heads`` counts the maps.
    """

    fine_stride: tuple[int, int, int]
    coarse_stride: tuple[int, int, int]
    deep_stride: tuple[int, int, int]
    top_stride: tuple[int, int, int]
    align: tuple[int, int, int]
    multiple: tuple[int, int, int]
    halo: tuple[int, int, int]
    decode_halo: tuple[int, int, int] = (0, 0, 0)
    tile: tuple[int, int, int] = (160, 192, 256)
    heads: int = 2

    @property
    def kept(self) -> dict[str, tuple[int, int, int]]:
        """The "local" features besides "deep", with their strides (z, y, x), that stay in memory between the two passes.

        Empty: the second pass computes them again.
        """
        return {}

    def map_shape(self, shape_zyx: tuple[int, ...], stride: tuple[int, int, int]) -> tuple[int, ...]:
        """The size (z, y, x) of the map of a stride for an image of this size."""
        return tuple(-(-n // k) for n, k in zip(shape_zyx, stride, strict=True))

    def local(self, image: Tensor) -> dict[str, Tensor]:
        """Neighbourhood features of an image ``(B, 1, Z, Y, X)``; the entry "deep" goes to :meth:`context`."""
        raise NotImplementedError

    def context(self, deep: Tensor) -> dict[str, Tensor]:
        """From the stitched "deep" features of the whole scan: the map "coarse", and "top" for :meth:`decode`."""
        raise NotImplementedError

    def decode(self, local: dict[str, Tensor], top: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The full-resolution maps of a tile: "fine" and, where the model has it, "semantic"; one after the other, so that one can be let go first."""
        raise NotImplementedError

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """The maps of a whole image before normalisation (training samples them sparsely and normalises only the samples)."""
        local = self.local(image)
        context = self.context(local["deep"])
        return dict(self.decode(local, context["top"])) | {"coarse": context["coarse"]}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Unit-length maps ``(B, C, Z', Y', X')`` of an image ``(B, 1, Z, Y, X)``: "fine", "coarse" and optionally "semantic"."""
        return {name: unit_length(value) for name, value in self.features(image).items()}


def unit_length(x: Tensor) -> Tensor:
    """L2-normalise over channels (dimension 1) in float32."""
    return F.normalize(x.float(), dim=1, eps=1e-12)
