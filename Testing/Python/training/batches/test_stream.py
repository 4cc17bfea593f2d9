"""The stream of examples depends on numbers and seed only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_scene import blank, common_of, first_of, same, stream

from training.batches.augment import Augmentation, cut_view, to_patient
from training.scans.common_points import both_ways

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|isinstance.treespec|srun).*")


def test_an_example_depends_on_its_number_and_seed_only() -> None:
    fresh, used = stream(), stream()
    first_of(used, 5)
    assert same(fresh.draw(7), used.draw(7))
    assert not same(fresh.draw(7), fresh.draw(8))
    assert not same(fresh.draw(7), stream(seed=4).draw(7))


def test_a_stream_that_starts_later_goes_on_where_the_other_would_be() -> None:
    whole = first_of(stream(), 9)
    for a, b in zip(whole[5:], first_of(stream(first=5), 4), strict=True):
        assert same(a, b)
    assert not same(whole[0], whole[5])


def test_crossed_pairs_share_a_frame_and_only_where_there_is_another_scan() -> None:
    never, always = (first_of(stream(cross_p=p), 40) for p in (0.0, 1.0))
    assert all(p.fixed_scan == p.moving_scan for p in never)
    assert {(p.fixed_scan, p.moving_scan) for p in always} == {(0, 1), (1, 0), (2, 2)}
    mixed = {p.fixed_scan == p.moving_scan for p in first_of(stream(), 40) if p.fixed_scan < 2}
    assert mixed == {True, False}


def test_views_have_one_size_that_the_network_takes_and_only_the_second_is_deformed() -> None:
    examples = first_of(stream(augmentation=Augmentation(elastic_p=1)), 20)
    for p in examples:
        assert p.fixed.shape_zyx == p.moving.shape_zyx
        assert all(n % 16 == 0 and 48 <= n <= m for n, m in zip(p.fixed.shape_zyx, (64, 64, 96), strict=True))
        assert p.fixed.displacement is None
        assert p.moving.displacement is not None
    assert len({p.fixed.shape_zyx for p in examples}) > 1


def test_views_lie_around_points_of_the_body() -> None:
    small = blank("small", "p", (60, 160, 80), (slice(20, 40), slice(100, 110), slice(30, 50)))
    still = Augmentation(jitter_mm=0, elastic_p=0)
    for p in first_of(stream([small], augmentation=still), 20):
        for view in (p.fixed, p.moving):
            middle = (torch.tensor(view.shape_zyx).float()[None] - 1) / 2
            index = (to_patient(middle, view) @ small.mm_to_index[:, :3].T + small.mm_to_index[:, 3])[0].flip(0)
            assert 100 - 1 <= index[1] <= 110 + 1, "along y the scan is larger than the view, so that the centre can be the point"
            assert ((index >= 0) & (index <= torch.tensor([60, 160, 80]))).all()


def test_scans_with_more_body_are_seen_more_often() -> None:
    large, small = blank("large", "p"), blank("small", "q", body=(slice(0, 6),))
    drawn = [p.fixed_scan for p in first_of(stream([large, small]), 200)]
    assert 5 <= drawn.count(1) <= 35, "a tenth of the body, so about 18 of 200"


def test_pairs_of_patients_are_drawn_around_one_common_point_where_there_are_some() -> None:
    scans = [blank("a", "p"), blank("b", "q", (80, 70, 60)), blank("c", "r")]
    common = both_ways({("a", "b"): common_of(*scans[:2])}, ["a", "b", "c"])
    still = Augmentation(jitter_mm=0, elastic_p=1)
    examples = first_of(stream(scans, augmentation=still, max_view=(48, 48, 48), common=common, between_p=1.0), 30)
    assert {(p.fixed_scan, p.moving_scan) for p in examples} == {(0, 1), (1, 0), (2, 2)}
    for p in (p for p in examples if p.fixed_scan != p.moving_scan):
        assert p.fixed.displacement is None, "common points are taken to both views in closed form"
        assert p.moving.displacement is None
        assert p.fixed.shape_zyx == p.moving.shape_zyx
        share = []
        for scan, view in ((scans[p.fixed_scan], p.fixed), (scans[p.moving_scan], p.moving)):
            middle = (torch.tensor(view.shape_zyx).float()[None] - 1) / 2
            index = (to_patient(middle, view) @ scan.mm_to_index[:, :3].T + scan.mm_to_index[:, 3])[0]
            half = torch.tensor(view.shape_zyx[::-1]) / 2
            size = torch.tensor(scan.image.shape[::-1]).float()
            share.append(((index > half + 1) & (index < size - half - 1), index / size))
        free = share[0][0] & share[1][0]
        torch.testing.assert_close(share[0][1][free], share[1][1][free], atol=0.02, rtol=0)


def test_pairs_of_patients_are_as_frequent_as_asked_for() -> None:
    scans = [blank("a", "p"), blank("b", "q")]
    common = both_ways({("a", "b"): common_of(*scans)}, ["a", "b"])
    assert all(p.fixed_scan == p.moving_scan for p in first_of(stream(scans, common=common, between_p=0.0), 20))
    mixed = [p.fixed_scan == p.moving_scan for p in first_of(stream(scans, common=common, between_p=0.5), 60)]
    assert 15 <= sum(mixed) <= 45


def test_padded_views_show_the_same_with_air_around(folder: Path) -> None:
    shapes = [(96, 96, 128), (64, 80, 96), (32, 32, 32)]
    plain, padding = stream(), stream(shapes=shapes)
    volume = torch.rand(60, 70, 80, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scans = [blank("a", "p"), blank("b", "p"), blank("c", "q")]
    for a, b in ((plain.draw(i), padding.draw(i)) for i in range(6)):
        assert b.fixed.shape_zyx == b.moving.shape_zyx == (64, 80, 96)
        at = scans[a.fixed_scan].mm_to_index
        quiet = [replace(v, noise=0.0, blur=0.0, thick=None, bias=None, metal=None, table=None) for v in (a.fixed, b.fixed)]
        small, large = (cut_view(volume, at, v)[0, 0] for v in quiet)
        z, y, x = small.shape
        torch.testing.assert_close(large[:z, :y, :x], small, atol=1e-3, rtol=0)
        large[:z, :y, :x] = -1
        assert (large == -1).all()
        points = torch.rand(50, 3) * torch.tensor(a.fixed.shape_zyx)
        torch.testing.assert_close(to_patient(points, a.fixed), to_patient(points, b.fixed))


def test_a_view_larger_than_every_shape_keeps_its_size() -> None:
    assert stream(shapes=[(32, 32, 32)]).draw(0).fixed.shape_zyx == stream().draw(0).fixed.shape_zyx
