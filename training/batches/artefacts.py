"""What lies in the scanner with the patient: the table, and metal with what it does to the image. Lengths in voxels of the view."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

AIR = -1.0
TISSUE = -0.6
METAL = 1.0
RIM = 0.9


@dataclass(frozen=True)
class Table:
    """A plate that runs along z below (larger y) the patient: ``gap`` under the lowest tissue, ``sagitta`` how much higher its edges are,
    ``middle`` its lowest point as a share of the width, values of its ``shell`` and foam ``core`` on the network's scale."""

    gap: float
    thickness: float
    sagitta: float
    middle: float
    shell: float
    core: float


@dataclass(frozen=True)
class Metal:
    """A ball at ``centre`` (z, y, x) that shines and throws ``streaks`` alternating rays in its slices (CT) or leaves a ``void`` with a bright rim (MR)."""

    centre: tuple[float, float, float]
    radius: float
    void: bool
    streaks: int
    phase: float
    strength: float
    reach: float


def draw_table(g: Generator) -> Table:
    """A random table of the usual kinds, flat or curved."""
    r = torch.rand(6, generator=g).tolist()
    return Table(
        gap=3 * r[0], thickness=3 + 7 * r[1], sagitta=25 * r[2], middle=0.3 + 0.4 * r[3], shell=-0.5 + 0.8 * r[4], core=-0.97 + 0.12 * r[5]
    )


def draw_metal(shape_zyx: tuple[int, int, int], void: bool, g: Generator) -> Metal:
    """Random metal, from a clip to a joint, in the middle of a view of ``shape_zyx``."""
    r = torch.rand(7, generator=g).tolist()
    z, y, x = (n * (0.2 + 0.6 * share) for n, share in zip(shape_zyx, r, strict=False))
    return Metal((z, y, x), 1 + 7 * r[3] ** 2, void, 2 + int(5 * r[4]), 6.2832 * r[5], 0.4 + 0.8 * r[6], 4 + 16 * r[3])


def paint_table(image: Tensor, table: Table) -> Tensor:
    """``image`` ``(1, 1, z, y, x)`` with the table: only in air that has no tissue below it, so never inside the patient."""
    tissue = image > TISSUE
    open_below = ~(tissue.flip(3).cumsum(3) > 0).flip(3)
    y = torch.arange(image.shape[3], device=image.device, dtype=image.dtype)[:, None]
    x = torch.arange(image.shape[4], device=image.device, dtype=image.dtype)
    lowest = (tissue.any(4).any(2)[0, 0] * y[:, 0]).amax()
    half = image.shape[4] / 2
    depth = y - (lowest + 1 + table.gap - table.sagitta * ((x - table.middle * image.shape[4]) / half) ** 2)
    value = torch.where((depth < 1.5) | (depth > table.thickness - 1.5), table.shell, table.core)
    plate = (depth >= 0) & (depth < table.thickness) & open_below
    return torch.where(plate, torch.maximum(image, value.expand_as(image)), image)


def paint_metal(image: Tensor, metal: Metal) -> Tensor:
    """``image`` ``(1, 1, z, y, x)`` with the metal and its streaks or void."""
    axes = [torch.arange(n, device=image.device, dtype=image.dtype) - c for n, c in zip(image.shape[2:], metal.centre, strict=True)]
    z, y, x = axes[0][:, None, None], axes[1][:, None], axes[2]
    distance = (z**2 + y**2 + x**2).sqrt()
    if metal.void:
        image = torch.where(distance < 1.3 * metal.radius, torch.maximum(image, torch.full_like(image, RIM)), image)
        return torch.where(distance < metal.radius, AIR, image)
    rays = torch.cos(metal.streaks * torch.atan2(y, x) + metal.phase) * torch.exp(-(y**2 + x**2).sqrt() / metal.reach)
    image = image + metal.strength * rays * torch.exp(-((z / metal.radius) ** 2))
    return torch.where(distance < metal.radius, METAL, image).clamp(AIR, METAL)
