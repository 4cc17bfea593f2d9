"""The feature pyramid takes the levels that it was made for."""

from __future__ import annotations

import pytest
import torch

from UniversalAnatomicalEmbeddingLib.networks.fpn3d import FPN3D


def test_pyramid_refuses_a_wrong_number_of_levels() -> None:
    with pytest.raises(ValueError, match=r"2 feature maps.*3 levels"):
        FPN3D((1, 1, 1))([torch.zeros(1, 1, 2, 2, 2)] * 2)
