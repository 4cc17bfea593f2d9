"""Padding: constants around the field of view are found, and the same values inside a patient are
left alone."""

from __future__ import annotations

import numpy as np
import pytest

from UniversalAnatomicalEmbeddingLib.images.padding import filled, outside_values, thinned


def disc(shape: tuple[int, int, int], radius: float) -> np.ndarray:
    """Voxels (Z, Y, X) within a cylinder along z, in half side lengths."""
    y, x = np.indices(shape[1:])
    inside = ((y - (shape[1] - 1) / 2) ** 2 + (x - (shape[2] - 1) / 2) ** 2) <= (radius * min(shape[1:]) / 2) ** 2
    return np.broadcast_to(inside, shape)


def slab(shape: tuple[int, int, int] = (12, 40, 40)) -> np.ndarray:
    """Noise as of a patient in noisy air."""
    rng = np.random.default_rng(0)
    image = rng.normal(-1000, 10, shape)
    image[disc(shape, 0.6)] = rng.normal(40, 30, disc(shape, 0.6).sum())
    return image.round().astype(np.int16)


@pytest.mark.parametrize("value", [3071, -2000, -3024, 0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_outside_of_a_round_field_of_view_is_found_whichever_way_the_slices_lie(value: int, axis: int) -> None:
    image = slab()
    outside = ~disc(image.shape, 1.0)
    image[outside] = value
    turned = np.moveaxis(image, 0, axis)
    assert outside_values(turned) == (value,)
    found = np.moveaxis(filled(turned, value), axis, 0)
    np.testing.assert_array_equal(found[outside], True)


def test_a_ring_around_the_patient_is_found_though_air_lies_beyond_it() -> None:
    image = slab()
    ring = disc(image.shape, 0.95) & ~disc(image.shape, 0.8)
    image[ring] = 3071
    assert 3071 in outside_values(image)
    np.testing.assert_array_equal(filled(image, 3071), ring)


def test_empty_slices_are_found() -> None:
    image = slab()
    image[:2] = image[-2:] = -2000
    assert outside_values(image) == (-2000,)
    assert filled(image, -2000).sum() == 4 * 40 * 40


def test_a_saturated_implant_and_water_inside_are_no_padding() -> None:
    image = slab()
    image[:, 18:22, 18:22] = 3071
    image[:, 14, 14] = 0
    assert outside_values(image) == ()
    white = ~disc(image.shape, 1.0)
    image[white] = 3071
    np.testing.assert_array_equal(filled(image, 3071), white)


def test_an_image_of_one_value_and_one_without_constants_have_no_padding() -> None:
    assert outside_values(np.full((5, 6, 7), 3)) == ()
    assert outside_values(np.random.default_rng(0).normal(size=(20, 20, 20))) == ()


def test_thinning_keeps_short_axes_and_copies_nothing() -> None:
    array = np.zeros((3, 200, 200), np.int16)
    small = thinned(array, 3 * 50 * 50)
    assert small.shape[0] == 3 and small.size < 2 * 3 * 50 * 50 * 3
    assert np.shares_memory(small, array)
