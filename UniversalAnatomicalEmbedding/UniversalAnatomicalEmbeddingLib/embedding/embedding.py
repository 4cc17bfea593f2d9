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

from ..images.grid import FloatArray, Grid
from ..images.preprocess import Pipeline, approximate_body, scale_intensity, to_canonical
from ..images.search_space import (
    Mask,
    approximate_anatomy,
    bounding_box,
    cell_means,
    find_search_space,
)
from ..images.volume import Modality, Volume
from ..models.model import Model
from ..networks.embedder import Embedder, unit_length
from ..system.progress import Progress, check, silent
from .tiling import Size, Slices, Tile, plan_tiles

SMALLEST_TILE = 32
STATISTICS_MARGIN_VOXELS = 8


@dataclass(frozen=True, eq=False)
class Embedding:
    """Unit descriptors of one scan.

    ``fine`` ``(Z, Y, X, C)`` float16 (a semantic head's channels follow the fine ones), ``coarse`` ``(Z', Y', X', C')`` float16. Two masks of
    the fine cells, bool ``(Z, Y, X)``: ``search_space``, where an answer may lie (:func:`.search_space.find_search_space`), and ``anatomy``, about the
    patient, where keypoints are set. ``grid`` is the canonical voxel grid; ``heads`` counts the similarities that are averaged.
    ``pipeline`` is how the descriptors were made and are to be compared; ``native`` the scanner's own voxels (None: those of ``grid``).
    """

    fine: NDArray[np.float16]
    coarse: NDArray[np.float16]
    search_space: Mask
    anatomy: Mask
    grid: Grid
    fine_stride: Size
    coarse_stride: Size
    heads: int
    model_id: str
    name: str
    pipeline: Pipeline = "standard"
    native: Grid | None = None

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
        raise ValueError(f"The modality of {volume.name} is not known; give it, or let modality.identify find it.")
    progress(0.0, "resampling")
    raw, grid = to_canonical(volume, modality, card.spacing_mm, card.pipeline)
    searched, anatomy = _masks(raw, modality, card.spacing_mm, network.fine_stride)
    sample = None
    if card.pipeline == "standard":
        if modality == "mr" and card.intensity.mr_rule == "percentiles":
            sample = _statistics_part(raw, card.spacing_mm)
        box, cells = bounding_box(searched, raw.shape, network.fine_stride)
        raw, searched, anatomy = raw[box], searched[cells], anatomy[cells]
        grid = grid.cropped([part.start for part in box], raw.shape)
    check(cancel)
    scaled = scale_intensity(raw, modality, card.intensity, sample)
    del raw, sample  # the maps need the room
    image = pad(scaled, network.multiple, network.align, card.intensity.air(modality))
    shape = network.map_shape(image.shape, network.fine_stride)
    searched, anatomy = (_fitted(mask, shape) for mask in (searched, anatomy))
    fine, coarse = embed_image(image, network, device, progress, cancel)
    return Embedding(
        fine=fine,
        coarse=coarse,
        search_space=np.ones_like(searched) if card.pipeline == "published" else searched,
        anatomy=anatomy,
        grid=grid,
        fine_stride=network.fine_stride,
        coarse_stride=network.coarse_stride,
        heads=network.heads,
        model_id=card.id,
        name=volume.name,
        pipeline=card.pipeline,
        native=volume.grid,
    )


