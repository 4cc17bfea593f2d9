"""Networks: released checkpoint layout, published forward maths, unit length, and tiles that equal the whole scan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from UniversalAnatomicalEmbeddingLib.networks.compact import Compact
from UniversalAnatomicalEmbeddingLib.networks.embedder import Embedder, unit_length
from UniversalAnatomicalEmbeddingLib.networks.fold import fold_batch_norm
from UniversalAnatomicalEmbeddingLib.networks.fpn3d import FPN3D
from UniversalAnatomicalEmbeddingLib.networks.resnet3d import STEM_SLICES, join_slices
from UniversalAnatomicalEmbeddingLib.networks.resnet_embedder import ResNetEmbedder

DATA = Path(__file__).parent / "data"
# How far beyond a tile (z, y, x) its own cells look, from the kernel sizes; `halo` is this, rounded up to `align`.
REACH = {"resnet": (3, 28, 28), "compact": (30, 30, 30), "fine blocks": (34, 34, 34)}


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Evaluation mode with random norms, so that no layer is close to the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if name.endswith("running_var"):
            tensor.data.uniform_(0.5, 2.0, generator=generator)
        elif name.endswith("running_mean"):
            tensor.data.normal_(0.0, 0.3, generator=generator)
        elif tensor.ndim == 1 and name.endswith("weight"):
            tensor.data.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim == 1:
            tensor.data.normal_(0.0, 0.3, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def networks() -> dict[str, Embedder]:
    """Both families; the compact one narrow, since what it sees does not depend on its widths."""
    torch.manual_seed(0)
    compact, refined = (Compact(widths=(8, 16, 16, 16), fine_channels=8, coarse_channels=8, fine_blocks=n) for n in (0, 1))
    return {"resnet": randomised(ResNetEmbedder(semantic=True)), "compact": randomised(compact), "fine blocks": randomised(refined)}


def noise(*shape: int) -> Tensor:
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1))


# --- released layout ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "semantic"), [("sam", False), ("uaes", True), ("uaem", True)])
def test_state_dict_has_the_keys_and_shapes_of_the_released_checkpoint(model: str, semantic: bool) -> None:
    with torch.device("meta"):
        network = ResNetEmbedder(semantic=semantic)
    expected = json.loads((DATA / f"ckpt_keys_{model}.json").read_text())
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == expected


@pytest.mark.parametrize(
    ("network", "least", "most"),
    [
        (lambda: ResNetEmbedder(semantic=False), 32_832_960, 32_832_960),
        (lambda: ResNetEmbedder(semantic=True), 33_333_184, 33_333_184),
        (Compact, 1_000_000, 8_000_000),
    ],
)
def test_parameter_count(network: type[Embedder], least: int, most: int) -> None:
    with torch.device("meta"):
        assert least <= sum(p.numel() for p in network().parameters()) <= most


# --- maps -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "fine", "coarse"),
    [
        ((33, 97, 95), (16, 49, 48), (8, 7, 6)),
        ((35, 96, 17), (17, 48, 9), (9, 6, 2)),
        ((2, 1, 16), (1, 1, 8), (1, 1, 1)),
    ],
)
def test_resnet_map_sizes(size: tuple[int, ...], fine: tuple[int, ...], coarse: tuple[int, ...]) -> None:
    with torch.device("meta"):
        maps = ResNetEmbedder(semantic=True)(torch.empty(2, 1, *size))
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "fine": (2, 128, *fine),
        "semantic": (2, 128, *fine),
        "coarse": (2, 128, *coarse),
    }


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


def test_resnet_computes_the_published_function(networks: dict[str, Embedder]) -> None:
    """Against the network written a second time, as plain functions of the checkpoint's entries; odd sizes on every axis."""
    network, image = networks["resnet"], noise(11, 37, 41)
    with torch.inference_mode():
        expected, found = published_maps(network.state_dict(), image), network.features(image)
    for name, value in expected.items():
        assert value.std() > 0.1
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


def test_full_resolution_is_worked_through_a_few_slices_at_a_time_and_each_once(networks: dict[str, Embedder]) -> None:
    seen: list[int] = []
    backbone = networks["resnet"].backbone
    hook = backbone.layer1.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2]))
    with torch.inference_mode():
        c1, _ = backbone.shallow(noise(2 * STEM_SLICES + 5, 16, 16))
    hook.remove()
    assert seen == [STEM_SLICES, STEM_SLICES, 4] and c1.shape[2] == STEM_SLICES + 2


def test_slices_are_joined_in_their_order_one_part_at_a_time() -> None:
    parts = [torch.randn(2, 3, depth, 4, 5) for depth in (2, 2, 1)]
    joined = join_slices(iter(parts), 5)
    assert joined.equal(torch.cat(parts, dim=2)) and joined.is_contiguous(memory_format=torch.channels_last_3d)
    assert join_slices(iter(parts[:1]), 2) is parts[0], "nothing to join"


