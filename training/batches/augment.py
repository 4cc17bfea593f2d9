"""Random views of a volume with exactly known correspondence.

Parameters are drawn on the CPU by a ``torch.Generator`` (:func:`draw_view`), apart from their application on any device (:func:`cut_view`).
A view is a small image whose voxel ``index`` shows the patient position ``affine(index) + displacement(index)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from .artefacts import AIR, Metal, Table, draw_metal, draw_table, paint_metal, paint_table


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random views; lengths in mm, angles in degrees, intensities on the network's -1..1 scale.

    ``jitter_mm`` one number or one each along x, y, z. A remap is a curve through ``remap_nodes`` points (a number or a range): of random "steps", or
    of points moved between their "neighbours" as UAE has it (section 3.3); ``remap_own_range_p`` of them span the view's own range instead of the
    scale's; ``nonmonotone_p`` of them do not keep the order of intensities, ``invert_p`` turn it round. Air stays air. Views of CT, whose intensities are
    a scale, get only a share ``ct_contrast`` of the remaps and bias fields. ``table_p`` is for CT only.
    ``mirror_p`` of the pairs show a mirrored patient, in both views (:func:`draw_mirror`).
    """

    zoom: tuple[float, float] = (0.8, 1.25)
    stretch: float = 0.08
    rotation_deg: float = 10.0
    large_rotation_p: float = 0.1
    large_rotation_deg: float = 30.0
    jitter_mm: float | tuple[float, float, float] = 30.0
    elastic_p: float = 0.7
    elastic_mm: float = 4.0
    elastic_nodes: int = 7
    truncate_p: float = 0.15
    truncate_keep: tuple[float, float] = (0.5, 1.0)
    thick_slice_p: float = 0.2
    thick_slice_voxels: tuple[int, int] = (2, 4)
    noise: float = 0.04
    blur_p: float = 0.2
    blur_voxels: float | tuple[float, float] = 1.2
    remap_p: float = 0.3
    remap_style: Literal["steps", "neighbours"] = "steps"
    remap_nodes: int | tuple[int, int] = 6
    remap_strength: float = 0.5
    remap_own_range_p: float = 0.0
    nonmonotone_p: float = 0.15
    invert_p: float = 0.1
    bias_p: float = 0.15
    bias_strength: float = 0.4
    ct_contrast: float = 1.0
    table_p: float = 0.1
    metal_p: float = 0.05
    mirror_p: float = 0.0


@dataclass(frozen=True)
class ViewParameters:
    """Everything random about one view.

    ``affine`` (3, 4): view index (x, y, z) to patient mm; ``displacement`` (1, 3, k, k, k) in mm, order x, y, z, or None; ``box`` (2, 3): kept index
    range (z, y, x); ``thick`` (axis, voxels) or None; ``remap`` (n,) values at equally spaced inputs, over the view's own range where
    ``remap_own_range``, or None; ``bias`` (1, 1, 4, 4, 4) or None; ``mirrored``: what looks like a left kidney is the patient's right one.
    """

    shape_zyx: tuple[int, int, int]
    affine: Tensor
    displacement: Tensor | None
    box: Tensor
    thick: tuple[int, int] | None
    blur: float
    noise: float
    noise_seed: int
    remap: Tensor | None
    bias: Tensor | None
    remap_own_range: bool = False
    table: Table | None = None
    metal: Metal | None = None
    mirrored: bool = False

    def to(self, device: torch.device) -> ViewParameters:
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return ViewParameters(**{**vars(self), **moved})


def draw_mirror(a: Augmentation, g: Generator) -> bool:
    """Whether a pair shows a mirrored patient. To be drawn once for both views: one mirrored view of two would teach that left is right."""
    return _chance(a.mirror_p, g)


