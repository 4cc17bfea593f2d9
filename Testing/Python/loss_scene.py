"""Small descriptor sets for the tests of the losses."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from training.learning.losses import ContrastOptions, PairDescriptors

ALL = ContrastOptions(fine_pool=10_000, fine_keep=10_000)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=seeded(seed)), dim=-1)


def pair(matched: int = 5, others: int = 20, seed: int = 0, extent_mm: float = 200.0, frame: int = 0) -> PairDescriptors:
    """Random descriptors; the matched rows lie at the same places of the patient, more than the ignored radius apart."""
    patient = torch.rand(2, matched + others, 3, generator=seeded(seed)) * extent_mm
    patient[:, :matched] = torch.arange(matched)[:, None] * torch.tensor([60.0, 60.0, 60.0])
    fine, coarse = unit(2, matched + others, 8, seed=seed + 1), unit(2, matched + others, 6, seed=seed + 2)
    return PairDescriptors(fine, coarse, patient, matched, frames=(frame, frame), seed=seed)
