"""One test for each fault of the published training code (B1 to B7): none of them is here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from loss_scene import ALL, pair, seeded, unit
from training_scene import blank, described, first_of, make_scan, module, stream

from training.batches.augment import Augmentation, draw_view, to_patient
from training.batches.data import PairDataModule
from training.batches.sampling import corresponding_points, in_box
from training.learning.losses import coarse_loss, fine_loss, hardest, sam_losses, too_close
from training.learning.modules import exact


@pytest.mark.parametrize("loss", ["fine", "coarse"])
def test_b1_excluded_cells_are_never_candidates_nor_rivals(loss: str) -> None:
    """Published: multiplied by zero, they outrank every cell of negative similarity, and the positive itself becomes a negative."""
    p = pair(matched=1, others=60)
    anchor = p.fine[0, 0] if loss == "fine" else p.coarse[0, 0]
    heads = {"fine": p.fine.clone(), "coarse": p.coarse.clone()}
    heads[loss][:, 1:] = -anchor  # all others dissimilar, so that anything multiplied by zero would rank first
    heads[loss][1, 0] = anchor
    p = replace(p, **heads)
    p.patient_mm[:, 1:] += 1000.0
    few = replace(ALL, fine_pool=5, fine_keep=5, coarse_pool=5, coarse_keep=5)
    value = fine_loss(p, 0, few, seeded()) if loss == "fine" else coarse_loss(p, 0, None, few, seeded())
    assert float(value) == pytest.approx(np.log1p(5 * np.exp(-2 / 0.1)), abs=1e-6), "the positive against five opposites"
    excluded = too_close(p, 0, 20.0)
    similarity = heads[loss][0, :1] @ heads[loss].flatten(0, 1).T
    assert not excluded.gather(1, hardest(similarity, excluded, 5, 5, seeded())).any()


def test_b2_coarse_negatives_are_the_hardest_of_both_views_and_not_the_first() -> None:
    """Published UAE-S: 200 of the first 250 cells of view 1, whatever they look like."""
    p = pair(matched=2, others=100, extent_mm=2000.0)
    few = replace(ALL, coarse_pool=10, coarse_keep=10)
    coarse = p.coarse.clone().requires_grad_()
    coarse_loss(replace(p, coarse=coarse), 0, None, few, seeded()).backward()
    used = (coarse.grad[:, 2:].abs().sum(-1) > 0).flatten()
    similarity = (p.coarse[0, :2] @ p.coarse.flatten(0, 1).T).masked_fill(too_close(p, 0, few.coarse_ignore_mm), -torch.inf)
    hard = torch.zeros(2 * 102, dtype=torch.bool)
    hard[similarity.topk(10, dim=1).indices.unique()] = True
    assert torch.equal(used, hard.reshape(2, 102)[:, 2:].flatten())
    assert used[100:].any(), "cells of the second view too"
    assert used[50:100].any()


def test_b3_negatives_and_positives_are_cosines_of_the_same_head_in_both_directions() -> None:
    """Published UAE-M: fine plus coarse as negatives against a fine positive, in one direction only."""
    p = replace(pair(), slack_mm=0.0)
    changed = replace(p, coarse=unit(*p.coarse.shape, seed=99))
    for side in (0, 1):
        assert float(fine_loss(p, side, ALL, seeded())) == pytest.approx(float(fine_loss(changed, side, ALL, seeded())), rel=1e-6)


def test_b4_both_directions_have_the_same_limits() -> None:
    """Published: 8 mm along z in one direction, 6 mm in the other."""
    p = pair(matched=6, others=50)
    swapped = replace(p, fine=p.fine.flip(0), coarse=p.coarse.flip(0), patient_mm=p.patient_mm.flip(0))
    rows = p.patient_mm.shape[1]
    for radius in (ALL.fine_ignore_mm, ALL.coarse_ignore_mm):
        a, b = too_close(p, 0, radius), too_close(swapped, 1, radius)
        assert torch.equal(a, torch.cat([b[:, rows:], b[:, :rows]], dim=1))
    assert {k: float(v) for k, v in sam_losses([p], ALL).items()} == pytest.approx(
        {k: float(v) for k, v in sam_losses([swapped], ALL).items()}, rel=1e-5
    )


def test_b5_positions_stay_exact_far_from_the_origin_and_under_autocast() -> None:
    """Published: half precision, 1 mm steps beyond 1024 mm, against a radius of 2 mm. The same would happen in any bfloat16 run by itself."""
    scan, a = blank("a", "p"), Augmentation(elastic_p=1, truncate_p=0, jitter_mm=0)
    matrix = scan.mm_to_index.clone()
    matrix[:, 3] -= matrix[:, :3] @ torch.tensor([1500.0, -1500.0, 1700.0])
    far = replace(scan, mm_to_index=matrix)
    size = torch.tensor(far.image.shape[::-1]) / 2
    centre = torch.linalg.solve(matrix[:, :3], size - matrix[:, 3])
    fixed, moving = draw_view(centre, (48, 48, 48), False, a, seeded(1)), draw_view(centre, (48, 48, 48), True, a, seeded(2))

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        at = corresponding_points((far, fixed), (far, moving), 200, seeded())
        return to_patient(at.fixed_index, fixed), to_patient(at.moving_index, moving)

    one, other = both()
    assert len(one) > 100
    assert one.dtype == torch.float32
    assert (one - other).norm(dim=1).max() < 0.01
    p = replace(pair(matched=40, others=60), patient_mm=torch.stack([centre + 200 * torch.rand(100, 3, generator=seeded())] * 2))
    distance = (p.patient_mm[0, :40, None].double() - p.patient_mm[0].double()).norm(dim=-1)
    clear = (distance - 20).abs() > 1e-3
    assert torch.equal(too_close(p, 0, 20.0)[:, :100][clear], (distance < 20)[clear])
    with torch.autocast("cpu", torch.bfloat16):
        assert (both()[0] - both()[1]).norm(dim=1).max() > 0.1, "autocast alone would round positions, which is why the module is exact"
        with exact(torch.device("cpu")):
            assert (both()[0] - both()[1]).norm(dim=1).max() < 0.01


def test_b5_a_step_in_bfloat16_sees_the_same_places_as_one_in_full_precision(tmp_path) -> None:
    make_scan(tmp_path / "a.nii.gz", 1, "ct")
    (tmp_path / "index.csv").write_text("path,modality,frame\na.nii.gz,ct,p\n")
    data = PairDataModule(tmp_path / "index.csv", Augmentation(), max_view=(48, 48, 48))
    data.setup("fit")
    example = first_of(stream(data.scans, max_view=(48, 48, 48)), 1)[0]
    with torch.no_grad():
        reference = described(module(), example, data.scans[0], data.scans[0])
        with torch.autocast("cpu", torch.bfloat16):
            found = described(module(), example, data.scans[0], data.scans[0])
    assert torch.equal(found.patient_mm, reference.patient_mm)
    assert found.fine.dtype == torch.float32


def test_b6_points_are_taken_where_a_view_shows_the_patient_and_nowhere_else() -> None:
    """Published: the map of valid voxels is zero in one voxel only, so that padding counts as anatomy."""
    scan, a = blank("a", "p", body=(slice(10, 50), slice(10, 60), slice(10, 70))), Augmentation(truncate_p=1, jitter_mm=40)
    for example in first_of(stream([scan], augmentation=a), 8):
        sides = (scan, example.fixed), (scan, example.moving)
        at = corresponding_points(*sides, 300, seeded())
        for index, view in ((at.fixed_index, example.fixed), (at.moving_index, example.moving)):
            assert in_box(index, view).all()
            voxel = (to_patient(index, view) @ scan.mm_to_index[:, :3].T + scan.mm_to_index[:, 3]).flip(1).round()
            assert ((voxel >= 10) & (voxel < torch.tensor([50, 60, 70]))).all()


def test_b7_a_step_needs_no_pair_of_any_particular_kind() -> None:
    """Published UAE-S and UAE-M: a batch without an item of one patient stops the training."""
    scans = [blank("a", "p"), blank("b", "p")]
    crossed = first_of(stream(scans, cross_p=1.0), 6)
    assert all(p.fixed_scan != p.moving_scan for p in crossed)
    trained = module()
    with torch.no_grad():
        pairs = [described(trained, p, scans[p.fixed_scan], scans[p.moving_scan]) for p in crossed[:2]]
        assert set(trained.contrast_terms(pairs)) == {"fine", "coarse"}
        assert trained.contrast_terms([replace(d, matched=0) for d in pairs]) == {}
