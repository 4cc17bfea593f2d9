"""A training checkpoint becomes a model of the catalogue."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from training_scene import KILLED_AFTER, TINY, Recorder

from training.release import export
from UniversalAnatomicalEmbeddingLib.models import catalogue as entries
from UniversalAnatomicalEmbeddingLib.models.model import load_model

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|isinstance.treespec|srun).*")


def test_a_checkpoint_becomes_a_model_of_the_catalogue(
    folder: Path, killed: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = {
        "id": "tiny-1",
        "title": "Tiny",
        "family": "compact",
        "modality": ["ct", "mr"],
        "regions": ["chest"],
        "licence": "Apache-2.0",
        "citation": "none",
        "network": {k: list(v) if isinstance(v, tuple) else v for k, v in TINY.items()},
        "training": {"scans": "2"},
    }
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    (tmp_path / "catalogue.json").write_text(json.dumps({"default": "old", "models": [{"id": "old"}, {"id": "tiny-1"}]}))
    weights = tmp_path / "tiny.safetensors"
    options = {
        "--checkpoint": killed.checkpoint,
        "--card": tmp_path / "card.yaml",
        "--out": weights,
        "--catalogue": tmp_path / "catalogue.json",
    }
    monkeypatch.setattr(sys, "argv", ["export", *(str(part) for pair in options.items() for part in pair)])
    export.main()
    content = json.loads((tmp_path / "catalogue.json").read_text())
    assert content["default"] == "tiny-1"
    assert [m["id"] for m in content["models"]] == ["tiny-1", "old"]
    (tmp_path / "catalogue.json").write_text(json.dumps({**content, "models": content["models"][:1]}))
    monkeypatch.setattr(entries, "PRETRAINED", tmp_path)
    loaded = load_model()
    assert loaded.card.id == "tiny-1"
    assert loaded.card.modality == ("ct", "mr")
    assert loaded.card.training == {"scans": "2", "steps": KILLED_AFTER}
    state = torch.load(killed.checkpoint, weights_only=True)["state_dict"]
    assert loaded.network.state_dict().keys() == {k.removeprefix("network.") for k in state}
    for name, value in loaded.network.state_dict().items():
        torch.testing.assert_close(value, state[f"network.{name}"], atol=2e-3, rtol=2e-3, check_stride=False, check_dtype=False)
    assert not loaded.network.training