def embed_image(
    image: NDArray, network: Embedder, device: str, progress: Progress = silent, cancel: Event | None = None
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Unit descriptors of a scaled, padded image ``(Z, Y, X)``: fine (a semantic head's channels after the fine ones) and coarse, channels last.

    Out of GPU memory halves the tile and goes on.
    """
    core = network.tile
    while True:
        try:
            return _embed_tiled(image, network, device, core, progress, cancel)
        except torch.OutOfMemoryError:
            if max(core) <= SMALLEST_TILE:
                raise
            core = (core[0] // 2, core[1] // 2, core[2] // 2)
            torch.cuda.empty_cache()


def _embed_tiled(
    image: NDArray, network: Embedder, device: str, core: Size, progress: Progress, cancel: Event | None
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Two passes: the local features of all tiles make one small "deep" map and its context, then come the full-resolution heads."""
    tiles = plan_tiles(image.shape, core, network.halo, network.align)
    second = plan_tiles(image.shape, core, network.decode_halo, network.align) if network.kept else tiles
    deep, stored = torch.empty(0), []
    for n, (tile, then) in enumerate(zip(tiles, second, strict=True)):
        check(cancel)
        progress(0.1 + 0.4 * n / len(tiles), "local features")
        local = _local_features(image, tile, network, device)
        if n == 0:
            cells = network.map_shape(image.shape, network.deep_stride)
            # channels last in memory, the order of the networks: convolutions would copy any other
            deep = local["deep"].new_empty((1, *cells, local["deep"].shape[1])).movedim(-1, 1)
        _part(deep, tile.target(network.deep_stride)).copy_(_part(local["deep"], tile.kept(network.deep_stride)))
        keep = {name: _part(local[name], tile.within(then.read, stride)).clone() for name, stride in network.kept.items()}
        stored.append(local if len(tiles) == 1 else keep)
        del local  # the last one too: the context needs the room
    with _inference(device):
        context = network.context(deep)
    fine = np.empty(0, dtype=np.float16)
    for n, tile in enumerate(second):
        check(cancel)
        progress(0.5 + 0.5 * n / len(tiles), "descriptors")
        local = {**(stored[n] or _local_features(image, tile, network, device)), "deep": _part(deep, tile.source(network.deep_stride))}
        stored[n] = {}
        with _inference(device):
            for head, (_, value) in enumerate(network.decode(local, _part(context["top"], tile.source(network.top_stride)))):
                if n == head == 0:
                    shape = network.map_shape(image.shape, network.fine_stride)
                    fine = np.empty((*shape, network.heads - 1, value.shape[1]), dtype=np.float16)
                _store(_part(value, tile.kept(network.fine_stride)), fine[tile.target(network.fine_stride)][..., head, :])
                del value
    progress(1.0, "embedded")
    coarse = np.empty((*context["coarse"].shape[2:], context["coarse"].shape[1]), dtype=np.float16)
    _store(context["coarse"], coarse)
    return fine.reshape(*fine.shape[:3], -1), coarse


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


def _store(features: Tensor, place: NDArray[np.float16]) -> None:
    """Write a network map ``(1, C, Z, Y, X)`` as unit vectors to ``place`` ``(Z, Y, X, C)``, a few slices at a time."""
    for start in range(0, features.shape[2], 8):
        part = unit_length(features[:, :, start : start + 8])
        place[start : start + 8] = part[0].permute(1, 2, 3, 0).half().cpu().numpy()


def pad(image: NDArray, multiple: Size, least: Size, value: float) -> NDArray:
    """Append ``value`` at the far ends until every size is a multiple and not less than ``least``."""
    sizes = [max(m * -(-n // m), k) for n, m, k in zip(image.shape, multiple, least, strict=True)]
    return np.pad(image, [(0, size - n) for n, size in zip(image.shape, sizes, strict=True)], constant_values=value)


def _masks(raw: NDArray, modality: Modality, spacing_mm: float, stride: Size) -> tuple[Mask, Mask]:
    """Search space and approximate anatomy of the cells of a canonical image; where only air is seen, everything is either."""
    means, cell_mm = cell_means(raw, stride, modality), spacing_mm * stride[2]
    searched, anatomy = find_search_space(means, modality, cell_mm), approximate_anatomy(means, modality, cell_mm)
    return searched, anatomy if anatomy.any() else searched


def _statistics_part(raw: NDArray, spacing_mm: float) -> NDArray:
    """The part of an MR that models up to compact-ct-mr-3 took its percentiles from: the box of the body mask of their time, with a margin."""
    step = 2
    mask = approximate_body(raw[::step, ::step, ::step], "mr", step * spacing_mm)
    if not mask.any():
        return raw
    _, cells = bounding_box(mask, raw.shape, (step, step, step))
    ends = [(step * c.start, step * (c.stop - 1) + 1) for c in cells]  # the voxels the mask saw
    margin = STATISTICS_MARGIN_VOXELS
    return raw[tuple(slice(max(0, start - margin), stop + margin) for start, stop in ends)]


def _fitted(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """``mask`` on maps of ``shape``: without a last odd row that they lack, and False where padding appended cells."""
    fitted = np.zeros(shape, dtype=bool)
    both = tuple(slice(min(pair)) for pair in zip(mask.shape, shape, strict=True))
    fitted[both] = mask[both]
    return fitted


def _with_shape(grid: Grid, shape: tuple[int, ...]) -> Grid:
    z, y, x = shape
    return Grid((z, y, x), grid.affine)
