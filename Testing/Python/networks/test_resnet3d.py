"""Slices of the backbone's full resolution are worked through a few at a time."""

from __future__ import annotations

import torch
from network_samples import noise

from UniversalAnatomicalEmbeddingLib.networks.embedder import Embedder
from UniversalAnatomicalEmbeddingLib.networks.resnet3d import STEM_SLICES, join_slices


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
