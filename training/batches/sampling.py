"""Which points are compared: corresponding positions of two views, labelled cells, and other cells as negatives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ..scans.labels import UNSURE
from ..scans.scan import Scan
from .augment import ViewParameters, from_patient, to_patient


@dataclass(frozen=True)
class Correspondences:
    """The same anatomy at continuous indices (N, 3) (z, y, x) of the fixed and the moving view."""

    fixed_index: Tensor
    moving_index: Tensor

    def __len__(self) -> int:
        return len(self.fixed_index)

    def __iter__(self) -> Iterator[Tensor]:
        yield self.fixed_index
        yield self.moving_index


def corresponding_points(fixed: tuple[Scan, ViewParameters], moving: tuple[Scan, ViewParameters], n: int, g: Generator) -> Correspondences:
    """Up to ``n`` random patient points that both views show inside both bodies; exact under the deformation of the moving view."""
    (fixed_scan, fixed_view), (moving_scan, moving_view) = fixed, moving
    low, high = moving_view.box.cpu()
    moving_index = (low + (high - low) * torch.rand(16 * n, 3, generator=g)).to(moving_view.affine.device)
    points = to_patient(moving_index, moving_view)
    fixed_index = from_patient(points, fixed_view)
    inside = in_box(fixed_index, fixed_view) & in_body(fixed_scan, points)
    if moving_scan is not fixed_scan:
        inside &= in_body(moving_scan, points)
    kept = inside.nonzero()[:n, 0]
    return Correspondences(fixed_index[kept], moving_index[kept])


def corresponding_common(
    fixed: tuple[Scan, ViewParameters], moving: tuple[Scan, ViewParameters], common: Tensor, n: int, g: Generator
) -> Correspondences:
    """Up to ``n`` random points of two patients' ``common`` ones (N, 6) (:data:`~training.scans.common_points.CommonPoints`) that both views (without
    deformation) show."""
    (fixed_scan, fixed_view), (moving_scan, moving_view) = fixed, moving
    common = common.to(fixed_view.affine.device)
    fixed_index = from_patient(fixed_scan.place(common[:, :3]), fixed_view)
    moving_index = from_patient(moving_scan.place(common[:, 3:]), moving_view)
    inside = (in_box(fixed_index, fixed_view) & in_box(moving_index, moving_view)).nonzero()[:, 0]
    kept = inside[torch.randperm(len(inside), generator=g)[:n].to(inside.device)]
    return Correspondences(fixed_index[kept], moving_index[kept])


def scattered(index_zyx: Tensor, view: ViewParameters, n: int, radius_mm: float, g: Generator) -> Tensor:
    """``n`` places (N * n, 3) evenly spread in a ball around each of the indices (N, 3) of a view, point by point."""
    direction = F.normalize(torch.randn(len(index_zyx), n, 3, generator=g), dim=2)
    offset = radius_mm * torch.rand(len(index_zyx), n, 1, generator=g) ** (1 / 3) * direction
    voxel_mm = torch.linalg.det(view.affine[:, :3]).abs() ** (1 / 3)
    return (index_zyx[:, None] + offset.to(index_zyx.device) / voxel_mm).flatten(0, 1)


def in_box(index_zyx: Tensor, view: ViewParameters) -> Tensor:
    """Whether view indices (N, 3) lie in the kept box."""
    return ((index_zyx >= view.box[0]) & (index_zyx <= view.box[1])).all(1)


def all_cells(view: ViewParameters, stride: tuple[int, int, int]) -> Tensor:
    """View indices (N, 3) of all cell centres of a map of ``stride`` inside the kept box."""
    first, last = _cell_range(view, stride)
    axes = [torch.arange(int(a), int(b) + 1, dtype=torch.float32) for a, b in zip(first, last, strict=True)]
    step = torch.tensor(stride)
    return (torch.cartesian_prod(*axes) * step + (step - 1) / 2).to(view.affine.device)


def random_cells(view: ViewParameters, stride: tuple[int, int, int], n: int, g: Generator) -> Tensor:
    """View indices (n, 3) of random cell centres of a map of ``stride`` inside the kept box."""
    first, last = _cell_range(view, stride)
    step = torch.tensor(stride)
    cell = (first + (last - first + 1) * torch.rand(n, 3, generator=g)).floor()
    return (cell * step + (step - 1) / 2).to(view.affine.device)


def _cell_range(view: ViewParameters, stride: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """First and last cell (z, y, x) that lie wholly in the kept box."""
    low, high = view.box.cpu()
    step = torch.tensor(stride)
    first = (low / step).ceil()
    return first, torch.maximum(((high + 1) / step).floor() - 1, first)


def labelled_cells(
    scan: Scan, view: ViewParameters, stride: tuple[int, int, int], per_structure: int, g: Generator
) -> tuple[Tensor, Tensor]:
    """View indices (N, 3) of up to ``per_structure`` random cells of every structure that the view shows, and their label ids (N,).

    Unlabelled cells (id 0) come along where the scan's source labels whole structures, so that they are known not to be one of those.
    """
    index = all_cells(view, stride)
    ids = labels_at(scan, to_patient(index, view))
    order = torch.randperm(len(ids), generator=g).to(ids.device)
    shuffled = ids[order]
    wanted = [k for k in shuffled.unique().tolist() if k > 0 or (k == 0 and bool(scan.known.any()))]
    chosen = [order[shuffled == k][:per_structure] for k in wanted]
    kept = torch.cat(chosen) if chosen else order[:0]
    return index[kept], ids[kept]


def labels_at(scan: Scan, points_mm: Tensor) -> Tensor:
    """Label id (N,) of the voxel nearest to each point (N, 3); UNSURE outside the scan."""
    index, inside = _voxels(scan, points_mm)
    z, y, x = index.unbind(1)
    return torch.where(inside, scan.labels[z, y, x].long(), UNSURE).to(points_mm.device)


def cells_near(index_zyx: Tensor, view: ViewParameters, n: int, reach: float, g: Generator) -> Tensor:
    """View indices (n, 3) scattered (normal, ``reach`` voxels) around some of ``index_zyx`` (N, 3), kept in the box: the hard negatives of precision."""
    if not len(index_zyx):
        return index_zyx
    chosen = torch.randint(0, len(index_zyx), (n,), generator=g).to(index_zyx.device)
    offset = (reach * torch.randn(n, 3, generator=g)).to(index_zyx.device)
    return torch.minimum(torch.maximum(index_zyx[chosen] + offset, view.box[0]), view.box[1])


def sample_descriptors(features: Tensor, stride: tuple[int, int, int], index_zyx: Tensor) -> Tensor:
    """Unit descriptors (B, N, C) of maps ``(B, C, z, y, x)`` at continuous image indices (B, N, 3); cell k sits at stride*k + (stride-1)/2.

    Trilinear, constant beyond the border. Cells are looked up as rows, which leaves a half-precision channels-last map as it is: forth and back in
    half the time that ``grid_sample`` takes on a CPU.
    """
    flat = index_zyx.new_zeros((*index_zyx.shape[:2], 1), dtype=torch.long)
    share = index_zyx.new_ones((*index_zyx.shape[:2], 1))
    for at, n, k in zip(index_zyx.unbind(-1), features.shape[2:], stride, strict=True):
        at = ((at - (k - 1) / 2) / k).clamp(0, n - 1)
        low = at.floor()
        corners = torch.stack([low, (low + 1).clamp(max=n - 1)], -1).long()
        flat = (flat[..., None] * n + corners[..., None, :]).flatten(-2)
        share = (share[..., None] * torch.stack([low + 1 - at, at - low], -1)[..., None, :]).flatten(-2)
    maps, rows = torch.arange(len(features), device=flat.device), features.permute(0, 2, 3, 4, 1).reshape(-1, features.shape[1])
    found = F.embedding(flat + maps[:, None, None] * features[0, 0].numel(), rows).to(share.dtype)
    return F.normalize((found * share[..., None]).sum(-2), dim=-1)


def in_body(scan: Scan, points_mm: Tensor) -> Tensor:
    """Whether the voxel nearest to each point (N, 3) belongs to the scan's body mask; False outside the scan."""
    index, inside = _voxels(scan, points_mm)
    z, y, x = index.unbind(1)
    return (inside & scan.body[z, y, x]).to(points_mm.device)


def _voxels(scan: Scan, points_mm: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest voxels (N, 3) z, y, x, clamped into the scan, on the device of its body mask, and which points lie inside."""
    index = (points_mm @ scan.mm_to_index[:, :3].T + scan.mm_to_index[:, 3]).round().long().flip(1).to(scan.body.device)
    size = torch.tensor(scan.body.shape, device=scan.body.device)
    inside = ((index >= 0) & (index < size)).all(1)
    return torch.minimum(index.clamp(min=0), size - 1), inside
