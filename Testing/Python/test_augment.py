"""Random views: every voxel shows exactly the patient position that the parameters say, and the parameters repeat."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Generator, Tensor

from training.augment import AIR, Augmentation, ViewParameters, cut_view, draw_view, from_patient, to_patient

SHAPE = (24, 32, 28)
CENTRE = torch.tensor([15.0, -40.0, 300.0])
CLEAR = Augmentation(jitter_mm=10, truncate_p=0, thick_slice_p=0, noise=0, blur_p=0, remap_p=0, bias_p=0)
STILL = replace(CLEAR, zoom=(1, 1), stretch=0, rotation_deg=0, large_rotation_p=0, jitter_mm=0)
ROUGH = Augmentation(truncate_p=1, thick_slice_p=1, noise=0.3, blur_p=1, remap_p=1, bias_p=1, elastic_p=1)
SLOPE = 0.009


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def view(seed: int, elastic: bool, a: Augmentation = CLEAR, shape: tuple[int, int, int] = SHAPE) -> ViewParameters:
    return draw_view(CENTRE, shape, elastic, a, seeded(seed))


def all_indices(shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.from_numpy(np.indices(shape).reshape(3, -1).T.copy()).float()


@cache
def ramp(axis: int) -> tuple[Tensor, Tensor]:
    """An oblique volume of 2 mm voxels whose value rises with one patient coordinate, and its mm-to-index matrix (3, 4)."""
    linear = Rotation.from_euler("xyz", (10, -15, 20), degrees=True).as_matrix() * 2.0
    offset = CENTRE.numpy() - linear @ [47.5, 47.5, 47.5]
    index_xyz = np.indices((96, 96, 96)).reshape(3, -1).T[:, ::-1]
    position = index_xyz @ linear[axis] + offset[axis] - float(CENTRE[axis])
    inverse = np.linalg.inv(linear)
    mm_to_index = np.hstack([inverse, (-inverse @ offset)[:, None]])
    return torch.from_numpy((SLOPE * position).clip(-0.99, 0.99).reshape(96, 96, 96)).float(), torch.from_numpy(mm_to_index).float()


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
    a = replace(STILL, remap_p=1, remap_strength=1, invert_p=0)
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
    v = view(0, False, replace(STILL, remap_p=1, invert_p=1))
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