def draw_view(
    centre_mm: Tensor,
    shape_zyx: tuple[int, int, int],
    elastic: bool,
    a: Augmentation,
    g: Generator,
    modality: str = "ct",
    mirror: bool = False,
) -> ViewParameters:
    """Draw one view of about ``2 * shape`` mm around ``centre_mm`` (3,), x, y, z, of a scan of ``modality``. ``elastic`` allows a smooth deformation;
    ``mirror`` turns the view's x axis round."""
    limit = a.large_rotation_deg if _chance(a.large_rotation_p, g) else a.rotation_deg
    scale = 2.0 * _uniform(*a.zoom, g) * (1 + a.stretch * (2 * torch.rand(3, generator=g) - 1))
    matrix = _rotation(torch.deg2rad(limit * (2 * torch.rand(3, generator=g) - 1))) * scale
    if mirror:
        matrix = matrix * torch.tensor([-1.0, 1.0, 1.0])
    middle = (torch.tensor(shape_zyx[::-1]) - 1) / 2
    centre = centre_mm + torch.tensor(a.jitter_mm) * (2 * torch.rand(3, generator=g) - 1)
    affine = torch.cat([matrix, (centre - matrix @ middle)[:, None]], dim=1)
    displacement = None
    if elastic and _chance(a.elastic_p, g):
        k = a.elastic_nodes
        displacement = a.elastic_mm * torch.rand(1, generator=g) * torch.randn(1, 3, k, k, k, generator=g)
    size = torch.tensor(shape_zyx, dtype=torch.float32)
    share = torch.tensor([_uniform(*a.truncate_keep, g) if _chance(a.truncate_p, g) else 1.0 for _ in range(3)])
    start = (size * (1 - share)) * torch.rand(3, generator=g)
    box = torch.stack([start.ceil(), (start + size * share - 1).floor()])
    thick = None
    if _chance(a.thick_slice_p, g):
        axis = 0 if _chance(0.7, g) else int(torch.randint(0, 3, (1,), generator=g))
        thick = (axis, int(torch.randint(a.thick_slice_voxels[0], a.thick_slice_voxels[1] + 1, (1,), generator=g)))
    contrast = a.ct_contrast if modality == "ct" else 1.0
    remap = _draw_remap(a, g) if _chance(contrast * a.remap_p, g) else None
    low, high = a.blur_voxels if isinstance(a.blur_voxels, tuple) else (0.3, a.blur_voxels)
    return ViewParameters(
        shape_zyx=shape_zyx,
        affine=affine,
        displacement=displacement,
        box=box,
        thick=thick,
        blur=_uniform(low, high, g) if _chance(a.blur_p, g) else 0.0,
        noise=_uniform(0.0, a.noise, g),
        noise_seed=int(torch.randint(0, 2**31, (1,), generator=g)),
        remap=remap,
        bias=a.bias_strength * torch.randn(1, 1, 4, 4, 4, generator=g) if _chance(contrast * a.bias_p, g) else None,
        remap_own_range=remap is not None and _chance(a.remap_own_range_p, g),
        table=draw_table(g) if modality == "ct" and _chance(a.table_p, g) else None,
        metal=draw_metal(shape_zyx, modality != "ct", g) if _chance(a.metal_p, g) else None,
        mirrored=mirror,
    )


def padded(view: ViewParameters, shapes: Sequence[tuple[int, int, int]]) -> ViewParameters:
    """The view in the smallest of ``shapes`` (z, y, x) that holds it, with air around; itself where none does."""
    fitting = [s for s in shapes if all(n <= m for n, m in zip(view.shape_zyx, s, strict=True))]
    return replace(view, shape_zyx=min(fitting, key=math.prod)) if fitting else view


def cut_view(volume: Tensor, mm_to_index: Tensor, view: ViewParameters) -> Tensor:
    """Sample ``volume`` ``(Z, Y, X)`` (network scale) as ``view``, on the device of the view. Returns float32 ``(1, 1, z, y, x)``.

    ``mm_to_index`` (3, 4) takes patient mm (x, y, z) to volume index (x, y, z). Only the part of the volume that the view needs is read and
    copied to the device, so that a mapped volume can be much larger than the memory.
    """
    grid, crop = _crop(volume, _patient_lattice(view), mm_to_index)
    image = F.grid_sample(crop[None, None].float() - AIR, grid[None], align_corners=False, padding_mode="zeros") + AIR
    return _truncate(_degrade(image, view), view)


