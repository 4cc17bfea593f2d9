"""Fixtures that several files of this folder share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from samples import tiny_model

from UniversalAnatomicalEmbeddingLib.models import catalogue as entries
from UniversalAnatomicalEmbeddingLib.models.model import Model, save_model
from UniversalAnatomicalEmbeddingLib.system.files import sha256


@pytest.fixture
def pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue of two models in a folder of its own; "second" is the default."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    listed = []
    for seed, name in enumerate(("first", "second")):
        model = tiny_model(seed=seed)
        path = folder / f"{name}.safetensors"
        save_model(Model(model.network, replace(model.card, id=name)), path)
        listed.append({"id": name, "source": "bundled", "file": path.name, "sha256": sha256(path), "size": path.stat().st_size})
    (folder / "catalogue.json").write_text(json.dumps({"default": "second", "models": listed}))
    monkeypatch.setattr(entries, "PRETRAINED", folder)
    return folder
