"""Correspondences between patients: every trunk CT is registered to one common space by tissue, intensity and the current embedding.

The network then learns from what it and the tissue labels agree on (the rounds of UAE-M, section 3.3, between patients instead of between
contrasts). The common space begins as one scan that covers most of the body and becomes the mean of all of them after the first round.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from UniversalAnatomicalEmbeddingLib.geometry import Grid
from UniversalAnatomicalEmbeddingLib.matching import Searchable
from UniversalAnatomicalEmbeddingLib.matching.guide import guide_between
from UniversalAnatomicalEmbeddingLib.preprocess import body_mask
from UniversalAnatomicalEmbeddingLib.session import Session
from UniversalAnatomicalEmbeddingLib.volume import read_volume

from .scan import read_index
from .tissue import tissue_labels

COMPONENTS = 16
HU_WINDOWS = ((-1000.0, -200.0), (-150.0, 250.0), (150.0, 800.0))
TISSUE_CHANNELS = ((1, 1.5), (2, 1.5), (3, 3.0))
EMBEDDING_WEIGHT = 6.0
LEAST_ANCHORS = 60
WORST_AFFINE_MM = 16.0
BONE_CHANNEL = 2
STAGES = (
    # shrink, control spacing (mm), steps, stiffness, whether bone takes part: its repeated levels mislead until the lungs and airways fit
    (2, 96.0, 40, 4.0, False),
    (2, 48.0, 40, 2.0, False),
    (2, 24.0, 50, 1.0, True),
    (1, 14.0, 30, 0.6, True),
)
POINT_STEP_MM = 8.0
MARGIN_MM = 6.0


@dataclass(frozen=True, eq=False)
class Subject:
    """One scan as it is registered: ``channels`` (C, z, y, x), ``weight`` (C,) of each, ``valid`` (z, y, x) body voxels, on ``grid``; ``tissue`` too."""

    name: str
    grid: Grid
    channels: Tensor
    weight: Tensor
    valid: Tensor
    tissue: Tensor


@dataclass(frozen=True, eq=False)
class Warp:
    """Atlas LPS mm to scan LPS mm: ``affine`` (3, 4) and a ``displacement`` (1, 3, k, k, k) over the atlas grid (added after it), mm, x, y, z."""

    affine: Tensor
    displacement: Tensor


def main() -> None:
    """``python -m training.atlas --index runs/index.csv --first NAME --out runs/atlas.npz [--model ID] [--rounds 2]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, required=True, help="index file as training.prepare writes it; its CT scans are used")
    parser.add_argument("--first", required=True, help="name of the scan that is the first common space; it should cover most of the body")
    parser.add_argument("--out", type=Path, required=True, help="file of corresponding points to write (.npz)")
    parser.add_argument("--model", help="catalogue id or weights file of the current model")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    session = Session(args.model, args.device)
    paths = {Path(r["path"]).name.split(".")[0]: r["path"] for r in read_index(args.index) if r["modality"] == "ct"}
    searchable = {name: session.embed(read_volume(path, "ct")) for name, path in paths.items()}
    affines = initial_affines(searchable, args.first)
    basis = principal_components([searchable[n] for n in affines])
    subjects = [describe(n, paths[n], searchable[n], basis) for n in affines]
    del searchable
    atlas = next(s for s in subjects if s.name == args.first)
    warps: dict[str, Warp | None] = dict.fromkeys(affines)
    for number in range(args.rounds):
        for subject in subjects:
            warp, residual = register(atlas, subject, affines[subject.name], warps[subject.name])
            warps[subject.name] = warp
            print(f"round {number + 1} {subject.name}: residual {residual:.4f}", flush=True)
        save(args.out, atlas, subjects, warps)
        atlas = average(atlas, subjects, warps)


