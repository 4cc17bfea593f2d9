"""Models: what is saved loads again, and files that are no usable model say what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import refused
from safetensors.torch import load_file, save_file
from samples import TINY, randomised, tiny_model

from UniversalAnatomicalEmbeddingLib.images.preprocess import INPUT_VERSION, PREPROCESS_VERSION, Intensity
from UniversalAnatomicalEmbeddingLib.models import model as module
from UniversalAnatomicalEmbeddingLib.models.model import Model, ModelCard, build_network, load_model, save_model
from UniversalAnatomicalEmbeddingLib.networks.compact import Compact
from UniversalAnatomicalEmbeddingLib.networks.resnet_embedder import ResNetEmbedder

CARD = replace(
    tiny_model().card,
    intensity=Intensity(ct_knots=((-1024, -50), (3071, 205)), mr_percentiles=(0.2, 99.8), mr_range=(-50, 205), mr_foreground=False),
    calibration={"correct": [1.0, 2.0, 3.0, 4.0, 5.0], "present": [1.0, 2.0, 3.0, 4.0, 5.0], "absent_below": 0.25},
    accuracy={"mean_mm": 4.5},
    title="Tïny",
)


def write(path: Path, weights: dict[str, torch.Tensor] | None = None, card: str | None = None) -> Path:
    """A weights file with the tiny model's card, or with another one."""
    state = {k: v.contiguous() for k, v in tiny_model().network.state_dict().items()} if weights is None else weights
    save_file(state, path, metadata={"card": CARD.to_json() if card is None else card})
    return path


# --- card -----------------------------------------------------------------------------------------------------------------------------


def test_card_comes_back_from_json() -> None:
    assert ModelCard.from_json(CARD.to_json()) == CARD


@pytest.mark.parametrize(
    "change",
    [lambda v: v.update(colour="blue"), lambda v: v.pop("licence"), lambda v: v["intensity"].update(gamma=2), lambda v: v.pop("intensity")],
    ids=["unknown field", "missing field", "unknown intensity", "no intensity"],
)
def test_card_with_other_fields_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(CARD.to_json())
    change(values)
    with pytest.raises((TypeError, KeyError, ValueError)):
        ModelCard.from_json(json.dumps(values))


# --- saving and loading ---------------------------------------------------------------------------------------------------------------


def test_saved_model_comes_back(pretrained: Path, tmp_path: Path) -> None:
    saved = Model(tiny_model(seed=3).network, CARD)
    save_model(saved, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.card == CARD
    expected = saved.network.state_dict()
    assert loaded.network.state_dict().keys() == expected.keys()
    for key, value in loaded.network.state_dict().items():
        assert value.dtype == expected[key].dtype
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-6)


def test_loaded_model_gives_the_same_maps(pretrained: Path, tmp_path: Path) -> None:
    saved = tiny_model(seed=3)
    save_model(saved, tmp_path / "model.safetensors")
    image = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    loaded = load_model(str(tmp_path / "model.safetensors")).network
    for name, value in loaded(image).items():
        assert torch.nn.functional.cosine_similarity(value, saved.network(image)[name], dim=1).min() > 0.999


def test_loaded_model_is_ready_for_use(pretrained: Path, tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "model.safetensors")
    network = load_model(tmp_path / "model.safetensors").network
    assert not network.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())


def test_network_arguments_come_from_the_card(pretrained: Path, tmp_path: Path) -> None:
    card = replace(CARD, network={**TINY, "widths": [8, 8, 16, 16], "blocks": [2, 1, 1]})
    save_model(Model(randomised(build_network(card)), card), tmp_path / "model.safetensors")
    network = load_model(tmp_path / "model.safetensors").network
    assert network.lateral3.weight.shape[:2] == (16, 16) and network.lateral2.weight.shape[:2] == (8, 16)


def test_kernels_are_stored_in_half_precision(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "model.safetensors")
    assert {v.dtype for v in load_file(tmp_path / "model.safetensors").values() if v.ndim > 1} == {torch.float16}


