"""Random views: every voxel shows exactly the patient position that the parameters say, and the parameters repeat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from augmented_views import CENTRE, CLEAR, ROUGH, SHAPE, SLOPE, STILL, ramp, seeded, view
from scipy.spatial.transform import Rotation
from torch import Tensor

from training.batches.artefacts import AIR
from training.batches.augment import Augmentation, cut_view, draw_mirror, draw_view, from_patient, to_patient


def all_indices(shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.from_numpy(np.indices(shape).reshape(3, -1).T.copy()).float()


def shown(image: Tensor, axis: int) -> Tensor:
    """The patient coordinate in mm that each voxel of a cut ramp shows."""
    return image.flatten() / SLOPE + CENTRE[axis]


# --- correspondence -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_every_voxel_shows_the_patient_position_that_to_patient_says(seed: int, elastic: bool) -> None:
    v = view(seed, elastic, replace(CLEAR, elastic_p=1))
    assert (v.displacement is not None) == elastic
    position = to_patient(all_indices(), v)
    for axis in range(3):
        found = shown(cut_view(*ramp(axis), v), axis)
        assert (found - position[:, axis]).abs().max() < 0.02, "mm"


def test_a_displaced_view_shows_something_else_than_the_affine_alone() -> None:
    v = view(1, True, replace(CLEAR, elastic_p=1))
    straight = replace(v, displacement=None)
    assert (to_patient(all_indices(), v) - to_patient(all_indices(), straight)).norm(dim=1).max() > 2
    field = v.displacement[0].permute(1, 2, 3, 0)
    corner = torch.tensor(SHAPE).float()[None] - 1
    torch.testing.assert_close(to_patient(corner, v) - to_patient(corner, straight), field[-1, -1, -1][None], atol=1e-3, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_from_patient_is_the_inverse_of_to_patient(seed: int) -> None:
    v = view(seed, False)
    index = torch.rand(50, 3, generator=seeded(seed)) * torch.tensor(SHAPE)
    torch.testing.assert_close(from_patient(to_patient(index, v), v), index, atol=1e-3, rtol=0)


def test_a_deformed_view_has_no_closed_inverse() -> None:
    v = view(0, True, replace(CLEAR, elastic_p=1))
    with pytest.raises(ValueError, match="without deformation"):
        from_patient(CENTRE[None], v)


def test_a_still_view_lies_around_its_centre_with_2_mm_voxels() -> None:
    v = view(0, False, STILL)
    middle = (torch.tensor(SHAPE).float() - 1) / 2
    torch.testing.assert_close(to_patient(middle[None], v), CENTRE[None])
    torch.testing.assert_close(to_patient(middle[None] + torch.tensor([1.0, 2.0, 3.0]), v), CENTRE[None] + torch.tensor([6.0, 4.0, 2.0]))


@pytest.mark.parametrize(("axis", "voxels"), [(0, 2), (1, 2), (2, 4), (0, 4), (0, 3)])
def test_thick_slices_and_blur_do_not_move_anything(axis: int, voxels: int) -> None:
    shape = (48, 32, 32)
    clear = view(2, False, CLEAR, shape)
    image = cut_view(*ramp(2), clear)
    inner = (..., *(slice(8, n - 8) for n in shape))
    for degraded in (replace(clear, thick=(axis, voxels)), replace(clear, blur=1.2)):
        difference = (cut_view(*ramp(2), degraded) - image)[inner]
        assert difference.abs().max() / SLOPE < 0.05, "mm"


def test_outside_the_volume_is_air() -> None:
    volume, mm_to_index = ramp(0)
    far = draw_view(CENTRE + 1000, SHAPE, False, STILL, seeded(0))
    assert (cut_view(volume, mm_to_index, far) == AIR).all()


# --- parameters -----------------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_parameters_and_another_seed_others() -> None:
    one, again, other = view(5, True, ROUGH), view(5, True, ROUGH), view(6, True, ROUGH)
    for name, value in vars(one).items():
        same = getattr(again, name)
        assert torch.equal(value, same) if isinstance(value, Tensor) else value == same, name
    assert not torch.equal(one.affine, other.affine)
    assert one.noise_seed != other.noise_seed


def test_only_the_given_generator_is_used() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    v = view(5, True, ROUGH)
    cut_view(*ramp(0), v)
    assert torch.equal(torch.get_rng_state(), before)


def test_zoom_rotation_and_jitter_stay_in_their_ranges() -> None:
    a = replace(CLEAR, zoom=(0.8, 1.25), stretch=0.08, rotation_deg=10, large_rotation_p=0, jitter_mm=30)
    middle = (torch.tensor(SHAPE).float() - 1)[None] / 2
    for seed in range(30):
        v = view(seed, False, a)
        scale = v.affine[:, :3].norm(dim=0) / 2
        assert ((scale > 0.8 * 0.92) & (scale < 1.25 * 1.08)).all()
        rotation = v.affine[:, :3] / v.affine[:, :3].norm(dim=0)
        torch.testing.assert_close(rotation.T @ rotation, torch.eye(3), atol=1e-5, rtol=0)
        assert torch.linalg.det(rotation) > 0
        assert Rotation.from_matrix(rotation.numpy()).magnitude() < np.deg2rad(10 * np.sqrt(3) + 1)
        assert (to_patient(middle, v)[0] - CENTRE).abs().max() <= 30.001


def test_deformation_only_where_it_is_allowed() -> None:
    a = replace(CLEAR, elastic_p=1)
    assert view(0, False, a).displacement is None
    assert view(0, True, a).displacement.shape == (1, 3, 7, 7, 7)


@pytest.mark.parametrize("jitter", [(0.0, 6.0, 30.0), (30.0, 0.0, 2.0)])
def test_jitter_can_differ_along_the_axes(jitter: tuple[float, float, float]) -> None:
    middle = (torch.tensor(SHAPE).float() - 1)[None] / 2
    moved = torch.stack([to_patient(middle, view(s, False, replace(STILL, jitter_mm=jitter)))[0] - CENTRE for s in range(20)]).abs()
    assert (moved.amax(0) <= torch.tensor(jitter) + 1e-3).all()
    assert (moved.amax(0) >= 0.6 * torch.tensor(jitter) - 1e-3).all()


# --- parts of volumes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_view_needs_only_the_part_of_the_volume_around_it(seed: int) -> None:
    """All that lies more than two voxels outside the view is damaged, and the view is the same."""
    volume, mm_to_index = ramp(2)
    v = view(seed, True, replace(CLEAR, elastic_p=1), (12, 16, 14))
    index = to_patient(all_indices(v.shape_zyx), v) @ mm_to_index[:, :3].T + mm_to_index[:, 3]
    low, high = (index.amin(0) - 2).floor().long().flip(0), (index.amax(0) + 3).ceil().long().flip(0)
    damaged = torch.full_like(volume, float("nan"))
    box = tuple(slice(max(0, a), b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    damaged[box] = volume[box]
    assert torch.equal(cut_view(damaged, mm_to_index, v), cut_view(volume, mm_to_index, v))


@pytest.mark.parametrize("shift", [(-100.0, 0.0, 0.0), (0.0, 90.0, 0.0), (60.0, -60.0, 90.0)])
def test_a_view_that_leaves_the_volume_is_the_same_as_one_of_a_padded_volume(shift: tuple[float, float, float]) -> None:
    volume, mm_to_index = ramp(0)
    v = draw_view(CENTRE + torch.tensor(shift), SHAPE, False, CLEAR, seeded(1))
    padded = torch.nn.functional.pad(volume, [40] * 6, value=AIR)
    moved = torch.cat([mm_to_index[:, :3], mm_to_index[:, 3:] + 40], dim=1)
    torch.testing.assert_close(cut_view(volume, mm_to_index, v), cut_view(padded, moved, v), atol=2e-4, rtol=0)


def test_half_precision_volumes_give_float32_views() -> None:
    volume, mm_to_index = ramp(1)
    half, full = (cut_view(x, mm_to_index, view(1, False)) for x in (volume.half(), volume))
    assert half.dtype == torch.float32
    assert (half - full).abs().max() < 6e-4


# --- mirrors --------------------------------------------------------------------------------------------------------------------------

BOX_MM = torch.tensor([[0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 0.5, 0]])


def test_a_mirrored_view_shows_the_left_as_the_right() -> None:
    image = torch.zeros(20, 24, 28)
    image[..., 18:], image[..., :4] = 0.5, 0.9
    at = torch.tensor([27.0, 23.0, 19.0])
    plain, mirrored = (draw_view(at, (20, 24, 28), False, STILL, seeded(0), mirror=m) for m in (False, True))
    assert torch.linalg.det(plain.affine[:, :3]) > 0 > torch.linalg.det(mirrored.affine[:, :3])
    torch.testing.assert_close(cut_view(image, BOX_MM, mirrored), cut_view(image, BOX_MM, plain).flip(4), atol=1e-5, rtol=0)
    index = torch.rand(20, 3) * 20
    torch.testing.assert_close(from_patient(to_patient(index, mirrored), mirrored), index, atol=1e-3, rtol=0)


def test_a_mirror_is_drawn_for_a_pair_and_never_unasked() -> None:
    drawn = [draw_mirror(replace(CLEAR, mirror_p=0.5), seeded(s)) for s in range(40)]
    assert 8 < sum(drawn) < 32
    assert not any(draw_mirror(Augmentation(), seeded(s)) for s in range(40))


# --- field of view --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_truncated_view_is_air_outside_its_box_only(seed: int) -> None:
    a = replace(CLEAR, truncate_p=1, truncate_keep=(0.5, 0.8))
    v = view(seed, False, a)
    low, high = v.box
    size = torch.tensor(SHAPE).float()
    assert (low >= 0).all()
    assert (high <= size - 1).all()
    assert (high - low + 1 >= 0.5 * size - 2).all()
    assert (high - low + 1 <= 0.8 * size).all()
    image = cut_view(*ramp(1), v).flatten()
    inside = ((all_indices() >= low) & (all_indices() <= high)).all(1)
    assert (image[~inside] == AIR).all()
    assert (image[inside] > AIR).all()
    assert not inside.all()


def test_an_untruncated_view_keeps_everything() -> None:
    v = view(0, False)
    assert v.box.tolist() == [[0, 0, 0], [n - 1 for n in SHAPE]]


# --- intensities ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_degrading_keeps_shape_and_range_and_repeats(seed: int) -> None:
    v = view(seed, True, ROUGH)
    image = cut_view(*ramp(0), v)
    assert image.shape == (1, 1, *SHAPE)
    assert image.min() >= -1
    assert image.max() <= 1
    assert torch.isfinite(image).all()
    assert torch.equal(image, cut_view(*ramp(0), v))


def test_noise_has_its_strength_and_its_own_seed() -> None:
    v = replace(view(0, False, STILL), noise=0.05)
    clear, noisy, other = (cut_view(*ramp(0), p) for p in (replace(v, noise=0.0), v, replace(v, noise_seed=v.noise_seed + 1)))
    assert float((noisy - clear).std()) == pytest.approx(0.05, rel=0.05)
    assert not torch.equal(noisy, other)


def test_a_remap_keeps_air_at_air_and_the_order_of_tissues() -> None:
    a = replace(STILL, remap_p=1, remap_strength=1, invert_p=0, nonmonotone_p=0)
    levels = torch.linspace(-1, 1, 41)
    volume = levels.repeat_interleave(4)[:, None, None].expand(164, 40, 40).contiguous()
    mm_to_index = torch.tensor([[0.5, 0, 0, 20], [0, 0.5, 0, 20], [0, 0, 0.5, 81.5]])
    for seed in range(3):
        v = draw_view(torch.zeros(3), (164, 4, 4), False, a, seeded(seed))
        out = cut_view(volume, mm_to_index, v)[0, 0, :, 2, 2]
        assert float(out[0]) == pytest.approx(AIR, abs=1e-5)
        assert float(out[-1]) == pytest.approx(1, abs=1e-5)
        assert (out.diff() >= -1e-5).all()
        assert (out - cut_view(volume, mm_to_index, replace(v, remap=None))[0, 0, :, 2, 2]).abs().max() > 0.02


def test_an_inverted_remap_turns_the_tissues_round_but_not_the_air() -> None:
    v = view(0, False, replace(STILL, remap_p=1, invert_p=1, nonmonotone_p=0))
    assert float(v.remap[0]) == pytest.approx(-1)
    assert (v.remap[1:].diff() < 0).all()


def test_a_bias_field_multiplies_what_is_above_air() -> None:
    v = view(0, False, replace(STILL, bias_p=1, bias_strength=0.2))
    clear = cut_view(*ramp(0), replace(v, bias=None))
    gain = (cut_view(*ramp(0), v) - AIR) / (clear - AIR)
    assert float(gain[0, 0, 0, 0, 0]) == pytest.approx(float(v.bias[0, 0, 0, 0, 0].exp()), rel=1e-4)
    assert float(gain.std()) > 0.02
    empty = torch.full((96, 96, 96), AIR)
    assert (cut_view(empty, ramp(0)[1], v) == AIR).all()


def test_a_nonmonotone_remap_changes_the_order_of_tissues_but_not_the_air() -> None:
    curves = [view(s, False, replace(STILL, remap_p=1, nonmonotone_p=1, invert_p=0)).remap for s in range(8)]
    assert all(float(c[0]) == pytest.approx(AIR) and c.abs().max() <= 1 for c in curves)
    assert sum(bool((c.diff() < 0).any() and (c[1:].diff() > 0).any()) for c in curves) >= 6
    assert min(float(c.diff().abs().min()) for c in curves) >= 0.3 - 1e-6, "tissues stay apart"


def test_neighbours_move_between_their_neighbours() -> None:
    """UAE section 3.3: each inner ordinate is drawn uniformly between the one before it and the next one of the identity."""
    a = replace(STILL, remap_p=1, remap_style="neighbours", remap_nodes=(5, 15), nonmonotone_p=0, invert_p=0)
    curves = [view(s, False, a).remap for s in range(60)]
    assert {len(c) for c in curves} == set(range(5, 16))
    for curve in curves:
        straight = torch.linspace(-1, 1, len(curve))
        assert (curve.diff() >= 0).all()
        assert (curve[1:-1] <= straight[2:] + 1e-6).all()
        assert curve[[0, -1]].tolist() == [-1, 1]
    share = torch.stack([(c[1] + 1) / (2 * torch.linspace(0, 1, len(c))[2]) for c in curves])
    assert 0.35 < share.mean() < 0.65
    assert share.std() > 0.2


def test_a_remap_over_the_own_range_keeps_its_ends() -> None:
    levels = torch.linspace(-0.4, 0.3, 40)
    volume = torch.cat([torch.full((20,), AIR), levels.repeat_interleave(4)])[:, None, None].expand(180, 40, 40).contiguous()
    mm_to_index = torch.tensor([[0.5, 0, 0, 20], [0, 0.5, 0, 20], [0, 0, 0.5, 89.5]])
    v = replace(
        draw_view(torch.zeros(3), (180, 4, 4), False, STILL, seeded(0)), remap=torch.tensor([-1.0, -0.8, 1.0]), remap_own_range=True
    )
    out = cut_view(volume, mm_to_index, v)[0, 0, :, 2, 2]
    assert (out[:19] == AIR).all()
    assert [float(out[22]), float(out[98]), float(out[-1])] == pytest.approx([-0.4, -0.4 + 0.1 * 0.7, 0.3], abs=0.01)


def test_ct_gets_its_share_of_the_changes_of_contrast_and_mr_all_of_them() -> None:
    a = replace(STILL, remap_p=0.8, bias_p=0.8, ct_contrast=0.25)
    for modality, low, high in (("ct", 8, 35), ("mr", 65, 95)):
        drawn = [draw_view(CENTRE, (32, 32, 32), False, a, seeded(s), modality) for s in range(100)]
        assert low < sum(v.remap is not None for v in drawn) < high
        assert low < sum(v.bias is not None for v in drawn) < high


def test_blur_can_be_given_as_a_range() -> None:
    widths = [view(s, False, replace(STILL, blur_p=1, blur_voxels=(0.0, 2.0))).blur for s in range(40)]
    assert 0 < min(widths) < 0.3
    assert 1.7 < max(widths) <= 2


def test_the_settings_of_the_papers_can_be_written() -> None:
    """SAM: zoom and noise only; UAE-M: rotation, contrast through moved control points, blur up to 4 mm."""
    sam = Augmentation(
        zoom=(0.8, 1.2), stretch=0, rotation_deg=0, large_rotation_p=0, elastic_p=0, truncate_p=0, thick_slice_p=0, noise=8e-6
    )
    sam = replace(sam, blur_p=0, remap_p=0, bias_p=0, table_p=0, metal_p=0)
    for v in (draw_view(CENTRE, (32, 96, 96), True, sam, seeded(s)) for s in range(5)):
        scale = v.affine[:, :3].norm(dim=0)
        torch.testing.assert_close(v.affine[:, :3], torch.eye(3) * scale[0])
        assert v.displacement is v.thick is v.remap is v.bias is v.table is v.metal is None
    uae = replace(sam, rotation_deg=5, blur_p=1, blur_voxels=(0, 2), remap_p=0.9, remap_style="neighbours", remap_nodes=(5, 15))
    uae = replace(uae, remap_own_range_p=0.3, nonmonotone_p=0, invert_p=0.3)
    drawn = [draw_view(CENTRE, (32, 96, 96), True, uae, seeded(s), "mr") for s in range(60)]
    changed = [v for v in drawn if v.remap is not None]
    assert 45 < len(changed) < 60
    assert 6 < sum(v.remap_own_range for v in changed) < 30
    assert 6 < sum(bool(v.remap[1] > v.remap[-1]) for v in changed) < 30