def published_maps(state: dict[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    """The raw maps of SAM / UAE by their definition: stem, four stages of two blocks, pooling between the first two, three pyramids."""

    def conv(x: Tensor, name: str, stride: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        x = F.conv3d(x, weight, state.get(f"{name}.conv.bias"), stride, [(k - 1) // 2 for k in weight.shape[2:]])
        if f"{name}.bn.weight" not in state:
            return x
        norm = ("running_mean", "running_var", "weight", "bias")
        mean, var, gain, shift = (state[f"{name}.bn.{part}"][:, None, None, None] for part in norm)
        return (x - mean) / torch.sqrt(var + 1e-5) * gain + shift

    def stage(x: Tensor, name: str, stride: tuple[int, int, int]) -> Tensor:
        inner = conv(conv(x, f"{name}.0.conv1", stride).clamp(min=0), f"{name}.0.conv2")
        x = (inner + conv(x, f"{name}.0.downsample", stride)).clamp(min=0)
        return (conv(conv(x, f"{name}.1.conv1").clamp(min=0), f"{name}.1.conv2") + x).clamp(min=0)

    def pyramid(name: str) -> Tensor:
        merged = conv(c3, f"{name}.lateral_convs.2")
        for level, tap in ((1, c2), (0, c1)):
            _, _, z, y, x = tap.shape
            larger = merged[:, :, :z].repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)[:, :, :, :y, :x]
            merged = conv(tap, f"{name}.lateral_convs.{level}") + larger
        return conv(merged, f"{name}.fpn_convs.0")

    full = stage(conv(image, "backbone.conv1").clamp(min=0), "backbone.layer1", (1, 2, 2))
    even = full[:, :, : full.shape[2] // 2 * 2]
    c1 = torch.maximum(even[:, :, 0::2], even[:, :, 1::2])
    c2 = stage(c1, "backbone.layer2", (1, 2, 2))
    c3 = stage(c2, "backbone.layer3", (1, 2, 2))
    c4 = stage(c3, "backbone.layer4", (2, 2, 2))
    coarse = conv(conv(c4, "read_out_head.lateral_convs.0"), "read_out_head.fpn_convs.0")
    return {"fine": pyramid("neck"), "semantic": pyramid("semantic_head"), "coarse": coarse}


def test_pyramid_refuses_a_wrong_number_of_levels() -> None:
    with pytest.raises(ValueError, match=r"2 feature maps.*3 levels"):
        FPN3D((1, 1, 1))([torch.zeros(1, 1, 2, 2, 2)] * 2)


# --- tiles ----------------------------------------------------------------------------------------------------------------------------


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


# --- the compact network --------------------------------------------------------------------------------------------------------------


def test_compact_does_not_know_what_lies_beyond_its_receptive_field(networks: dict[str, Embedder]) -> None:
    """146 voxels: changing the far end of a scan, or cutting it off, leaves every cell beyond as it was (no statistics over space)."""
    network, image, cut, field = networks["compact"], noise(16, 16, 256), 16, 146
    changed = image.clone()
    changed[..., :cut] = 5.0
    with torch.inference_mode():
        whole, other, cropped = (network.features(i) for i in (image, changed, image[..., cut:]))
    for key, stride in (("fine", network.fine_stride[2]), ("coarse", network.coarse_stride[2])):
        first, shift = -(-(cut + field) // stride), cut // stride
        torch.testing.assert_close(other[key][..., first:], whole[key][..., first:], rtol=0, atol=1e-5)
        torch.testing.assert_close(cropped[key][..., first - shift :], whole[key][..., first:], rtol=0, atol=1e-5)
        assert whole[key][..., first:].std() > 0.01
        assert (other[key][..., shift] - whole[key][..., shift]).abs().max() > 1e-2
        assert (cropped[key][..., 0] - whole[key][..., shift]).abs().max() > 1e-2


def test_compact_has_no_norm_that_would_look_at_the_image() -> None:
    """Batch norm has frozen statistics in evaluation mode; instance, group and response norms would see the field of view."""
    kinds = (nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LocalResponseNorm)
    with torch.device("meta"):
        assert [name for name, module in Compact().named_modules() if isinstance(module, kinds)] == []


# --- batch norm folding ---------------------------------------------------------------------------------------------------------------


def test_folding_batch_norm_keeps_the_maps(networks: dict[str, Embedder]) -> None:
    network, image = networks["resnet"], noise(8, 32, 32)
    folded = fold_batch_norm(network)
    with torch.inference_mode():
        expected, found = network.features(image), folded.features(image)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
    assert sum(isinstance(module, nn.BatchNorm3d) for module in network.modules()) == 21
    assert folded.halo == network.halo


def test_folding_takes_a_bias_along_and_leaves_nothing_to_train() -> None:
    network, image = randomised(nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4))), noise(4, 4, 4)
    folded = fold_batch_norm(network.requires_grad_(False))
    torch.testing.assert_close(folded(image), network(image))
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_folding_needs_evaluation_mode() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=r"eval\(\)"):
        fold_batch_norm(ResNetEmbedder())
