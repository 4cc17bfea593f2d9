"""Networks: released checkpoint layout, published forward maths, unit length, and tiles that equal the whole scan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from network_samples import noise
from torch import Tensor
from torch.nn import functional as F

from UniversalAnatomicalEmbeddingLib.networks.compact import Compact
from UniversalAnatomicalEmbeddingLib.networks.embedder import Embedder
from UniversalAnatomicalEmbeddingLib.networks.resnet_embedder import ResNetEmbedder

DATA = Path(__file__).parents[1] / "data"


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


def test_resnet_computes_the_published_function(networks: dict[str, Embedder]) -> None:
    """Against the network written a second time, as plain functions of the checkpoint's entries; odd sizes on every axis."""
    network, image = networks["resnet"], noise(11, 37, 41)
    with torch.inference_mode():
        expected, found = published_maps(network.state_dict(), image), network.features(image)
    for name, value in expected.items():
        assert value.std() > 0.1
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


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
