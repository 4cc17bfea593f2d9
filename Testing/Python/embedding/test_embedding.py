"""Embedding: descriptors sit where they say, whatever the orientation, the crop and the tiles."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import OBLIQUE, Probe, affines, probe_model, randomised, tiny_model, tissue, tissue_volume

from UniversalAnatomicalEmbeddingLib.embedding import embedding as module
from UniversalAnatomicalEmbeddingLib.embedding.embedding import Embedding, embed_image, embed_volume, interpolate, pad
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.preprocess import Intensity
from UniversalAnatomicalEmbeddingLib.images.volume import Modality, Volume
from UniversalAnatomicalEmbeddingLib.models.model import Model
from UniversalAnatomicalEmbeddingLib.networks.embedder import Embedder
from UniversalAnatomicalEmbeddingLib.networks.resnet_embedder import ResNetEmbedder
from UniversalAnatomicalEmbeddingLib.system.progress import Cancelled

RADIANS_PER_MM = 0.018 * np.array([2, -1, 2]) / 3


def smallest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of corresponding vectors in two channel-last maps."""
    assert a.shape == b.shape
    a, b = (m.astype(np.float32) / np.linalg.norm(m.astype(np.float32), axis=-1, keepdims=True) for m in (a, b))
    return float((a * b).sum(axis=-1).min())


@pytest.fixture(scope="module")
def tiny() -> Embedding:
    """A noise scan that is no multiple of anything, seen by the tiny network."""
    return embed_volume(tissue_volume((30, 34, 37)), tiny_model())


# --- positions ------------------------------------------------------------------------------------------------------------------------


def probe_error_mm(affine: np.ndarray) -> dict[str, float]:
    """How far the descriptors are from the place that they were asked for, in mm, for an intensity that is linear in the world."""
    size = np.ceil(150 / np.linalg.norm(affine[:3, :3], axis=0)).astype(int)[::-1]
    grid = Grid(tuple(size), affine)
    middle = grid.index_to_world([(size - 1) / 2])
    world = grid.index_to_world(np.argwhere(np.ones(size, bool)))
    array = (100 * ((world - middle) @ RADIANS_PER_MM)).astype(np.float32).reshape(size)
    embedding = embed_volume(Volume(array, grid, "ct"), probe_model())
    fraction = np.random.default_rng(0).uniform(0.3, 0.7, (50, 3))
    points = grid.index_to_world(fraction * (size - 1))
    assert embedding.contains(points).all()
    expected = (points - middle) @ RADIANS_PER_MM
    found = {name: torch.atan2(d[:, 1], d[:, 0]).numpy() for name, d in zip(("fine", "coarse"), embedding.descriptors(points), strict=True)}
    return {name: float(np.abs(a - expected).max() / np.linalg.norm(RADIANS_PER_MM)) for name, a in found.items()}


@settings(max_examples=8, deadline=None)
@given(affine=affines(1.5, 5))
def test_descriptors_come_from_the_point_asked_for_in_every_orientation(affine: np.ndarray) -> None:
    assert max(probe_error_mm(affine).values()) < 0.1


def test_descriptors_come_from_the_point_asked_for_in_tiles_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Embedder, "tile", (32, 32, 32))
    assert max(probe_error_mm(OBLIQUE).values()) < 0.1


@pytest.mark.parametrize("mistake_voxels", [-0.5, 0.5])
def test_half_a_voxel_would_be_noticed(monkeypatch: pytest.MonkeyPatch, mistake_voxels: float) -> None:
    cells = Grid.cells

    def late(self: Grid, stride: tuple[int, int, int]) -> Grid:
        affine = cells(self, stride).affine.copy()
        affine[:3, 3] += self.affine[:3, 0] * mistake_voxels
        return Grid(cells(self, stride).shape_zyx, affine)

    monkeypatch.setattr(Grid, "cells", late)
    assert min(probe_error_mm(OBLIQUE).values()) > 0.3


def test_moving_the_origin_moves_the_descriptors() -> None:
    volume, by = tissue_volume(), np.array([3.7, -11.1, 0.4])
    affine = volume.grid.affine.copy()
    affine[:3, 3] += by
    here, there = (embed_volume(v, tiny_model()) for v in (volume, Volume(volume.array, Grid(volume.array.shape, affine), "ct")))
    points = volume.grid.index_to_world(np.random.default_rng(0).uniform(0, 31, (20, 3)))
    for a, b in zip(here.descriptors(points), there.descriptors(points + by), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)


