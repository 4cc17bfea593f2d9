"""What every network promises: strides, unit length, tiles that equal the whole scan."""

from __future__ import annotations

import pytest
import torch
from network_samples import noise
from torch import Tensor

from UniversalAnatomicalEmbeddingLib.networks.embedder import Embedder, unit_length

# How far beyond a tile (z, y, x) its own cells look, from the kernel sizes; `halo` is this, rounded up to `align`.
REACH = {"resnet": (3, 28, 28), "compact": (30, 30, 30), "fine blocks": (34, 34, 34)}


@pytest.mark.parametrize("name", list(REACH))
def test_strides_describe_the_maps(networks: dict[str, Embedder], name: str) -> None:
    network, size = networks[name], torch.tensor((16, 32, 48))
    with torch.inference_mode():
        local = network.local(noise(*size))
        context = network.context(local["deep"])
        fine = dict(network.decode(local, context["top"]))["fine"]
    found = [tuple((size / torch.tensor(m.shape[2:])).tolist()) for m in (fine, context["coarse"], local["deep"], context["top"])]
    assert found == [network.fine_stride, network.coarse_stride, network.deep_stride, network.top_stride]


@pytest.mark.parametrize("name", list(REACH))
def test_descriptors_have_unit_length(networks: dict[str, Embedder], name: str) -> None:
    with torch.inference_mode():
        features = networks[name].features(noise(16, 32, 32))
        maps = networks[name](noise(16, 32, 32))
    assert maps.keys() == features.keys() == {"fine", "coarse", *(["semantic"] if name == "resnet" else [])}
    for key, value in maps.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.norm(dim=1), torch.ones_like(value[:, 0]))
        assert (features[key].norm(dim=1) - 1).abs().max() > 0.1
        torch.testing.assert_close(value * features[key].norm(dim=1, keepdim=True), features[key])


def test_unit_length_survives_half_precision_and_zeros() -> None:
    tiny = torch.full((1, 4, 1, 1, 2), 1e-4, dtype=torch.float16)  # its squares vanish in half precision
    tiny[..., 1] = 0
    assert unit_length(tiny)[0, :, 0, 0].T.tolist() == [[pytest.approx(0.5)] * 4, [0.0] * 4]


def tile_slices(core: list[tuple[int, int]], halo: tuple[int, ...], size: tuple[int, ...]) -> list[tuple[int, int]]:
    """The core grown by the halo, cut at the scan's borders."""
    return [(max(0, a - h), min(n, b + h)) for (a, b), h, n in zip(core, halo, size, strict=True)]


def cells(m: Tensor, box: list[tuple[int, int]], stride: tuple[int, ...], origin: tuple[int, ...] = (0, 0, 0)) -> Tensor:
    """The cells of a map that lie in a box of voxels; ``origin`` is the voxel at which the map starts."""
    z, y, x = (slice((a - o) // s, (b - o) // s) for (a, b), s, o in zip(box, stride, origin, strict=True))
    return m[:, :, z, y, x]


@pytest.mark.parametrize(
    ("name", "size", "inner"),
    [("resnet", (20, 112, 112), [(8, 12), (48, 64), (48, 64)]), ("compact", (112, 112, 112), [(48, 64), (48, 64), (48, 64)])],
)
def test_tiles_equal_the_whole_scan(networks: dict[str, Embedder], name: str, size: tuple[int, ...], inner: list[tuple[int, int]]) -> None:
    network, image = networks[name], noise(*size)
    corner = [(0, 8 if name == "resnet" else 16), (96, 112), (0, 16)]
    with torch.inference_mode():
        whole = network.local(image)
        context = network.context(whole["deep"])
        fine = dict(network.decode(whole, context["top"]))
        for core in (inner, corner):
            assert difference(network, image, core, network.halo, whole, context, fine) < 1e-4
        assert difference(network, image, inner, (0, 0, 0), whole, context, fine) > 1e-2


def difference(
    network: Embedder,
    image: Tensor,
    core: list[tuple[int, int]],
    halo: tuple[int, ...],
    whole: dict[str, Tensor],
    context: dict[str, Tensor],
    fine: dict[str, Tensor],
) -> float:
    """Largest deviation, in "deep" and in every decoded map, of a tile's core from the same cells of the whole scan."""
    tile = tile_slices(core, halo, tuple(image.shape[2:]))
    assert halo == (0, 0, 0) or all(b - a < n for (a, b), n in zip(tile, image.shape[2:], strict=True))
    origin = tuple(a for a, _ in tile)
    local = network.local(cells(image, tile, (1, 1, 1)))
    maps = dict(network.decode(local, cells(context["top"], tile, network.top_stride)))
    pairs = [(cells(local["deep"], core, network.deep_stride, origin), cells(whole["deep"], core, network.deep_stride))]
    pairs += [(cells(maps[key], core, network.fine_stride, origin), cells(fine[key], core, network.fine_stride)) for key in fine]
    assert all(b.numel() > 0 and b.std() > 0.01 for _, b in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", list(REACH))
def test_halo_is_what_the_layers_see_and_no_more(networks: dict[str, Embedder], name: str, axis: int) -> None:
    """Not-a-number spreads to every cell that sees it, so it shows the reach of a core that lies in the middle of a thin scan."""
    network, reach = networks[name], REACH[name][axis]
    align, size = network.align[axis], list(network.align)
    size[axis], start, stop = 7 * align, 3 * align, 4 * align
    clean = torch.zeros(1, 1, *size)
    with torch.inference_mode():
        top = network.context(network.local(clean)["deep"])["top"]

        def core_is_finite(beyond: int, above: bool) -> bool:
            image = clean.clone()
            part = slice(stop + beyond, None) if above else slice(0, start - beyond)
            image[(slice(None), slice(None), *(part if a == axis else slice(None) for a in range(3)))] = torch.nan
            assert image.isnan().any()
            local = network.local(image)
            maps = dict(network.decode(local, top))
            box = [(start, stop) if a == axis else (0, n) for a, n in enumerate(size)]
            inside = [cells(local["deep"], box, network.deep_stride), *(cells(m, box, network.fine_stride) for m in maps.values())]
            return all(bool(m.isfinite().all()) for m in inside)

        assert core_is_finite(reach, above=False)
        assert core_is_finite(reach, above=True)
        assert not core_is_finite(reach - 1, above=False)
    assert network.halo[axis] == -(-reach // align) * align