def initial_affines(scans: dict[str, Searchable], first: str) -> dict[str, Tensor]:
    """Affine (3, 4) from the first scan to each scan that shares enough anatomy with it, by robust least squares on the anchors of both."""
    affines = {}
    for name, scan in scans.items():
        guide = guide_between(scan, scans[first])
        if name == first:
            affines[name] = torch.eye(3, 4)
        elif len(guide.source) >= LEAST_ANCHORS:
            matrix, error = robust_affine(guide.destination, guide.source)
            used = error <= WORST_AFFINE_MM
            print(f"{name}: {len(guide.source)} anchors, affine residual {error:.1f} mm{'' if used else ', left out'}", flush=True)
            if used:
                affines[name] = torch.from_numpy(matrix).float()
    return affines


def robust_affine(source: NDArray[np.float64], destination: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Affine (3, 4) by iteratively reweighted least squares (Cauchy), and the median residual in mm."""
    a = np.c_[source, np.ones(len(source))]
    weight = np.ones(len(source))
    for _ in range(30):
        root = np.sqrt(weight)[:, None]
        matrix = np.linalg.lstsq(a * root, destination * root, rcond=None)[0]
        error = np.linalg.norm(a @ matrix - destination, axis=1)
        weight = 1 / (1 + (error / max(np.median(error), 1.0)) ** 2)
    return matrix.T, float(np.median(error))


def principal_components(scans: list[Searchable]) -> tuple[Tensor, Tensor]:
    """Mean (C,) and leading directions (C, n) of the descriptors of all scans."""
    g = torch.Generator().manual_seed(0)
    rows = [both_heads(s)[s.body.cpu()][torch.randint(0, int(s.body.sum()), (4000,), generator=g)] for s in scans]
    stacked = torch.cat(rows)
    _, _, v = torch.pca_lowrank(stacked, q=COMPONENTS, niter=4)
    return stacked.mean(0), v


def both_heads(scan: Searchable) -> Tensor:
    """Fine and interpolated coarse descriptors (cells, C + C')."""
    coarse = scan.coarse.cpu().permute(3, 0, 1, 2)[None]
    ratio = [c // f for c, f in zip(scan.embedding.coarse_stride, scan.embedding.fine_stride, strict=True)]
    wide = F.interpolate(coarse, size=[n * r for n, r in zip(coarse.shape[2:], ratio, strict=True)], mode="trilinear", align_corners=False)
    z, y, x = scan.shape
    return torch.cat([scan.rows.cpu().float(), wide[0, :, :z, :y, :x].flatten(1).T], dim=1)


def describe(name: str, path: str, scan: Searchable, basis: tuple[Tensor, Tensor]) -> Subject:
    """Channels of one scan on the cells of its fine map."""
    volume = read_volume(path, "ct")
    hu = np.asarray(volume.array, dtype=np.float32)
    grid = scan.embedding.fine_grid
    labels = tissue_labels(hu)
    channels = [np.clip((hu - low) / (high - low), 0, 1) for low, high in HU_WINDOWS]
    weight = [1.0] * len(HU_WINDOWS)
    for label, strength in TISSUE_CHANNELS:
        mask = labels == label
        blurred = ndimage.gaussian_filter(mask.astype(np.float32), 2.0)
        channels.append(blurred / max(float(blurred.max()), 1e-6))
        weight.append(strength if mask.any() else 0.0)
    at = world_to_index(volume.grid, index_to_world(grid, torch.ones(grid.shape_zyx).nonzero()))
    sampled = sample(torch.from_numpy(np.stack(channels)).float(), at).reshape(-1, *grid.shape_zyx)
    mean, directions = basis
    embedded = ((both_heads(scan) - mean) @ directions).T.reshape(-1, *grid.shape_zyx)
    body = torch.from_numpy(body_mask(hu, "ct")).float()[None]
    nearest = sample(torch.from_numpy(labels).float()[None], at.round())
    return Subject(
        name=name,
        grid=grid,
        channels=torch.cat([sampled, embedded]),
        weight=torch.tensor(weight + [EMBEDDING_WEIGHT / COMPONENTS * 4] * COMPONENTS),
        valid=(sample(body, at) > 0.5).reshape(grid.shape_zyx),
        tissue=nearest.reshape(grid.shape_zyx).to(torch.uint8),
    )


def sample(image: Tensor, index_zyx: Tensor) -> Tensor:
    """Linear interpolation of ``(C, Z, Y, X)`` at continuous indices (N, 3); border values outside. Returns ``(C, N)``."""
    size = torch.tensor(image.shape[1:])
    where = (2 * index_zyx / (size - 1).clamp(min=1) - 1).flip(1)[None, None, None]
    return F.grid_sample(image[None], where, align_corners=True, padding_mode="border")[0, :, 0, 0]


def index_to_world(grid: Grid, index_zyx: Tensor) -> Tensor:
    """LPS mm (N, 3) of indices (N, 3), float32."""
    return torch.from_numpy(np.ascontiguousarray(grid.index_to_world(index_zyx.numpy()))).float()


def world_to_index(grid: Grid, points_lps: Tensor) -> Tensor:
    """Continuous indices (N, 3) (z, y, x) of LPS mm (N, 3), float32."""
    return torch.from_numpy(np.ascontiguousarray(grid.world_to_index(points_lps.numpy()))).float()


def register(atlas: Subject, subject: Subject, affine: Tensor, start: Warp | None) -> tuple[Warp, float]:
    """Warp that makes ``subject`` look like ``atlas`` in all channels: coarse to fine, displacement on a control grid, Adam."""
    displacement = start.displacement if start else torch.zeros(1, 3, 2, 2, 2)
    loss_value = float("nan")
    inverse = torch.from_numpy(np.linalg.inv(subject.grid.affine)[:3]).float()
    for shrink, spacing, steps, stiffness, bone in STAGES:
        fixed, cells = thin(atlas, subject, affine, shrink)
        moving = F.avg_pool3d(subject.channels[None], shrink) if shrink > 1 else subject.channels[None]
        size = torch.tensor(subject.grid.shape_zyx)
        extent = np.array(atlas.grid.shape_zyx) * float(atlas.grid.spacing_xyz[0])
        nodes = [int(np.ceil(e / spacing)) + 1 for e in extent]
        control = F.interpolate(displacement, size=nodes, mode="trilinear", align_corners=True).detach().requires_grad_()
        optimiser = torch.optim.Adam([control], lr=1.5 if shrink > 1 else 0.7)
        world = index_to_world(atlas.grid, cells)
        base = world @ affine[:, :3].T + affine[:, 3]
        weight = (atlas.weight * subject.weight).sqrt()[:, None]
        weight[BONE_CHANNEL] *= bone
        last = torch.tensor(atlas.grid.shape_zyx) - 1
        where = (2 * cells / last - 1).flip(1)[None, None, None].float()
        for _ in range(steps):
            shift = F.grid_sample(control, where, align_corners=True, padding_mode="border")[0, :, 0, 0].T
            index = ((base + shift) @ inverse[:, :3].T + inverse[:, 3]).flip(1)
            inside = ((index >= 0) & (index <= size - 1)).all(1)
            normalised = ((2 * index + 1) / size - 1).flip(1)[None, None, None]
            seen = F.grid_sample(moving, normalised, align_corners=False, padding_mode="border")[0, :, 0, 0]
            difference = (weight * (seen - fixed) ** 2).sum(0)
            loss = (difference * inside).sum() / inside.sum().clamp(min=1) + stiffness * roughness(control, spacing)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        displacement, loss_value = control.detach(), float(loss.detach())
    return Warp(affine, displacement), loss_value


def thin(atlas: Subject, subject: Subject, affine: Tensor, shrink: int) -> tuple[Tensor, Tensor]:
    """Atlas channels (C, N) and cells (N, 3) of the body, every ``shrink``-th, that may fall into the subject's field of view."""
    channels = F.avg_pool3d(atlas.channels[None], shrink, stride=1, padding=0)[0] if shrink > 1 else atlas.channels
    cells = atlas.valid[: channels.shape[1], : channels.shape[2], : channels.shape[3]].nonzero()
    cells = cells[(cells % shrink == 0).all(1)]
    world = index_to_world(atlas.grid, cells) @ affine[:, :3].T + affine[:, 3]
    near = torch.from_numpy(subject.grid.outside_mm(world.numpy())) < 30.0
    cells = cells[near]
    z, y, x = cells.unbind(1)
    return channels[:, z, y, x], cells + (shrink - 1) / 2


def roughness(control: Tensor, spacing: float) -> Tensor:
    """Mean squared gradient of the displacement (diffusion regulariser)."""
    return sum(((control.diff(dim=d) / spacing) ** 2).mean() for d in (2, 3, 4))


def positions(atlas: Grid, world: Tensor, warp: Warp) -> Tensor:
    """Where atlas points (N, 3) LPS mm lie in the scan, LPS mm."""
    index = world_to_index(atlas, world)
    where = (2 * index / (torch.tensor(atlas.shape_zyx) - 1) - 1).flip(1)[None, None, None]
    shift = F.grid_sample(warp.displacement, where, align_corners=True, padding_mode="border")[0, :, 0, 0].T
    return world @ warp.affine[:, :3].T + warp.affine[:, 3] + shift


def average(atlas: Subject, subjects: list[Subject], warps: dict[str, Warp | None]) -> Subject:
    """The mean of all subjects in atlas space, each where it shows the body."""
    cells = torch.ones(atlas.grid.shape_zyx).nonzero()
    world = index_to_world(atlas.grid, cells)
    total, count = torch.zeros(len(atlas.channels), len(cells)), torch.zeros(len(atlas.channels), len(cells))
    body = torch.zeros(len(cells))
    for subject in subjects:
        place = positions(atlas.grid, world, warps[subject.name])
        inside = torch.from_numpy(subject.grid.outside_mm(place.numpy()) <= 0)
        index = world_to_index(subject.grid, place)
        present = inside * (subject.weight > 0).float()[:, None]
        total += sample(subject.channels, index) * present
        count += present
        body += sample(subject.valid.float()[None], index)[0] * inside
    mean = torch.where(count > 0, total / count.clamp(min=1), 0.0).reshape(atlas.channels.shape)
    seen = count.amax(0)
    valid = ((body > 0.5 * seen) & (seen > 0)).reshape(atlas.grid.shape_zyx)
    return Subject("mean", atlas.grid, mean, atlas.weight.clamp(min=1.0), valid, atlas.tissue)


def save(path: Path, atlas: Subject, subjects: list[Subject], warps: dict[str, Warp | None]) -> None:
    """Write ``names`` (S,), ``positions`` (S, K, 3) LPS mm of K atlas points in every scan (NaN: not shown) and ``tissue`` (S, K)."""
    step = max(1, round(POINT_STEP_MM / float(atlas.grid.spacing_xyz[0])))
    cells = atlas.valid.nonzero()
    world = index_to_world(atlas.grid, cells[(cells % step == 0).all(1)])
    rows, tissue = [], []
    for subject in subjects:
        place = positions(atlas.grid, world, warps[subject.name])
        index = world_to_index(subject.grid, place)
        inner = torch.tensor(subject.grid.shape_zyx) - 1 - MARGIN_MM / float(subject.grid.spacing_xyz[0])
        shown = ((index >= MARGIN_MM / float(subject.grid.spacing_xyz[0])) & (index <= inner)).all(1)
        shown &= sample(subject.valid.float()[None], index)[0] > 0.5
        rows.append(torch.where(shown[:, None], place, torch.nan).numpy())
        tissue.append(sample(subject.tissue.float()[None], index.round())[0].numpy().astype(np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, names=[s.name for s in subjects], positions=np.stack(rows), tissue=np.stack(tissue))
    print(f"{len(world)} points in {len(subjects)} scans -> {path}")


if __name__ == "__main__":
    main()