def to_patient(index_zyx: Tensor, view: ViewParameters) -> Tensor:
    """Patient mm (x, y, z) ``(N, 3)`` shown at continuous view indices ``(N, 3)`` in the order z, y, x."""
    points = index_zyx.flip(1) @ view.affine[:, :3].T + view.affine[:, 3]
    if view.displacement is None:
        return points
    size = torch.tensor(view.shape_zyx, dtype=index_zyx.dtype, device=index_zyx.device)
    where = (2 * index_zyx / (size - 1) - 1).flip(1)[None, None, None]
    return points + F.grid_sample(view.displacement, where, align_corners=True, padding_mode="border")[0, :, 0, 0].T


def from_patient(points_mm: Tensor, view: ViewParameters) -> Tensor:
    """Inverse of :func:`to_patient` for a view without deformation."""
    if view.displacement is not None:
        raise ValueError("Only a view without deformation can be inverted in closed form.")
    return torch.linalg.solve(view.affine[:, :3], (points_mm - view.affine[:, 3]).T).T.flip(1)


def _patient_lattice(view: ViewParameters) -> Tensor:
    """Patient mm ``(z, y, x, 3)`` of every voxel of the view."""
    points = _index_lattice(view.shape_zyx, view.affine.device) @ view.affine[:, :3].T + view.affine[:, 3]
    if view.displacement is not None:
        field = F.interpolate(view.displacement, size=view.shape_zyx, mode="trilinear", align_corners=True)
        points = points + field[0].permute(1, 2, 3, 0)
    return points


def _crop(volume: Tensor, points_mm: Tensor, mm_to_index: Tensor) -> tuple[Tensor, Tensor]:
    """The part of the volume that surrounds the points ``(z, y, x, 3)``, on their device, and their places in it from -1 to 1 (as grid_sample has it)."""
    index = points_mm @ mm_to_index[:, :3].T + mm_to_index[:, 3]
    size = torch.tensor(volume.shape[::-1])
    if volume.device.type != "cpu":  # already there: finding out what is needed would cost more than it saves
        return (2 * index + 1) / size.to(index) - 1, volume
    first, last = torch.stack([index.amin((0, 1, 2)), index.amax((0, 1, 2))]).cpu()
    low = torch.minimum((first.floor() - 1).clamp(min=0).long(), size - 1)
    high = torch.maximum(torch.minimum(last.ceil().long() + 2, size), low + 1)
    (x0, y0, z0), (x1, y1, z1) = low.tolist(), high.tolist()
    crop = volume[z0:z1, y0:y1, x0:x1].to(index.device)
    return (2 * (index - low.to(index)) + 1) / (high - low).to(index) - 1, crop


def _degrade(image: Tensor, view: ViewParameters) -> Tensor:
    """Table and metal, contrast, thick slices, blur, noise: what another scanner would have made of the same patient."""
    if view.table is not None:
        image = paint_table(image, view.table)
    if view.metal is not None:
        image = paint_metal(image, view.metal)
    if view.remap is not None:
        image = _remapped(image, view.remap, view.remap_own_range)
    if view.bias is not None:
        gain = F.interpolate(view.bias, size=image.shape[2:], mode="trilinear", align_corners=True).exp()
        image = (image - AIR) * gain + AIR
    if view.thick is not None:
        axis, n = view.thick
        kernel = [n if i == axis else 1 for i in range(3)]
        slabs = F.avg_pool3d(image, kernel, ceil_mode=True, count_include_pad=False)
        image = F.interpolate(slabs, size=image.shape[2:], mode="trilinear", align_corners=False)
    if view.blur > 0:
        image = _blur(image, view.blur)
    generator = Generator(image.device).manual_seed(view.noise_seed)
    image = image + view.noise * torch.randn(image.shape, generator=generator, device=image.device)
    return image.clamp(-1, 1)


