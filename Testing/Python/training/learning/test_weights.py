"""Training starts from an earlier model."""

from __future__ import annotations

import pytest
import torch
from training_scene import TINY, semantic_module

from training.learning.weights import initial_weights, load_initial
from UniversalAnatomicalEmbeddingLib.models.model import Model, ModelCard, save_model
from UniversalAnatomicalEmbeddingLib.networks.compact import Compact
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|isinstance.treespec|srun).*")


def test_a_semantic_head_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"semantic_channels is 4; it must be 0 or equal to fine_channels \(8\)"):
        Compact(**TINY, semantic_channels=4)


def test_training_starts_from_an_earlier_model_with_a_new_head(tmp_path) -> None:
    torch.manual_seed(3)
    earlier = Compact(**TINY)
    card = ModelCard(
        "earlier", "Earlier", "compact", ("ct",), (), "", "", network={k: list(v) if isinstance(v, tuple) else v for k, v in TINY.items()}
    )
    save_model(Model(earlier.eval(), card), tmp_path / "earlier.safetensors")
    torch.save({"state_dict": {f"network.{k}": v for k, v in earlier.state_dict().items()}}, tmp_path / "last.ckpt")
    for name, tolerance in (("earlier.safetensors", 1e-3), ("last.ckpt", 0)):
        network = Compact(**TINY, semantic_channels=8)
        head = network.semantic_head.project.weight.clone()
        new = load_initial(network, tmp_path / name)
        assert new
        assert all(k.startswith("semantic_head.") for k in new)
        assert torch.equal(network.semantic_head.project.weight, head)
        for key, value in earlier.state_dict().items():
            torch.testing.assert_close(network.state_dict()[key], value, atol=tolerance, rtol=tolerance)
    assert load_initial(Compact(**TINY), tmp_path / "last.ckpt") == []
    with pytest.raises(InputError, match=r"do not fit this network: \d+ tensors are missing or of another shape, 0 have no place"):
        load_initial(Compact(**(TINY | {"fine_channels": 16})), tmp_path / "last.ckpt")
    module = semantic_module(initial=str(tmp_path / "last.ckpt"))
    assert torch.equal(module.network.stem[0].weight, initial_weights(tmp_path / "last.ckpt")["stem.0.weight"])
