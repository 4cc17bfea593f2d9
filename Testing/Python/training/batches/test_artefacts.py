"""Tables and metal that are painted into scans."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from augmented_views import CENTRE, ROUGH, SHAPE, STILL, ramp, seeded, view
from torch import Tensor

from training.batches.artefacts import AIR, METAL, RIM, TISSUE, Metal, Table, draw_metal, draw_table, paint_metal, paint_table
from training.batches.augment import cut_view, draw_view


def patient(shape: tuple[int, int, int] = (8, 60, 64)) -> Tensor:
    """A body that lies free in air, with air in it."""
    image = torch.full((1, 1, *shape), AIR)
    image[..., 10:36, 16:48] = 0.1
    image[..., 20:26, 24:36] = -0.9
    return image


def test_the_table_lies_under_the_patient_only() -> None:
    for seed in range(20):
        table = draw_table(seeded(seed))
        out = paint_table(patient(), table)
        changed = out != patient()
        assert changed.any()
        rows = changed.any(4).any(2)[0, 0].nonzero()[:, 0]
        assert rows.min() >= 36 - table.sagitta * 2
        assert not changed[..., :36, 16:48].any(), "neither in the patient nor above"
        assert (out[changed] > AIR).all()
        assert torch.equal(out[:, :, 0], out[:, :, -1]), "the same in all slices"


def test_a_table_touches_the_back_has_a_shell_and_bends_upwards_at_its_edges() -> None:
    flat = paint_table(patient(), Table(gap=0, thickness=6, sagitta=0, middle=0.5, shell=0.2, core=-0.9))[0, 0, 0]
    assert flat[36:43, 32].tolist() == pytest.approx([0.2, 0.2, -0.9, -0.9, -0.9, 0.2, -1])
    assert torch.equal(flat[:, 0], flat[:, 63])
    bent = paint_table(patient(), Table(gap=0, thickness=6, sagitta=10, middle=0.5, shell=0.2, core=-0.9))[0, 0, 0]
    assert (bent[:, 2] > AIR).nonzero()[0, 0] < 30 < 36 == (bent[:, 32] == 0.2).nonzero()[0, 0]


def test_metal_shines_and_throws_rays_in_its_slices() -> None:
    image = patient((40, 60, 64))
    metal = Metal((20.0, 30.0, 40.0), radius=3.0, void=False, streaks=4, phase=0.0, strength=0.5, reach=10.0)
    out = paint_metal(image, metal)
    assert (out[0, 0, 20, 28:33, 38:43] == METAL).all()
    change = (out - image).abs()[0, 0]
    assert change[20, 30, 46] > 0.1
    assert change[:10].max() < 0.01
    assert change[31:].max() < 0.01
    signs = (out - image)[0, 0, 20, 33:36, 30:48]
    assert signs.min() < -0.1 < 0.1 < signs.max()
    assert out.abs().max() <= 1


def test_metal_in_mr_is_a_void_with_a_rim() -> None:
    metal = replace(draw_metal((8, 60, 64), True, seeded(1)), centre=(4.0, 30.0, 40.0), radius=4.0)
    out = paint_metal(patient(), metal)[0, 0, 4, 30]
    assert float(out[40]) == float(out[43]) == AIR
    assert float(out[45]) == pytest.approx(RIM)
    assert torch.equal(out[:30], patient()[0, 0, 4, 30, :30])


def test_tables_are_for_ct_and_metal_depends_on_the_modality() -> None:
    ct, mr = (draw_view(CENTRE, SHAPE, False, ROUGH, seeded(0), m) for m in ("ct", "mr"))
    assert ct.table is not None
    assert mr.table is None
    assert not ct.metal.void
    assert mr.metal.void
    volume = torch.full((96, 96, 96), AIR)
    volume[20:70, 20:60, 20:70] = 0.2
    with_table = cut_view(volume, ramp(0)[1], replace(view(0, False, STILL, (32, 64, 64)), table=ct.table))
    assert (with_table > TISSUE).sum() > (cut_view(volume, ramp(0)[1], view(0, False, STILL, (32, 64, 64))) > TISSUE).sum()
