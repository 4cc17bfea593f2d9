"""Preprocessing: a linear image comes back exactly on the canonical grid, and intensities, air and body are what the models expect."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import OBLIQUE, affines, make_affine

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.preprocess import Intensity, approximate_body, mr_limits, scale_intensity, to_canonical
from UniversalAnatomicalEmbeddingLib.images.volume import Modality, Volume
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

QUICK = settings(max_examples=20, deadline=None)
RAMP = np.array([1.7, -2.3, 3.1])


def world_of(grid: Grid) -> np.ndarray:
    """LPS positions (Z, Y, X, 3) of all voxels."""
    return grid.index_to_world(np.argwhere(np.ones(grid.shape_zyx, bool))).reshape(*grid.shape_zyx, 3)


def ramp_volume(affine: np.ndarray, shape: tuple[int, int, int] = (14, 17, 20), modality: Modality = "ct") -> Volume:
    """An image that is linear in the world, 0 at the middle of the scan."""
    grid = Grid(shape, affine)
    middle = grid.index_to_world([(np.array(shape) - 1) / 2])
    return Volume(((world_of(grid) - middle) @ RAMP).astype(np.float32), grid, modality)


def reach(volume: Volume, spacing: float) -> np.ndarray:
    """How many voxels (z, y, x) the smoothing looks at on each side, where the edge of the scan can spoil a ramp."""
    factor = spacing / volume.grid.spacing_xyz[::-1]
    return np.ceil(4 * np.sqrt(np.maximum(factor**2 - 1, 0)) / 2.355) + 1


def ramp_error_mm(volume: Volume, spacing: float = 2.0) -> tuple[float, int]:
    """How far, in mm along the ramp, canonical voxels are from where they should be; over how many inner voxels that was measured."""
    image, grid = to_canonical(volume, "ct", spacing)
    world, size = world_of(grid), np.array(volume.array.shape)
    index = np.linalg.solve(volume.grid.affine[:3, :3], (world.reshape(-1, 3) - volume.grid.affine[:3, 3]).T).T[:, ::-1]
    margin = reach(volume, spacing)
    inside = ((index >= margin) & (index <= size - 1 - margin)).all(axis=1)
    middle = volume.grid.index_to_world([(size - 1) / 2])
    expected = (world.reshape(-1, 3) - middle) @ RAMP
    return float(np.abs(image.ravel() - expected)[inside].max(initial=0)) / np.linalg.norm(RAMP), int(inside.sum())


# --- canonical grid -------------------------------------------------------------------------------------------------------------------


@QUICK
@given(affine=affines(0.9, 5), spacing=st.sampled_from([1.5, 2.0, 3.0]))
def test_linear_image_is_reproduced_in_every_orientation(affine: np.ndarray, spacing: float) -> None:
    assert ramp_error_mm(ramp_volume(affine), spacing)[0] < 1e-3


@pytest.mark.parametrize(
    "affine",
    [
        make_affine((0, 0, 0), (2.5, 0.9, 4)),
        make_affine((30, 40, 50), (2, 2, 2)),
        make_affine((0, 0, 0), (1.1, 1.1, 3), (0, 0, 0.5)),
        OBLIQUE,
    ],
    ids=["anisotropic", "oblique", "gantry tilt", "everything"],
)
def test_linear_image_is_reproduced(affine: np.ndarray) -> None:
    error, measured = ramp_error_mm(ramp_volume(affine))
    assert error < 1e-3 and measured > 200


def test_a_tenth_of_a_voxel_would_be_noticed() -> None:
    volume = ramp_volume(OBLIQUE)
    affine = volume.grid.affine.copy()
    affine[:3, 3] += 0.1 * affine[:3, 0]
    shifted = Volume(volume.array, Grid(volume.array.shape, affine), "ct")
    middle = volume.grid.index_to_world([(np.array(volume.array.shape) - 1) / 2])
    image, grid = to_canonical(shifted, "ct")
    at = tuple(np.rint(grid.world_to_index(middle)[0]).astype(int))
    expected = ((grid.index_to_world([at]) - middle) @ RAMP).item()
    assert abs(image[at] - expected) / np.linalg.norm(RAMP) > 0.01


def test_result_lies_on_the_axis_aligned_grid_of_the_scan() -> None:
    volume = ramp_volume(OBLIQUE)
    image, grid = to_canonical(volume, "ct", 3.0)
    assert grid == volume.grid.axis_aligned(3.0)
    assert image.shape == grid.shape_zyx and image.dtype == np.float32


def test_air_lies_outside_an_oblique_ct() -> None:
    volume = Volume(np.full((14, 17, 20), 300, dtype=np.int16), Grid((14, 17, 20), OBLIQUE), "ct")
    image, grid = to_canonical(volume, "ct")
    inside = volume.grid.contains(world_of(grid).reshape(-1, 3)).reshape(image.shape)
    assert 0.05 < inside.mean() < 0.95
    np.testing.assert_array_equal(image, np.where(inside, 300, -1024))


def test_minimum_of_the_scan_lies_outside_an_oblique_mr() -> None:
    array = np.full((14, 17, 20), 300, dtype=np.uint16)
    array[7, 8, 10] = 17
    volume = Volume(array, Grid(array.shape, OBLIQUE), "mr")
    image, grid = to_canonical(volume, "mr")
    inside = volume.grid.contains(world_of(grid).reshape(-1, 3)).reshape(image.shape)
    np.testing.assert_array_equal(image[~inside], np.float32(17))


def test_a_scan_longer_than_any_patient_is_refused_before_it_fills_the_memory() -> None:
    """Metres or micrometres taken for millimetres."""
    volume = Volume(np.zeros((5, 6, 7), np.int16), Grid((5, 6, 7), np.diag([900.0, 900.0, 900.0, 1.0])), "ct", "unit")
    with pytest.raises(InputError, match=r"unit covers 6\.3 x 5\.4 x 4\.5 m, more than a patient; its voxel spacing is wrong"):
        to_canonical(volume, "ct")


def test_canonical_scan_is_left_as_it_is() -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-40, 18, 7]
    array = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    image, grid = to_canonical(Volume(array, Grid(array.shape, affine), "ct"), "ct")
    assert grid == Grid(array.shape, affine)
    np.testing.assert_array_equal(image, array)


def test_canonical_scan_at_an_awkward_origin_is_left_as_it_is() -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-40.1, 18.3, 1e3 / 3]
    array = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    image, grid = to_canonical(Volume(array, Grid(array.shape, affine), "ct"), "ct")
    np.testing.assert_allclose(grid.affine, affine, atol=1e-9)
    np.testing.assert_allclose(image, array, atol=1e-5)


# --- resampling to larger voxels ------------------------------------------------------------------------------------------------------


def column(pattern: np.ndarray, spacing: float) -> np.ndarray:
    """A scan that changes along one axis only, resampled to 2 mm: its inner profile."""
    array = np.broadcast_to(pattern.astype(np.float32), (8, 8, len(pattern)))
    image, _ = to_canonical(Volume(array, Grid(array.shape, np.diag([spacing, 2.0, 2.0, 1.0])), "ct"), "ct")
    return image[4, 4, 5:-5]


def test_pattern_finer_than_the_new_voxels_is_suppressed() -> None:
    assert np.abs(column(100 * (-1.0) ** np.arange(200), 0.7)).max() < 2


def test_pattern_coarser_than_the_new_voxels_survives() -> None:
    profile = column(100 * np.sin(2 * np.pi * np.arange(200) * 0.7 / 16), 0.7)
    assert np.ptp(profile) / 2 == pytest.approx(93, abs=5)


def test_smoothing_acts_on_the_axis_that_shrinks_only() -> None:
    array = np.broadcast_to((100 * (-1.0) ** np.arange(9))[:, None, None], (9, 9, 30)).astype(np.float32)
    image, _ = to_canonical(Volume(array, Grid(array.shape, np.diag([0.7, 2.0, 2.0, 1.0])), "ct"), "ct")
    np.testing.assert_allclose(image[:, 4, 5], 100 * (-1.0) ** np.arange(9), atol=1e-3)


@QUICK
@given(affine=affines(0.4, 4))
def test_constant_stays_constant(affine: np.ndarray) -> None:
    volume = Volume(np.full((6, 7, 8), 37.0, dtype=np.float32), Grid((6, 7, 8), affine), "mr")
    np.testing.assert_allclose(to_canonical(volume, "mr")[0], 37, rtol=1e-5)


def test_resampling_leaves_the_scan_untouched() -> None:
    volume = ramp_volume(make_affine((0, 0, 0), (0.7, 0.7, 1)))
    before = volume.array.copy()
    to_canonical(volume, "ct")
    np.testing.assert_array_equal(volume.array, before)


# --- intensities ----------------------------------------------------------------------------------------------------------------------


def test_ct_follows_its_knots_and_is_constant_beyond() -> None:
    hu = np.array([[[-3000, -1024, -612, -200, 25, 250, 875, 1500, 30000]]])
    scaled = scale_intensity(hu, "ct", Intensity())
    np.testing.assert_allclose(scaled[0, 0], [-1, -1, -0.7, -0.4, 0.1, 0.6, 0.8, 1, 1], atol=1e-6)
    assert scaled.dtype == np.float32


@given(hu=st.lists(st.integers(-4000, 6000), min_size=1, max_size=50))
def test_ct_scaling_can_be_the_published_one(hu: list[int]) -> None:
    scaled = scale_intensity(np.array(hu, dtype=np.float32), "ct", Intensity(ct_knots=((-1024, -50), (3071, 205))))
    published = (np.clip(hu, -1024, 3071) + 1024) / (3071 + 1024) * 255 - 50
    np.testing.assert_allclose(scaled, published, atol=1e-4)


def test_mr_percentiles_map_to_the_ends_of_the_range() -> None:
    image = np.arange(1001, dtype=np.float32).reshape(7, 11, 13)
    intensity = Intensity(mr_percentiles=(10, 90), mr_range=(-50, 205), mr_foreground=False, mr_rule="percentiles")
    assert mr_limits(image, intensity) == pytest.approx((100, 900))
    scaled = scale_intensity(image, "mr", intensity).ravel()
    np.testing.assert_allclose(scaled[[0, 100, 500, 900, 1000]], [-50, -50, 77.5, 205, 205], atol=1e-3)
    assert scaled.dtype == np.float32


def test_upper_mr_percentile_ignores_the_background() -> None:
    image = np.zeros((10, 10, 10), dtype=np.float32)
    image[:1] = np.linspace(100, 200, 100).reshape(10, 10)
    rule = Intensity(mr_percentiles=(0.5, 50), mr_rule="percentiles")
    low, high = mr_limits(image, rule)
    assert low == 0 and high == pytest.approx(150, abs=1)
    assert mr_limits(image, replace(rule, mr_foreground=False))[1] < 1e-3


@pytest.mark.parametrize("value", [0.0, -3.0, 1e6])
def test_constant_mr_scales_to_its_lowest_value(value: float) -> None:
    np.testing.assert_array_equal(scale_intensity(np.full((3, 3, 3), value, dtype=np.float32), "mr", Intensity()), np.float32(-1))


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_air_is_the_scaled_value_of_the_outside(modality: Modality) -> None:
    image = np.array([-1024.0, 0, 500] * 9, dtype=np.float32).reshape(3, 3, 3)
    intensity = Intensity(ct_knots=((-1024, -7), (3071, 1)), mr_range=(-3, 1))
    assert intensity.air(modality) == scale_intensity(image, modality, intensity)[0, 0, 0] == {"ct": -7, "mr": -3}[modality]


def test_scaling_returns_a_new_array() -> None:
    image = np.zeros((2, 2, 2), dtype=np.float32)
    for modality in ("ct", "mr"):
        assert not np.shares_memory(scale_intensity(image, modality, Intensity()), image)


# --- approximate body ------------------------------------------------------------------------------------------------------------------------

Z, Y, X = np.meshgrid(np.arange(20), np.arange(60), np.arange(80), indexing="ij")
BODY = ((Y - 25) / 18) ** 2 + ((X - 40) / 30) ** 2 <= 1
LUNGS = (((Y - 25) / 10) ** 2 + ((np.abs(X - 40) - 13) / 9) ** 2 <= 1) & (Z > 5)
TABLE = (Y >= 50) & (Y <= 53) & (np.abs(X - 40) < 36)


def torso(air: float, tissue: float, lung: float, table: float) -> np.ndarray:
    """Lungs open to the top of the scan, a table some millimetres below the back, noise everywhere."""
    image = np.full(BODY.shape, air, dtype=np.float32)
    image[TABLE], image[BODY], image[LUNGS] = table, tissue, lung
    return image + np.random.default_rng(0).normal(0, 0.01 * (tissue - air), image.shape).astype(np.float32)


@pytest.mark.parametrize(("modality", "values"), [("ct", (-1000, 40, -850, 0)), ("mr", (5, 400, 15, 350))])
def test_body_holds_the_lungs_but_neither_table_nor_air(modality: Modality, values: tuple[float, ...]) -> None:
    mask = approximate_body(torso(*values), modality)
    assert mask[LUNGS].all(), "lungs, in the top slice too"
    assert not mask[TABLE].any(), "table"
    assert mask[BODY].mean() > 0.98 and not mask[~BODY & ~TABLE].any(), "outline"


def test_body_reaches_the_border_of_a_scan_inside_it() -> None:
    assert approximate_body(np.full((6, 7, 8), 50, dtype=np.float32), "ct").all()


def test_nothing_is_body_where_there_is_only_air() -> None:
    for modality, value in (("ct", -1000.0), ("mr", 0.0)):
        mask = approximate_body(np.full((6, 7, 8), value, dtype=np.float32), modality)
        assert mask.shape == (6, 7, 8) and mask.dtype == bool and not mask.any()


def test_gaps_of_the_skin_are_closed_over_six_millimetres() -> None:
    image = np.full((9, 40, 40), -1000, dtype=np.float32)
    image[:, 4:36, 4:36] = 50
    image[:, 12:28, 12:28] = -850
    image[:, 4:12, 19:22] = -850  # a slit of 6 mm at 2 mm voxels, of 18 mm at 6 mm voxels
    assert approximate_body(image, "ct", 2.0)[4, 20, 20]
    assert not approximate_body(image, "ct", 6.0)[4, 20, 20]


@pytest.mark.parametrize(("width", "kept"), [(16, True), (9, True), (4, False)])
def test_a_second_leg_is_body_and_a_small_thing_beside_the_patient_is_not(width: int, kept: bool) -> None:
    image = np.full((12, 40, 60), -1000, dtype=np.float32)
    image[:, 10:30, 4:24] = 50
    image[:, 10:30, 38 : 38 + width] = 50
    mask = approximate_body(image, "ct")
    assert mask[:, 12:28, 6:22].all()
    assert mask[6, 20, 39] == kept
