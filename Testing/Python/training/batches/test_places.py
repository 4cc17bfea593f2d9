"""The places of an example: the same patient points in both views."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_scene import common_of, described, first_of, module, stream

from training.batches.augment import Augmentation
from training.batches.stream import PairStream
from training.scans.scan import load_scan, read_index
from UniversalAnatomicalEmbeddingLib.models import model as catalogue

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|isinstance.treespec|srun).*")


def test_a_pair_of_patients_is_described_at_its_common_points_with_slack(folder: Path) -> None:
    rows = read_index(folder / "index.csv")
    scans = [load_scan(r["path"], r["modality"], name, catalogue.Intensity()) for name, r in zip("pq", rows, strict=True)]
    common = {(0, 1): common_of(*scans)}
    common[1, 0] = common[0, 1].roll(3, 1)
    examples = first_of(stream(scans, max_view=(48, 48, 48), common=common, between_p=1.0), 9)
    example = next(p for p in examples if p.fixed_scan != p.moving_scan)
    fixed, moving = scans[example.fixed_scan], scans[example.moving_scan]
    own = common[example.fixed_scan, example.moving_scan]
    with torch.no_grad():
        d = described(module(slack_mm=9.0, around=7), example, fixed, moving, own)
    assert d.slack_mm == 9.0
    assert d.matched == 48
    assert d.around.shape == (2, 48, 7, 8)
    torch.testing.assert_close(d.around.norm(dim=3), torch.ones(2, 48, 7), atol=1e-4, rtol=0)
    nearest = [
        torch.cdist(d.patient_mm[side, : d.matched], place, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        for side, place in enumerate((fixed.place(own[:, :3]), moving.place(own[:, 3:])))
    ]
    assert all(n.values.max() < 0.01 for n in nearest)
    assert torch.equal(nearest[0].indices, nearest[1].indices), "the same point on both sides"


def test_within_one_patient_a_partner_is_at_one_place(folder: Path) -> None:
    rows = read_index(folder / "index.csv")
    scan = load_scan(rows[0]["path"], rows[0]["modality"], "p", catalogue.Intensity())
    example = stream([scan], max_view=(48, 48, 48)).draw(0)
    with torch.no_grad():
        assert described(module(), example, scan, scan).around.numel() == 0


def test_the_described_points_are_the_same_patient_points_in_both_views(folder: Path) -> None:
    scans = [load_scan(r["path"], r["modality"], r["frame"], catalogue.Intensity()) for r in read_index(folder / "index.csv")]
    example = PairStream(scans, Augmentation(truncate_p=0), 0, 0, (48, 48, 48), 1.0).draw(1)
    with torch.no_grad():
        d = described(module(), example, scans[example.fixed_scan], scans[example.moving_scan])
    assert 16 <= d.matched <= 48
    assert d.fine.shape == (2, d.matched + 160, 8)
    assert d.coarse.shape == (2, d.matched + 160, 8)
    torch.testing.assert_close(d.patient_mm[0, : d.matched], d.patient_mm[1, : d.matched], atol=2e-3, rtol=0)
    torch.testing.assert_close(d.fine.norm(dim=2), torch.ones(2, d.matched + 160), atol=1e-4, rtol=0)