def test_part_of_a_scan_gives_the_same_descriptors_at_the_same_world_points() -> None:
    """32 voxels cut off: whole coarse cells. Compared beyond the reach of the cut, about 90 voxels for one block per level."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    grid = Grid((16, 16, 208), affine)
    array = tissue(grid.shape_zyx)
    part = Volume(np.ascontiguousarray(array[:, :, 32:]), grid.cropped((0, 0, 32), (16, 16, 176)), "ct")
    whole, cut = (embed_volume(v, tiny_model()) for v in (Volume(array, grid, "ct"), part))
    index = np.random.default_rng(0).uniform((2, 2, 150), (13, 13, 205), (30, 3))
    points = grid.index_to_world(index)
    for a, b in zip(whole.descriptors(points), cut.descriptors(points), strict=True):
        assert (a * b).sum(1).min() > 0.9999
    moved = cut.descriptors(points + np.array([2, 0, 0]))[0]
    assert (whole.descriptors(points)[0] * moved).sum(1).mean() < 0.999, "one voxel off would be noticed"


def test_descriptor_at_a_cell_centre_is_the_stored_vector(tiny: Embedding) -> None:
    cells = np.random.default_rng(0).integers(0, np.array(tiny.fine.shape[:3]), (30, 3))
    fine, _ = tiny.descriptors(tiny.fine_grid.index_to_world(cells))
    stored = torch.from_numpy(tiny.fine[tuple(cells.T)].astype(np.float32))
    torch.testing.assert_close(fine, torch.nn.functional.normalize(stored, dim=1), rtol=0, atol=1e-6)
    blocks = np.argwhere(np.ones(tiny.coarse.shape[:3], bool))
    _, coarse = tiny.descriptors(tiny.coarse_grid.index_to_world(blocks))
    stored = torch.from_numpy(tiny.coarse[tuple(blocks.T)].astype(np.float32))
    torch.testing.assert_close(coarse, torch.nn.functional.normalize(stored, dim=1), rtol=0, atol=1e-6)


def test_descriptors_have_unit_length_between_cells(tiny: Embedding) -> None:
    points = tiny.grid.index_to_world(np.random.default_rng(0).uniform(0, 29, (40, 3)))
    for descriptors in tiny.descriptors(points):
        assert descriptors.dtype == torch.float32
        torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(40))


def test_every_head_of_a_descriptor_has_unit_length() -> None:
    fine = np.random.default_rng(0).normal(size=(2, 3, 4, 10)).astype(np.float16)
    made_up = Embedding(
        fine,
        fine[:1, :1, :1],
        np.ones((2, 3, 4), bool),
        np.ones((2, 3, 4), bool),
        Grid((4, 6, 8), np.eye(4)),
        (2, 2, 2),
        (4, 8, 8),
        3,
        "",
        "",
    )
    fine_at, _ = made_up.descriptors([[1.3, 2.2, 0.9], [4, 4, 2]])
    torch.testing.assert_close(fine_at.reshape(2, 2, 5).norm(dim=2), torch.ones(2, 2))


def test_no_points_have_no_descriptors(tiny: Embedding) -> None:
    fine, coarse = tiny.descriptors(np.empty((0, 3)))
    assert fine.shape == (0, 16) and coarse.shape == (0, 16)


# --- interpolation --------------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 5)] * 3), data=st.data())
def test_interpolation_is_exact_for_linear_maps_and_constant_beyond_them(shape: tuple[int, int, int], data: st.DataObject) -> None:
    index = np.array(data.draw(st.lists(st.tuples(*[st.floats(-3, 8)] * 3), min_size=1, max_size=5)))
    cells = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float16) for n in shape], indexing="ij"), axis=-1)
    np.testing.assert_allclose(interpolate(cells, index), np.clip(index, 0, np.array(shape) - 1), rtol=0, atol=1e-5)


def test_interpolation_weighs_all_eight_neighbours() -> None:
    cells = np.random.default_rng(0).normal(size=(2, 2, 2, 3)).astype(np.float16)
    expected = cells.astype(np.float32).reshape(8, 3).mean(axis=0)
    np.testing.assert_allclose(interpolate(cells, np.array([[0.5, 0.5, 0.5]]))[0], expected, atol=1e-6)


# --- tiles ----------------------------------------------------------------------------------------------------------------------------


def scaled_noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def maps_of(image: np.ndarray, network: Embedder) -> dict[str, np.ndarray]:
    """The two maps of an image by name."""
    return dict(zip(("fine", "coarse"), embed_image(image, network, "cpu"), strict=True))


def in_tiles(image: np.ndarray, network: Embedder, tile: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    reads = []
    with monkeypatch.context() as patch:
        patch.setattr(network, "tile", tile)
        patch.setattr(network, "local", lambda part, local=network.local: reads.append(part.shape) or local(part))
        maps = maps_of(image, network)
    assert len(reads) > 2 and all(tuple(r[2:]) != image.shape for r in reads), "no tile sees the whole scan"
    return maps


@pytest.mark.parametrize(
    ("make", "shape", "tile"),
    [
        (lambda: tiny_model().network, (112, 48, 32), (16, 48, 16)),
        (lambda: randomised(ResNetEmbedder(semantic=True)), (12, 112, 32), (4, 48, 32)),
        (lambda: randomised(ResNetEmbedder(semantic=True)), (17, 93, 27), (8, 48, 16)),
    ],
    ids=["compact", "resnet", "resnet, odd sizes"],
)
def test_tiles_give_the_maps_of_the_whole_scan(
    make: Callable[[], Embedder], shape: tuple[int, ...], tile: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, image = make(), scaled_noise(*shape)
    whole, tiled = maps_of(image, network), in_tiles(image, network, tile, monkeypatch)
    assert whole.keys() == tiled.keys()
    for name, value in whole.items():
        assert value.dtype == np.float16
        assert smallest_cosine(value, tiled[name]) > 1 - 1e-3, name


@pytest.mark.parametrize(
    ("make", "halo", "shape", "tile"),
    [
        (lambda: tiny_model().network, ("halo",), (112, 48, 32), (16, 48, 16)),
        (lambda: randomised(ResNetEmbedder()), ("halo", "decode_halo"), (16, 48, 32), (4, 48, 32)),
        (lambda: randomised(ResNetEmbedder()), ("decode_halo",), (16, 48, 32), (4, 48, 32)),
    ],
    ids=["compact", "resnet", "resnet, second pass"],
)
def test_missing_halo_would_be_noticed(
    make: Callable[[], Embedder], halo: tuple[str, ...], shape: tuple[int, ...], tile: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, image = make(), scaled_noise(*shape)
    whole = maps_of(image, network)
    for name in halo:
        monkeypatch.setattr(network, name, (0, 0, 0))
    assert smallest_cosine(whole["fine"], in_tiles(image, network, tile, monkeypatch)["fine"]) < 0.99


@pytest.mark.parametrize(
    ("make", "shape"), [(lambda: tiny_model().network, (32, 16, 48)), (lambda: randomised(ResNetEmbedder(semantic=True)), (9, 35, 21))]
)
def test_stored_maps_are_those_of_the_network(make: Callable[[], Embedder], shape: tuple[int, ...]) -> None:
    network, image = make(), scaled_noise(*shape)
    maps = maps_of(image, network)
    expected = {name: value[0].permute(1, 2, 3, 0) for name, value in network(torch.from_numpy(image)[None, None]).items()}
    assert network.heads == len(expected)
    coarse = expected.pop("coarse")
    np.testing.assert_allclose(maps["coarse"], coarse, rtol=0, atol=1e-3)
    np.testing.assert_allclose(maps["fine"], torch.cat([expected[n] for n in ("fine", "semantic") if n in expected], 3), rtol=0, atol=1e-3)


def test_context_runs_beside_the_kept_features_only_and_needs_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak of memory lies there: no tile is held any more, and "deep" has the order in memory that convolutions work in."""
    network = randomised(ResNetEmbedder()).to(memory_format=torch.channels_last_3d)
    made: list[weakref.ref[torch.Tensor]] = []
    orders: list[bool] = []

    def local(part: torch.Tensor, local: Callable[..., dict[str, torch.Tensor]] = network.local) -> dict[str, torch.Tensor]:
        features = local(part)
        made.extend(weakref.ref(feature) for feature in features.values())
        return features

    def context(deep: torch.Tensor, context: Callable[..., dict[str, torch.Tensor]] = network.context) -> dict[str, torch.Tensor]:
        assert not any(feature() is not None for feature in made)
        orders.append(deep.is_contiguous(memory_format=torch.channels_last_3d))
        return context(deep)

    monkeypatch.setattr(network, "tile", (8, 48, 32))
    monkeypatch.setattr(network, "local", local)
    monkeypatch.setattr(network, "context", context)
    maps_of(scaled_noise(24, 32, 32), network)
    assert len(made) == 2 * 3 and orders == [True]


