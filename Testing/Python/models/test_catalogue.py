"""The models that are on this computer: found by id, checked, refused with the ones there are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_files import refused

from UniversalAnatomicalEmbeddingLib.models import catalogue as entries
from UniversalAnatomicalEmbeddingLib.models.catalogue import catalogue
from UniversalAnatomicalEmbeddingLib.models.model import load_model
from UniversalAnatomicalEmbeddingLib.system.files import sha256

BUNDLED = entries.PRETRAINED / "catalogue.json"


def test_default_model_comes_first(pretrained: Path) -> None:
    assert list(catalogue()) == ["second", "first"]
    assert load_model().card.id == load_model(None).card.id == "second"


def test_model_is_loaded_by_its_id(pretrained: Path) -> None:
    assert load_model("first").card.id == "first"


def test_unknown_model_is_refused_with_the_known_ones(pretrained: Path) -> None:
    refused("third", "'third'", "neither a file nor", "second, first")
    refused(pretrained / "none.safetensors", "none.safetensors")
    refused(pretrained, str(pretrained))


def test_changed_weights_are_refused(pretrained: Path) -> None:
    path = pretrained / "first.safetensors"
    before = sha256(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    refused("first", "first", str(path), before, sha256(path), "Reinstall")
    assert load_model("second").card.id == "second"


def test_missing_weights_are_refused(pretrained: Path) -> None:
    (pretrained / "first.safetensors").unlink()
    refused("first", "first", "first.safetensors")


@pytest.mark.skipif(not BUNDLED.is_file(), reason="no model is bundled yet")
def test_default_model_is_small_and_gives_unit_vectors() -> None:
    entry = next(iter(catalogue().values()))
    path = entries.PRETRAINED / entry.file
    assert entry.size == path.stat().st_size <= 16 * 2**20 and entry.sha256 == sha256(path)
    model = load_model()
    assert model.card.id == entry.id and model.card.licence and model.card.citation
    assert sum(p.numel() for p in model.network.parameters()) <= 8_000_000
    image = torch.linspace(-1, 1, 32**3).reshape(1, 1, 32, 32, 32)
    for value in model.network(image).values():
        torch.testing.assert_close(value.norm(dim=1), torch.ones_like(value[:, 0]))
