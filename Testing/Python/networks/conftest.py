"""Fixtures that several files of this folder share."""

from __future__ import annotations

import pytest
import torch
from network_samples import randomised

from UniversalAnatomicalEmbeddingLib.networks.compact import Compact
from UniversalAnatomicalEmbeddingLib.networks.embedder import Embedder
from UniversalAnatomicalEmbeddingLib.networks.resnet_embedder import ResNetEmbedder


@pytest.fixture(scope="module")
def networks() -> dict[str, Embedder]:
    """Both families; the compact one narrow, since what it sees does not depend on its widths."""
    torch.manual_seed(0)
    compact, refined = (Compact(widths=(8, 16, 16, 16), fine_channels=8, coarse_channels=8, fine_blocks=n) for n in (0, 1))
    return {"resnet": randomised(ResNetEmbedder(semantic=True)), "compact": randomised(compact), "fine blocks": randomised(refined)}
