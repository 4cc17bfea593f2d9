"""Batch norm folded into the convolutions gives the same maps."""

from __future__ import annotations

import pytest
import torch
from network_samples import noise, randomised
from torch import nn

from UniversalAnatomicalEmbeddingLib.networks.embedder import Embedder
from UniversalAnatomicalEmbeddingLib.networks.fold import fold_batch_norm
from UniversalAnatomicalEmbeddingLib.networks.resnet_embedder import ResNetEmbedder


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
