"""Corresponding points between patients: the registration that finds them, and what is written of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_training import blank
from torch.nn import functional as F

from training.atlas import Subject, Warp, average, index_to_world, positions, register, robust_affine, sample, save, world_to_index
from training.data import with_anchors
from UniversalAnatomicalEmbeddingLib.geometry import Grid

SHAPE = (28, 30, 32)


def subject(name: str = "atlas", shape: tuple[int, int, int] = SHAPE, origin: tuple[float, ...] = (-60, 10, 300)) -> Subject:
    """Smooth noise in four channels on 4 mm cells, all of it body."""
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = origin
    noise = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    channels = F.interpolate(noise, size=shape, mode="trilinear", align_corners=True)[0]
    body = torch.ones(shape, dtype=torch.bool)
    return Subject(name, Grid(shape, affine), channels, torch.ones(4), body, torch.full(shape, 3, dtype=torch.uint8))


def moved(atlas: Subject, shift: np.ndarray) -> tuple[Subject, torch.Tensor]:
    """Another patient, who shows at x what the atlas shows at x - shift - a smooth wave; and his places of all atlas cells (inverted by iteration)."""
    world = index_to_world(atlas.grid, torch.ones(SHAPE).nonzero())

    def wave(p: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(shift).float() + 4 * torch.sin(p.roll(1, 1) / 30)

    source = world - wave(world)
    index = world_to_index(atlas.grid, source)
    channels = sample(atlas.channels, index).reshape(4, *SHAPE)
    place = world.clone()
    for _ in range(20):
        place = world + wave(place)
    return replace(atlas, name="b", channels=channels), place


def test_an_affine_map_is_found_among_wrong_pairs() -> None:
    rng = np.random.default_rng(0)
    matrix = np.c_[Rotation.from_euler("xyz", (8, -5, 12), degrees=True).as_matrix() * [1.1, 0.9, 1.0], [10, -20, 30]]
    source = rng.uniform(-150, 150, (200, 3))
    destination = source @ matrix[:, :3].T + matrix[:, 3] + rng.normal(0, 1, (200, 3))
    destination[:60] += rng.uniform(-120, 120, (60, 3))
    found, error = robust_affine(source, destination)
    np.testing.assert_allclose(source @ found[:, :3].T + found[:, 3], source @ matrix[:, :3].T + matrix[:, 3], atol=3.0)
    assert 1 < error < 6, "the median residual, not the mean"


def test_a_patient_is_registered_to_the_atlas() -> None:
    atlas = subject()
    other, truth = moved(atlas, np.array([6.0, -4.0, 5.0]))
    warp, _ = register(atlas, other, torch.eye(3, 4), None)
    world = index_to_world(atlas.grid, torch.ones(SHAPE).nonzero())
    inner = ((torch.ones(SHAPE).nonzero() >= 4) & (torch.ones(SHAPE).nonzero() < torch.tensor(SHAPE) - 4)).all(1)
    before, after = ((p - truth)[inner].norm(dim=1) for p in (world, positions(atlas.grid, world, warp)))
    assert float(before.median()) > 6
    assert float(after.median()) < 1.0
    assert float(after.quantile(0.95)) < 3.0


def test_a_warp_is_the_affine_map_and_then_the_displacement() -> None:
    grid = subject().grid
    affine = torch.tensor([[0.0, -1, 0, 5], [1, 0, 0, 7], [0, 0, 1, -3]])
    field = torch.zeros(1, 3, 2, 2, 2)
    field[0, 0, :, :, 1], field[0, 2, 1] = 8.0, -6.0
    corners = index_to_world(grid, torch.tensor([[0.0, 0, 0], [27, 0, 31], [13.5, 0, 15.5]]))
    found = positions(grid, corners, Warp(affine, field))
    expected = corners @ affine[:, :3].T + affine[:, 3] + torch.tensor([[0.0, 0, 0], [8, 0, -6], [4, 0, -3]])
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_the_mean_of_patients_lies_in_atlas_space() -> None:
    atlas = subject()
    other = replace(subject("b", origin=(-60 + 12, 10, 300)), channels=atlas.channels + 2)
    shift = torch.cat([torch.eye(3), torch.tensor([[12.0], [0], [0]])], 1)
    still = Warp(torch.eye(3, 4), torch.zeros(1, 3, 2, 2, 2))
    mean = average(atlas, [atlas, other], {"atlas": still, "b": Warp(shift, torch.zeros(1, 3, 2, 2, 2))})
    torch.testing.assert_close(mean.channels, atlas.channels + 1, atol=1e-3, rtol=0)
    assert mean.valid.all()


def test_points_are_written_where_a_patient_shows_them(tmp_path: Path) -> None:
    atlas = subject()
    still = Warp(torch.eye(3, 4), torch.zeros(1, 3, 2, 2, 2))
    small = subject("b", (28, 30, 16))
    small = replace(small, valid=small.valid.clone(), tissue=torch.full(small.valid.shape, 5, dtype=torch.uint8))
    small.valid[20:] = False
    save(tmp_path / "runs" / "atlas.npz", atlas, [atlas, small], {"atlas": still, "b": still})
    with np.load(tmp_path / "runs" / "atlas.npz") as table:
        a, b = table["positions"]
        assert table["names"].tolist() == ["atlas", "b"]
        assert set(table["tissue"][0]) == {3}
    index = np.round((a - [-60, 10, 300]) / 4)
    shown = np.isfinite(b).all(1)
    np.testing.assert_allclose(b[shown], a[shown], atol=1e-3)
    assert 10 < shown.sum() < np.isfinite(a).all(1).sum()
    assert (index[shown, 0] <= 13).all(), "6 mm from the border of the field of view"
    assert (index[shown, 2] < 20).all(), "in the body"
    scans = with_anchors([blank("b", "p"), blank("z", "q")], tmp_path / "runs" / "atlas.npz")
    assert len(scans[0].anchors) == len(a)
    assert len(scans[1].anchors) == 0


def test_interpolation_is_linear_and_constant_beyond_the_border() -> None:
    image = torch.arange(24.0).reshape(1, 2, 3, 4)
    index = torch.tensor([[0.5, 1.0, 2.0], [1.0, 2.0, 9.0], [-3.0, 0.0, 0.5]])
    assert sample(image, index)[0].tolist() == pytest.approx([12.0, 23.0, 0.5])