def _remapped(image: Tensor, curve: Tensor, own_range: bool) -> Tensor:
    """Intensities through a curve over -1..1, or over the range of what is not air."""
    shown = image > AIR + 1e-3
    low = torch.where(shown, image, 1.0).amin() if own_range else image.new_tensor(AIR)
    high = torch.maximum(torch.where(shown, image, AIR).amax(), low + 1e-3) if own_range else image.new_tensor(1.0)
    position = ((image - low) / (high - low)).clamp(0, 1) * (len(curve) - 1)
    node = position.floor().clamp(0, len(curve) - 2)
    left = curve[node.long()]
    value = (left + (curve[node.long() + 1] - left) * (position - node) + 1) / 2 * (high - low) + low
    return torch.where(shown, value, image) if own_range else value


def _truncate(image: Tensor, view: ViewParameters) -> Tensor:
    low, high = view.box.int().tolist()
    kept = torch.full_like(image, AIR)
    inside = (..., *(slice(a, b + 1) for a, b in zip(low, high, strict=True)))
    kept[inside] = image[inside]
    return kept


def _blur(image: Tensor, sigma: float) -> Tensor:
    radius = max(1, int(3 * sigma + 0.5))
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = len(kernel)
        padding = [0] * 6
        padding[4 - 2 * axis] = padding[5 - 2 * axis] = radius
        image = F.conv3d(F.pad(image, padding, mode="replicate"), kernel.reshape(shape))
    return image


def _draw_remap(a: Augmentation, g: Generator) -> Tensor:
    """A random curve over -1..1 that keeps air at air: rising, inverted, or in any order."""
    low, high = a.remap_nodes if isinstance(a.remap_nodes, tuple) else (a.remap_nodes, a.remap_nodes)
    n = int(torch.randint(low, high + 1, (1,), generator=g))
    straight = torch.linspace(-1, 1, n)
    if a.remap_style == "neighbours":
        curve = straight.clone()
        for i in range(1, n - 1):
            curve[i] = curve[i - 1] + (straight[i + 1] - curve[i - 1]) * torch.rand(1, generator=g)
    else:
        steps = torch.rand(n - 1, generator=g) ** 1.5 + 0.15
        curve = torch.cat([torch.zeros(1), steps.cumsum(0)])
        curve = 2 * curve / curve[-1] - 1
        mix = a.remap_strength + (1 - a.remap_strength) * torch.rand(1, generator=g)
        curve = mix * curve + (1 - mix) * straight
    if _chance(a.nonmonotone_p, g):
        curve = _zigzag(n, g)
    if _chance(a.invert_p, g):
        curve = torch.cat([curve[:1], curve[1:].flip(0)])
    return curve


def _zigzag(n: int, g: Generator) -> Tensor:
    """``n`` values from -1 on that go up or down at random, each time far enough that neighbouring tissues stay apart."""
    values = [AIR]
    for length, turn in (torch.rand(n - 1, 2, generator=g) * torch.tensor([0.6, 1.0])).tolist():
        step = (0.3 + length) * (1 if turn < 0.5 else -1)
        values.append(values[-1] + (step if abs(values[-1] + step) <= 1 else -step))
    return torch.tensor(values)


def _index_lattice(shape_zyx: tuple[int, int, int], device: torch.device) -> Tensor:
    axes = [torch.arange(n, device=device, dtype=torch.float32) for n in shape_zyx]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y, z], dim=-1)


def _rotation(angles: Tensor) -> Tensor:
    cx, cy, cz = angles.cos().tolist()
    sx, sy, sz = angles.sin().tolist()
    rx = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rz @ ry @ rx


def _chance(p: float, g: Generator) -> bool:
    return bool(torch.rand(1, generator=g) < p)


def _uniform(low: float, high: float, g: Generator) -> float:
    return low + (high - low) * float(torch.rand(1, generator=g))
