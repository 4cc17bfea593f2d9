"""Views for the tests of augmentation."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Generator, Tensor

from training.batches.augment import Augmentation, ViewParameters, draw_view

SHAPE = (24, 32, 28)

CENTRE = torch.tensor([15.0, -40.0, 300.0])

CLEAR = Augmentation(jitter_mm=10, truncate_p=0, thick_slice_p=0, noise=0, blur_p=0, remap_p=0, bias_p=0, table_p=0, metal_p=0)

STILL = replace(CLEAR, zoom=(1, 1), stretch=0, rotation_deg=0, large_rotation_p=0, jitter_mm=0)

ROUGH = Augmentation(truncate_p=1, thick_slice_p=1, noise=0.3, blur_p=1, remap_p=1, bias_p=1, elastic_p=1, table_p=1, metal_p=1)

SLOPE = 0.009


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def view(seed: int, elastic: bool, a: Augmentation = CLEAR, shape: tuple[int, int, int] = SHAPE) -> ViewParameters:
    return draw_view(CENTRE, shape, elastic, a, seeded(seed))


@cache
def ramp(axis: int) -> tuple[Tensor, Tensor]:
    """An oblique volume of 2 mm voxels whose value rises with one patient coordinate, and its mm-to-index matrix (3, 4)."""
    linear = Rotation.from_euler("xyz", (10, -15, 20), degrees=True).as_matrix() * 2.0
    offset = CENTRE.numpy() - linear @ [47.5, 47.5, 47.5]
    index_xyz = np.indices((96, 96, 96)).reshape(3, -1).T[:, ::-1]
    position = index_xyz @ linear[axis] + offset[axis] - float(CENTRE[axis])
    inverse = np.linalg.inv(linear)
    mm_to_index = np.hstack([inverse, (-inverse @ offset)[:, None]])
    return torch.from_numpy((SLOPE * position).clip(-0.99, 0.99).reshape(96, 96, 96)).float(), torch.from_numpy(mm_to_index).float()
