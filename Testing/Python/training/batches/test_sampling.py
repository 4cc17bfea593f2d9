"""Which points are compared: the same patient points in both views, where both show the patient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from training.batches.augment import Augmentation, ViewParameters, draw_view, from_patient, to_patient
from training.batches.sampling import (
    cells_near,
    corresponding_common,
    corresponding_points,
    in_body,
    random_cells,
    sample_descriptors,
    scattered,
)
from training.scans.scan import Scan

SHAPE = (40, 32, 48)
CENTRE = torch.tensor([10.0, -20.0, 30.0])
ROUGH = Augmentation(jitter_mm=15, truncate_p=0.7, elastic_p=1)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def scan(body: Tensor, name: str = "a") -> Scan:
    """A scan of 64 x 60 x 70 voxels of 2 mm around CENTRE."""
    mm_to_index = torch.cat([torch.eye(3) / 2, (torch.tensor([34.5, 29.5, 31.5]) - CENTRE / 2)[:, None]], dim=1)
    return Scan(name, "ct", "f", torch.zeros(body.shape), body, body.nonzero(), mm_to_index)


def whole() -> Tensor:
    return torch.ones(64, 60, 70, dtype=torch.bool)


def views(seed: int) -> tuple[ViewParameters, ViewParameters]:
    g = seeded(seed)
    return draw_view(CENTRE, SHAPE, False, ROUGH, g), draw_view(CENTRE, SHAPE, True, ROUGH, g)


def inside_body(s: Scan, points: Tensor) -> Tensor:
    """Restated voxel by voxel."""
    found = []
    for point in points:
        x, y, z = (s.mm_to_index[:, :3] @ point + s.mm_to_index[:, 3]).round().int().tolist()
        size_z, size_y, size_x = s.body.shape
        found.append(0 <= x < size_x and 0 <= y < size_y and 0 <= z < size_z and bool(s.body[z, y, x]))
    return torch.tensor(found)


# --- correspondences ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_corresponding_points_are_one_patient_point_inside_both_boxes(seed: int) -> None:
    fixed, moving = views(seed)
    s = scan(whole())
    at = corresponding_points((s, fixed), (s, moving), 200, seeded(seed))
    assert len(at) > 50
    torch.testing.assert_close(to_patient(at.fixed_index, fixed), to_patient(at.moving_index, moving), atol=2e-3, rtol=0)
    for index, view in ((at.fixed_index, fixed), (at.moving_index, moving)):
        assert ((index >= view.box[0] - 1e-4) & (index <= view.box[1] + 1e-4)).all()


def test_points_lie_in_the_bodies_of_both_scans() -> None:
    fixed, moving = (replace(v, box=torch.tensor([[0.0, 0, 0], [n - 1.0 for n in SHAPE]])) for v in views(1))
    left, low = whole(), whole()
    left[:, :, 36:] = False
    low[30:] = False
    a, b = scan(left), scan(low, "b")
    at = corresponding_points((a, fixed), (b, moving), 300, seeded(0))
    assert len(at) > 50
    points = to_patient(at.moving_index, moving)
    assert inside_body(a, points).all()
    assert inside_body(b, points).all()
    alone = to_patient(corresponding_points((a, fixed), (a, moving), 300, seeded(0)).moving_index, moving)
    assert inside_body(a, alone).all()
    assert not inside_body(b, alone).all()


def test_no_more_points_than_asked_and_all_different() -> None:
    fixed, moving = views(0)
    s = scan(whole())
    at = corresponding_points((s, fixed), (s, moving), 7, seeded(0))
    assert len(at) == len(at.fixed_index) == len(at.moving_index) == 7
    assert len(at.fixed_index.unique(dim=0)) == 7


def test_views_without_common_patient_have_no_points() -> None:
    fixed, moving = views(0)
    apart = replace(fixed, affine=torch.cat([fixed.affine[:, :3], fixed.affine[:, 3:] + 900], dim=1))
    s = scan(whole())
    assert len(corresponding_points((s, apart), (s, moving), 50, seeded(0))) == 0


def test_in_body_is_the_mask_at_the_nearest_voxel_and_false_outside() -> None:
    s = scan(torch.rand(64, 60, 70, generator=seeded(1)) < 0.5)
    points = CENTRE + (torch.rand(400, 3, generator=seeded(2)) - 0.5) * 180
    found = in_body(s, points)
    assert torch.equal(found, inside_body(s, points))
    assert 0 < found.sum() < 300


# --- two patients ---------------------------------------------------------------------------------------------------------------------


def two_patients(count: int = 300) -> tuple[Scan, Scan, Tensor]:
    """Two scans and their common points at unrelated places."""
    a, b = (replace(scan(whole(), name), frame=name) for name in "ab")
    middle = a.mm_to_index[:, :3] @ CENTRE + a.mm_to_index[:, 3]
    return a, b, middle.flip(0).repeat(2) + (torch.rand(count, 6, generator=seeded(4)) - 0.5) * 35


def test_a_voxel_is_placed_where_the_scan_says() -> None:
    s = scan(whole())
    index = torch.rand(20, 3, generator=seeded(5)) * 50
    back = s.place(index) @ s.mm_to_index[:, :3].T + s.mm_to_index[:, 3]
    torch.testing.assert_close(back.flip(1), index, atol=1e-3, rtol=0)


def test_common_points_are_one_point_at_its_own_place_in_each_patient() -> None:
    a, b, common = two_patients()
    fixed, moving = (draw_view(CENTRE, SHAPE, False, ROUGH, seeded(s)) for s in (0, 1))
    at = corresponding_common((a, fixed), (b, moving), common, 1000, seeded(0))
    places = a.place(common[:, :3]), b.place(common[:, 3:])
    expected = {
        i
        for i in range(len(common))
        if all(
            ((p >= v.box[0]) & (p <= v.box[1])).all()
            for p, v in ((from_patient(places[0][i][None], fixed)[0], fixed), (from_patient(places[1][i][None], moving)[0], moving))
        )
    }
    shown = to_patient(at.fixed_index, fixed), to_patient(at.moving_index, moving)
    nearest = [torch.cdist(s, p).min(1) for s, p in zip(shown, places, strict=True)]
    assert len(expected) > 20
    assert all(n.values.max() < 0.05 for n in nearest)
    assert torch.equal(nearest[0].indices, nearest[1].indices)
    assert sorted(nearest[0].indices.tolist()) == sorted(expected)
    few = corresponding_common((a, fixed), (b, moving), common, 5, seeded(0))
    assert len(few) == 5
    assert not torch.equal(few.fixed_index, corresponding_common((a, fixed), (b, moving), common, 5, seeded(1)).fixed_index)


def test_scattered_places_fill_a_ball_in_millimetres_of_the_patient() -> None:
    view = draw_view(CENTRE, SHAPE, False, ROUGH, seeded(2))
    index = torch.tensor([[10.0, 20.0, 30.0], [5.0, 5.0, 5.0]])
    around = scattered(index, view, 4000, 10.0, seeded(3)).unflatten(0, (2, 4000))
    offset = torch.stack([to_patient(a, view) for a in around]) - to_patient(index, view)[:, None]
    distance = offset.norm(dim=2)
    assert 9 < distance.max() < 11.5, "a ball to within the stretch of the view"
    assert float((distance < 5).float().mean()) == pytest.approx(1 / 8, abs=0.03), "as many as the volume has"
    assert offset.mean((0, 1)).abs().max() < 0.3


# --- random cells ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 4)])
def test_random_cells_are_centres_of_cells_that_lie_wholly_in_the_box(stride: tuple[int, int, int]) -> None:
    view = replace(views(0)[0], box=torch.tensor([[3.0, 0.0, 5.0], [20.0, 31.0, 30.0]]))
    index = random_cells(view, stride, 3000, seeded(0))
    step = torch.tensor(stride)
    cell = (index - (step - 1) / 2) / step
    assert torch.equal(cell, cell.round())
    assert (index - (step - 1) / 2 >= view.box[0]).all()
    assert (index + (step - 1) / 2 <= view.box[1]).all()
    cells_z = range(-(-3 // stride[0]), 21 // stride[0])
    assert sorted(set(cell[:, 0].int().tolist())) == list(cells_z), "every cell can be drawn"
    assert torch.equal(index, random_cells(view, stride, 3000, seeded(0)))


def test_cells_near_scatter_around_the_points_and_stay_in_the_box() -> None:
    view = replace(views(0)[0], box=torch.tensor([[0.0, 0, 0], [39.0, 31.0, 47.0]]))
    points = torch.tensor([[20.0, 16.0, 24.0], [39.0, 16.0, 24.0]])
    near = cells_near(points, view, 4000, 2.0, seeded(0))
    assert near.shape == (4000, 3)
    assert ((near >= view.box[0]) & (near <= view.box[1])).all()
    inner = near[near[:, 0] < 30]
    assert 1700 < len(inner) < 2300, "each point gets its share"
    offset = inner - points[0]
    assert offset.mean(0).abs().max() < 0.2
    assert offset.std(0).tolist() == pytest.approx([2.0] * 3, rel=0.08)
    assert (near[:, 0] == 39).sum() > 800, "what would fall outside lies on the border"
    assert torch.equal(near, cells_near(points, view, 4000, 2.0, seeded(0)))
    assert len(cells_near(points[:0], view, 10, 2.0, seeded(0))) == 0


# --- descriptors ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [(2, 2, 2), (8, 8, 8), (1, 2, 4)])
def test_at_the_centre_of_a_cell_its_own_descriptor_is_sampled(stride: tuple[int, int, int]) -> None:
    features = torch.randn(2, 6, 5, 4, 7, generator=seeded(0))
    cells = torch.tensor([[0, 0, 0], [4, 3, 6], [2, 1, 5], [3, 0, 2]])
    step = torch.tensor(stride)
    sampled = sample_descriptors(features, stride, (cells * step + (step - 1) / 2).expand(2, -1, -1))
    expected = torch.stack([features[:, :, z, y, x] for z, y, x in cells.tolist()], dim=1)
    torch.testing.assert_close(sampled, F.normalize(expected, dim=2), atol=1e-5, rtol=1e-4)


def test_between_cells_the_raw_descriptors_are_mixed_then_made_unit_length() -> None:
    features = torch.randn(1, 6, 5, 4, 7, generator=seeded(1))
    sampled = sample_descriptors(features, (2, 2, 2), torch.tensor([[[4.5, 2.5, 5.5]]]))[0]
    mixed = features[0, :, 2, 1, 2] * 0.5 + features[0, :, 2, 1, 3] * 0.5
    torch.testing.assert_close(sampled[0], F.normalize(mixed, dim=0), atol=1e-5, rtol=1e-4)
    assert float(sampled.norm()) == pytest.approx(1)


def test_beyond_the_outermost_centres_the_descriptor_stays_the_same() -> None:
    features = torch.randn(1, 6, 5, 4, 7, generator=seeded(2))
    sampled = sample_descriptors(features, (8, 8, 8), torch.tensor([[[0.0, 0.0, 0.0], [3.5, 3.5, 3.5]]]))[0]
    torch.testing.assert_close(sampled[0], sampled[1])
