"""Embed a scan once: preprocess, network tile by tile, unit descriptors on cells of known position."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import Event

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .catalogue import Model
from .geometry import FloatArray, Grid
from .networks.embedder import Embedder, unit_length
from .preprocess import body_mask, scale_intensity, to_canonical
from .progress import Progress, check, silent
from .tiling import Size, Slices, Tile, plan_tiles
from .volume import Modality, Volume

TILE_VOXELS = (160, 192, 256)
SMALLEST_TILE = 32
BODY_MARGIN_VOXELS = 8


@dataclass(frozen=True, eq=False)
class Embedding:
    """Unit descriptors of one scan.

    ``fine`` ``(Z, Y, X, C)`` float16 (a semantic head's channels follow the fine ones), ``coarse`` ``(Z', Y', X', C')`` float16, ``body`` bool
    ``(Z, Y, X)`` marks cells inside the patient. ``grid`` is the canonical voxel grid; ``heads`` counts the similarities that are averaged.
    """

    fine: NDArray[np.float16]
    coarse: NDArray[np.float16]
    body: NDArray[np.bool_]
    grid: Grid
    fine_stride: Size
    coarse_stride: Size
    heads: int
    model_id: str
    name: str

    @cached_property
    def fine_grid(self) -> Grid:
        """Positions of the fine cells."""
        return _with_shape(self.grid.cells(self.fine_stride), self.fine.shape[:3])

    @cached_property
    def coarse_grid(self) -> Grid:
        """Positions of the coarse cells."""
        return _with_shape(self.grid.cells(self.coarse_stride), self.coarse.shape[:3])

    def descriptors(self, points_lps: ArrayLike) -> tuple[Tensor, Tensor]:
        """Unit descriptors at continuous LPS positions ``(N, 3)``: fine (N, C) and coarse (N, C'), trilinear between cells, float32."""
        fine = interpolate(self.fine, self.fine_grid.world_to_index(points_lps))
        coarse = interpolate(self.coarse, self.coarse_grid.world_to_index(points_lps))
        per_head = fine.unflatten(1, (self.heads - 1, -1))
        return torch.nn.functional.normalize(per_head, dim=2).flatten(1), torch.nn.functional.normalize(coarse, dim=1)

    def contains(self, points_lps: ArrayLike) -> NDArray[np.bool_]:
        """Whether each point lies in the embedded part of the scan."""
        return self.grid.contains(points_lps)


def interpolate(cells: NDArray, index_zyx: FloatArray) -> Tensor:
    """Trilinear values (N, C) of a channel-last map ``(Z, Y, X, C)`` at continuous cell indices (N, 3), held constant beyond the border."""
    size = np.array(cells.shape[:3])
    index = np.clip(index_zyx, 0, size - 1)
    low = np.minimum(index.astype(int), np.maximum(size - 2, 0))
    fraction = index - low
    high = np.minimum(low + 1, size - 1)
    total = np.zeros((len(index), cells.shape[3]), dtype=np.float32)
    for corner in np.ndindex(2, 2, 2):
        at = np.where(corner, high, low)
        weight = np.where(corner, fraction, 1 - fraction).prod(axis=1)
        total += weight[:, None].astype(np.float32) * cells[at[:, 0], at[:, 1], at[:, 2]]
    return torch.from_numpy(total)


def embed_volume(volume: Volume, model: Model, device: str = "cpu", progress: Progress = silent, cancel: Event | None = None) -> Embedding:
    """Embed ``volume`` (its modality must be known). Raises :class:`Cancelled` when ``cancel`` is set meanwhile."""
    card, network, modality = model.card, model.network, volume.modality
    if modality is None:
        raise ValueError(f"The modality of {volume.name} is not known; give it, or guess it with guess_modality.")
    progress(0.0, "resampling")
    raw, grid = crop_to_body(*to_canonical(volume, modality, card.spacing_mm), modality)
    check(cancel)
    image = pad_to_multiple(scale_intensity(raw, modality, card.intensity), network.align, card.intensity.air(modality))
    body = _body_cells(raw, modality, card.spacing_mm, network.fine_stride, _map_shape(image, network.fine_stride))
    del raw  # the maps need the room
    maps = embed_image(image, network, device, progress, cancel)
    fine = np.concatenate([maps["fine"], maps["semantic"]], axis=3) if "semantic" in maps else maps["fine"]
    return Embedding(
        fine=fine,
        coarse=maps["coarse"],
        body=body,
        grid=grid,
        fine_stride=network.fine_stride,
        coarse_stride=network.coarse_stride,
        heads=len(maps),
        model_id=card.id,
        name=volume.name,
    )


def embed_image(
    image: NDArray, network: Embedder, device: str, progress: Progress = silent, cancel: Event | None = None
) -> dict[str, NDArray]:
    """Network maps of a scaled, aligned image ``(Z, Y, X)``, channels last, float16. Out of GPU memory halves the tile and goes on."""
    core = TILE_VOXELS
    while True:
        try:
            return _embed_tiled(image, network, device, core, progress, cancel)
        except torch.OutOfMemoryError:
            if min(core) <= SMALLEST_TILE:
                raise
            core = (core[0] // 2, core[1] // 2, core[2] // 2)
            torch.cuda.empty_cache()


def _embed_tiled(
    image: NDArray, network: Embedder, device: str, core: Size, progress: Progress, cancel: Event | None
) -> dict[str, NDArray]:
    """Two passes: the local features of all tiles make one small "deep" map and its context, then come the full-resolution heads."""
    tiles = plan_tiles(image.shape, core, network.halo, network.align)
    deep = torch.empty(0)
    for n, tile in enumerate(tiles):
        check(cancel)
        progress(0.1 + 0.4 * n / len(tiles), "local features")
        local = _local_features(image, tile, network, device)
        if n == 0:
            deep = local["deep"].new_empty((1, local["deep"].shape[1], *_map_shape(image, network.deep_stride)))
        _part(deep, tile.target(network.deep_stride)).copy_(_part(local["deep"], tile.kept(network.deep_stride)))
    with _inference(device):
        context = network.context(deep)
    maps = {"coarse": _storable(context["coarse"])}
    for n, tile in enumerate(tiles):
        check(cancel)
        progress(0.5 + 0.5 * n / len(tiles), "descriptors")
        if len(tiles) > 1:
            local = _local_features(image, tile, network, device)
        with _inference(device):
            heads = network.decode(local, _part(context["top"], tile.source(network.top_stride)))
        for name, value in heads.items():
            if name not in maps:
                maps[name] = np.empty((*_map_shape(image, network.fine_stride), value.shape[1]), dtype=np.float16)
            maps[name][tile.target(network.fine_stride)] = _storable(_part(value, tile.kept(network.fine_stride)))
    progress(1.0, "embedded")
    return maps


def _local_features(image: NDArray, tile: Tile, network: Embedder, device: str) -> dict[str, Tensor]:
    part = torch.from_numpy(np.ascontiguousarray(image[tile.read]))[None, None].to(device)
    with _inference(device):
        return network.local(part)


@contextmanager
def _inference(device: str) -> Iterator[None]:
    """No gradients; half precision on a GPU."""
    on_gpu = device.startswith("cuda")
    with torch.inference_mode(), torch.autocast("cuda" if on_gpu else "cpu", torch.float16, enabled=on_gpu):
        yield


def _part(features: Tensor, box: Slices) -> Tensor:
    z, y, x = box
    return features[:, :, z, y, x]


def _map_shape(image: NDArray, stride: Size) -> tuple[int, ...]:
    return tuple(-(-n // k) for n, k in zip(image.shape, stride, strict=True))


def _storable(features: Tensor) -> NDArray[np.float16]:
    """Network map ``(1, C, ...)`` to unit vectors, channels last, float16."""
    return unit_length(features)[0].permute(1, 2, 3, 0).half().cpu().numpy()


def crop_to_body(raw: NDArray, grid: Grid, modality: Modality) -> tuple[NDArray, Grid]:
    """The part of a canonical image that holds the patient, with a small margin; the whole image when no patient is seen."""
    step = 2
    small = raw[::step, ::step, ::step]
    mask = body_mask(small, modality, step * grid.spacing_xyz[0])
    if not mask.any():
        return raw, grid
    start, stop = [], []
    for axis, n in enumerate(raw.shape):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        start.append(max(0, step * used[0] - BODY_MARGIN_VOXELS))
        stop.append(min(n, step * used[-1] + 1 + BODY_MARGIN_VOXELS))
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    return raw[box], grid.cropped(start, np.subtract(stop, start))


def pad_to_multiple(image: NDArray, multiple: Size, value: float) -> NDArray:
    """Append ``value`` at the far ends until every size is a multiple."""
    return np.pad(image, [(0, -n % m) for n, m in zip(image.shape, multiple, strict=True)], constant_values=value)


def _body_cells(raw: NDArray, modality: Modality, spacing_mm: float, stride: Size, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Body mask on the fine cells; everything counts where no patient is seen, so that a phantom or a tiny crop can still be matched."""
    offset = tuple(slice(k // 2, None, k) for k in stride)
    mask = body_mask(raw[offset], modality, spacing_mm * stride[2])
    cells = np.zeros(shape, dtype=bool)
    cells[tuple(slice(0, n) for n in mask.shape)] = mask
    return cells if cells.any() else ~cells


def _with_shape(grid: Grid, shape: tuple[int, ...]) -> Grid:
    z, y, x = shape
    return Grid((z, y, x), grid.affine)