def test_running_out_of_memory_halves_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, embed = [], module._embed_tiled

    def little_memory(
        image: np.ndarray, network: Embedder, device: str, core: tuple[int, int, int], *rest: object
    ) -> dict[str, np.ndarray]:
        tried.append(core)
        if max(core) > 64:
            raise torch.OutOfMemoryError("too much")
        return embed(image, network, device, core, *rest)

    network, image = tiny_model().network, scaled_noise(16, 16, 112)
    whole = maps_of(image, network)
    monkeypatch.setattr(module, "_embed_tiled", little_memory)
    monkeypatch.setattr(Embedder, "tile", (160, 192, 256))
    maps = maps_of(image, network)
    assert tried == [(160, 192, 256), (80, 96, 128), (40, 48, 64)]
    assert smallest_cosine(maps["fine"], whole["fine"]) > 1 - 1e-3


def test_running_out_of_memory_with_the_smallest_tiles_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def no_memory(image: np.ndarray, network: Embedder, device: str, core: tuple[int, int, int], *rest: object) -> None:
        tried.append(core)
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(module, "_embed_tiled", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        embed_image(scaled_noise(16, 16, 16), tiny_model().network, "cpu")
    assert 2 <= len(tried) <= 5 and max(tried[-1]) <= module.SMALLEST_TILE


# --- from scan to embedding -----------------------------------------------------------------------------------------------------------


def test_embedding_describes_itself(tiny: Embedding) -> None:
    assert tiny.grid == tissue_volume((30, 34, 37)).grid
    assert tiny.fine.shape == (16, 24, 24, 16) and tiny.coarse.shape == (4, 6, 6, 16), "padded to multiples of 16"
    assert tiny.fine.dtype == tiny.coarse.dtype == np.float16
    assert tiny.fine_grid.shape_zyx == (16, 24, 24) and tiny.coarse_grid.shape_zyx == (4, 6, 6)
    assert (tiny.model_id, tiny.name, tiny.heads, tiny.fine_stride, tiny.coarse_stride) == ("tiny", "scan", 2, (2, 2, 2), (8, 8, 8))


def test_only_the_standard_pipeline_crops_and_only_the_published_one_searches_air() -> None:
    array = np.full((40, 48, 50), -1000, np.int16)
    array[:, 14:30, 16:34] = tissue((40, 16, 18))
    scan = Volume(array, Grid(array.shape, np.diag([2.0, 2.0, 2.0, 1.0])), "ct", "scan")
    model = tiny_model()
    made = {p: embed_volume(scan, Model(model.network, replace(model.card, pipeline=p))) for p in ("standard", "released", "published")}
    assert all(e.pipeline == p and e.native == scan.grid for p, e in made.items())
    assert made["standard"].grid.shape_zyx[1] < 36 and made["standard"].grid.shape_zyx[2] < 38
    assert made["released"].grid == made["published"].grid == scan.grid
    assert made["published"].search_space.all()
    assert 0.05 < made["released"].anatomy.mean() < 0.1 < made["released"].search_space.mean() < 0.3


def test_released_models_get_their_scan_without_padding() -> None:
    network = randomised(ResNetEmbedder())
    card = replace(tiny_model().card, pipeline="released")
    embedding = embed_volume(tissue_volume((9, 35, 21)), Model(network, card))
    assert embedding.fine.shape == (4, 18, 11, 128) and embedding.coarse.shape == (2, 3, 2, 128)
    assert embedding.search_space.all(), "the last odd row counts too"
    assert embed_volume(tissue_volume((1, 5, 7)), Model(network, card)).fine.shape == (2, 8, 8, 128), "but never less than one coarse cell"


def test_points_beyond_the_scan_are_not_contained(tiny: Embedding) -> None:
    points = tiny.grid.index_to_world([(-0.4, 10, 10), (-0.6, 10, 10), (29.4, 33.4, 36.4), (30.6, 10, 10), (10, 10, 40)])
    np.testing.assert_array_equal(tiny.contains(points), [True, False, True, False, False])


def captured(volume: Volume, intensity: Intensity, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The image that the network is given."""
    model, images, real = tiny_model(), [], module.embed_image
    monkeypatch.setattr(module, "embed_image", lambda image, *rest: images.append(image) or real(image, *rest))
    embed_volume(volume, Model(model.network, replace(model.card, intensity=intensity)))
    return images[0]


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_network_sees_the_scaling_of_the_modality_and_air_beyond_the_scan(modality: Modality, monkeypatch: pytest.MonkeyPatch) -> None:
    intensity = Intensity(
        ct_knots=((-1024, -7), (1000, 1)),
        mr_percentiles=(0, 100),
        mr_range=(-3, 2),
        mr_rule="percentiles",
    )
    scan = tissue_volume((30, 30, 30))
    image = captured(Volume(scan.array, scan.grid, modality), intensity, monkeypatch)
    low, high = scan.array.min(), scan.array.max()
    expected = -7 + (scan.array + 1024) * (8 / 2024) if modality == "ct" else -3 + (scan.array - low) * (5 / (high - low))
    np.testing.assert_allclose(image[:30, :30, :30], expected, atol=1e-3)
    assert image.shape == (32, 32, 32)
    assert all(np.all(part == {"ct": -7, "mr": -3}[modality]) for part in (image[30:], image[:, 30:], image[:, :, 30:]))


def test_spacing_of_the_model_is_used() -> None:
    model = tiny_model()
    embedding = embed_volume(tissue_volume((32, 32, 64)), Model(model.network, replace(model.card, spacing_mm=4.0)))
    assert embedding.grid.shape_zyx == (16, 16, 32)
    np.testing.assert_array_equal(embedding.grid.spacing_xyz, [4, 4, 4])


def test_scan_of_unknown_modality_is_refused() -> None:
    scan = tissue_volume()
    with pytest.raises(ValueError, match="modality of scan is not known"):
        embed_volume(Volume(scan.array, scan.grid, None, "scan"), tiny_model())


def boxed(shape: tuple[int, int, int], box: tuple[slice, ...]) -> Volume:
    """A CT of 2 mm voxels: quiet air with noise of 3 HU, and soft tissue in a box."""
    array = -1000 + np.random.default_rng(0).normal(0, 3, shape)
    array[box] = tissue(array[box].shape)
    grid = Grid(shape, np.diag([2.0, 2.0, 2.0, 1.0]))
    return Volume(np.rint(array).astype(np.int16), grid.cropped((-3, 5, 9), shape), "ct", "box")


def test_anatomy_and_search_space_lie_where_the_patient_is() -> None:
    scan = boxed((64, 64, 64), (slice(None), slice(24, 44), slice(26, 40)))
    embedding = embed_volume(scan, probe_model())
    assert embedding.anatomy.shape == embedding.search_space.shape == embedding.fine.shape[:3]
    index = scan.grid.world_to_index(embedding.fine_grid.index_to_world(np.argwhere(embedding.anatomy)))
    assert 0.9 * 32 * 10 * 7 <= len(index) <= 32 * 10 * 7, "the edges of a block are rounded"
    assert (index[:, 1:] >= [24, 26]).all() and (index[:, 1:] <= [43, 39]).all()
    index = scan.grid.world_to_index(embedding.fine_grid.index_to_world(np.argwhere(embedding.search_space)))
    low, high = index.min(axis=0), index.max(axis=0)
    assert (low[1:] <= [24.5 - 6, 26.5 - 6]).all() and (high[1:] >= [42.5 + 6, 38.5 + 6]).all(), "12 mm around count too"
    assert (low[1:] >= [24 - 9, 26 - 9]).all() and (high[1:] <= [43 + 9, 39 + 9]).all()


def test_everything_is_searched_where_no_patient_is_seen() -> None:
    grid = Grid((16, 16, 16), np.diag([2.0, 2.0, 2.0, 1.0]))
    embedding = embed_volume(Volume(np.full((16, 16, 16), -1000, np.int16), grid, "ct"), probe_model())
    assert embedding.search_space.all() and embedding.anatomy.all() and embedding.grid == grid


def test_network_sees_the_search_space_at_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = boxed((64, 80, 90), (slice(20, 40), slice(26, 44), slice(30, 54)))
    intensity = Intensity(ct_knots=((-2000.0, -2000.0), (2000.0, 2000.0)))
    image = captured(scan, intensity, monkeypatch)
    model = tiny_model()
    grid = embed_volume(scan, Model(model.network, replace(model.card, intensity=intensity))).grid
    start = np.rint(scan.grid.world_to_index(grid.index_to_world([0, 0, 0]))[0]).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(start, grid.shape_zyx, strict=True))
    inner = tuple(slice(n) for n in grid.shape_zyx)
    np.testing.assert_allclose(image[inner], scan.array[box], atol=1e-3)
    np.testing.assert_allclose(grid.affine, scan.grid.cropped(start, grid.shape_zyx).affine)
    for axis, (first, last) in enumerate([(20, 39), (26, 43), (30, 53)]):
        assert 6 <= first - start[axis] <= 9 and 6 <= box[axis].stop - 1 - last <= 9


def test_mr_limits_of_models_so_far_are_those_of_their_body_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far bright specks that the mask of that time left out must not change the scale that a model was trained with."""
    array = np.random.default_rng(0).normal(20, 1, (40, 60, 200)).astype(np.float32)
    array[8:32, 10:50, 10:60] = np.random.default_rng(1).normal(400, 40, (24, 40, 50))
    plain, specked = array[:, :, :100].copy(), array.copy()
    specked[20, 30, 180:190] = 9000.0
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    volumes = [Volume(a, Grid(a.shape, affine), "mr") for a in (plain, specked)]
    rule = Intensity(mr_rule="percentiles")
    images = [captured(volume, rule, monkeypatch) for volume in volumes]
    inside = (slice(12, 28), slice(14, 46), slice(14, 52))
    np.testing.assert_array_equal(images[0][inside], images[1][inside])


SIZES = st.tuples(*[st.sampled_from([1, 2, 4, 8])] * 3)


@given(shape=st.tuples(*[st.integers(1, 9)] * 3), multiple=SIZES, steps=st.tuples(*[st.integers(1, 3)] * 3))
def test_padding_is_at_the_far_ends_and_as_little_as_possible(
    shape: tuple[int, int, int], multiple: tuple[int, int, int], steps: tuple[int, int, int]
) -> None:
    image = np.random.default_rng(0).normal(size=shape)
    least = tuple(m * s for m, s in zip(multiple, steps, strict=True))
    padded = pad(image, multiple, least, -7.0)
    for n, m, old, smallest in zip(padded.shape, multiple, shape, least, strict=True):
        assert n % m == 0 and n >= smallest and (n - m < old or n == smallest)
    inner = tuple(slice(0, n) for n in shape)
    np.testing.assert_array_equal(padded[inner], image)
    assert (padded == -7).sum() == padded.size - image.size


# --- progress and cancelling ----------------------------------------------------------------------------------------------------------


def test_progress_rises_from_zero_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Embedder, "tile", (16, 16, 16))
    calls: list[tuple[float, str]] = []
    embed_volume(tissue_volume((32, 32, 32)), probe_model(), progress=lambda *call: calls.append(call))
    fractions = [f for f, _ in calls]
    assert fractions[0] == 0 and fractions[-1] == 1 and fractions == sorted(fractions)
    assert len(set(fractions)) > 2 * 8 and all(text for _, text in calls)


def test_cancelled_embedding_does_not_start_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "embed_image", lambda *_: pytest.fail("the network was started"))
    cancel = Event()
    cancel.set()
    with pytest.raises(Cancelled):
        embed_volume(tissue_volume(), probe_model(), cancel=cancel)


@pytest.mark.parametrize("stage", ["local features", "descriptors"])
def test_cancelling_stops_at_the_next_tile(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Embedder, "tile", (16, 16, 16))
    cancel, after = Event(), []

    def progress(_: float, text: str) -> None:
        if cancel.is_set():
            after.append(text)
        if text == stage:
            cancel.set()

    with pytest.raises(Cancelled):
        embed_volume(tissue_volume((32, 32, 32)), probe_model(), progress=progress, cancel=cancel)
    assert after == []


def test_probe_is_a_proper_embedder() -> None:
    probe = Probe()
    maps = probe(torch.full((1, 1, 8, 16, 16), 0.5))
    assert maps["fine"].shape == (1, 2, 4, 8, 8) and maps["coarse"].shape == (1, 2, 2, 2, 2)
    torch.testing.assert_close(torch.atan2(maps["fine"][:, 1], maps["fine"][:, 0]), torch.full((1, 4, 8, 8), 0.5))