def test_statistics_beyond_half_precision_do_not_become_infinite(pretrained: Path, tmp_path: Path) -> None:
    """The variance of a first layer that sees raw intensities easily exceeds 65504, the largest half-precision number."""
    model = tiny_model()
    model.network.stem[1].running_var.fill_(1e5)
    save_model(model, tmp_path / "model.safetensors")
    found = load_model(tmp_path / "model.safetensors").network.stem[1].running_var
    torch.testing.assert_close(found, torch.full_like(found, 1e5), rtol=1e-3, atol=0)


def test_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(weights: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(module, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_model(tiny_model(), path)
    assert path.read_bytes() == b"old"


def test_finished_save_leaves_one_file(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "model.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_both_families_can_be_built() -> None:
    assert isinstance(build_network(CARD), Compact)
    with torch.device("meta"):
        network = build_network(replace(CARD, family="resnet3d18-fpn", network={"semantic": True}))
    assert isinstance(network, ResNetEmbedder) and hasattr(network, "semantic_head")


# --- files that are no model ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x04\x95pickle"], ids=["empty", "text", "pickle"])
def test_file_that_is_not_safetensors_is_refused(pretrained: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    refused(path, str(path), "not a readable .safetensors")


def test_truncated_file_is_refused(pretrained: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    refused(path, str(path), "not a readable .safetensors")


@pytest.mark.parametrize("metadata", [None, {"other": "text"}])
def test_weights_without_a_card_are_refused(pretrained: Path, tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata=metadata)
    refused(tmp_path / "model.safetensors", "model.safetensors", "no model card")


@pytest.mark.parametrize(
    "card",
    [
        "not json",
        CARD.to_json().replace('"licence"', '"license"'),
        json.dumps({**json.loads(CARD.to_json()), "colour": "blue"}),
        replace(CARD, network={**TINY, "depth": 3}).to_json(),
    ],
    ids=["no json", "renamed field", "field of a newer version", "unknown network argument"],
)
def test_weights_with_an_unusable_card_are_refused(pretrained: Path, tmp_path: Path, card: str) -> None:
    refused(write(tmp_path / "model.safetensors", card=card), "model.safetensors")


def test_unknown_family_is_refused(pretrained: Path, tmp_path: Path) -> None:
    refused(write(tmp_path / "a.safetensors", card=replace(CARD, family="vit").to_json()), "'vit'", "compact, resnet3d18-fpn", "Update")


@pytest.mark.parametrize(
    ("version", "remedy"), [(INPUT_VERSION - 1, "train it again"), (PREPROCESS_VERSION + 1, "Update the package")], ids=["old", "newer"]
)
def test_model_that_was_trained_on_another_input_is_refused(pretrained: Path, tmp_path: Path, version: int, remedy: str) -> None:
    card = replace(CARD, preprocess_version=version).to_json()
    refused(write(tmp_path / "a.safetensors", card=card), f"version {version};", f"{INPUT_VERSION} to {PREPROCESS_VERSION}", remedy)


def test_model_from_before_a_change_that_no_network_sees_is_used(tmp_path: Path) -> None:
    card = replace(CARD, preprocess_version=INPUT_VERSION)
    assert load_model(write(tmp_path / "a.safetensors", card=card.to_json())).card.preprocess_version == INPUT_VERSION


def test_weights_of_wrong_shapes_are_listed(pretrained: Path, tmp_path: Path) -> None:
    weights = {k: v.contiguous() for k, v in tiny_model().network.state_dict().items()}
    weights["stem.0.weight"] = torch.zeros(16, 8, 1, 1, 1)
    weights["left.over"] = torch.zeros(3)
    del weights["lateral1.bias"]
    path = write(tmp_path / "a.safetensors", weights)
    refused(
        path,
        str(path),
        "3 tensors",
        "stem.0.weight: found (16, 8, 1, 1, 1), expected (16, 8, 3, 3, 3)",
        "left.over: found (3,), expected nothing",
        "lateral1.bias: found nothing, expected (16,)",
    )
