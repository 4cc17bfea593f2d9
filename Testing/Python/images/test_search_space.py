"""Where anatomy can be: nothing that shows a patient is ever left out, flat air is, and points are sampled from about the patient."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from UniversalAnatomicalEmbeddingLib.images.preprocess import to_canonical
from UniversalAnatomicalEmbeddingLib.images.search_space import (
    air_ceiling,
    anatomy_voxels,
    approximate_anatomy,
    bounding_box,
    cell_means,
    find_search_space,
)
from UniversalAnatomicalEmbeddingLib.images.volume import Modality, read_volume

CELL = (2, 2, 2)
SHAPE = (40, 100, 140)
Z, Y, X = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
BODY = ((Y - 45) / 32) ** 2 + ((X - 70) / 50) ** 2 <= 1
LUNGS = (((Y - 45) / 22) ** 2 + ((np.abs(X - 70) - 24) / 18) ** 2 <= 1) & (Z > 6)
VESSELS = LUNGS & ((Y + X) % 8 < 2) & (Y % 8 < 2)
TRACHEA = ((Y - 45) / 5) ** 2 + ((X - 70) / 5) ** 2 <= 1
TABLE = (Y >= 86) & (Y <= 89) & (np.abs(X - 70) < 60)


def chest(noise: float = 8.0, air: float = -1000.0, lung: float = -860.0) -> np.ndarray:
    """A made-up chest on 2 mm voxels: lungs with vessels, open to the top slice, a trachea, a table 16 mm below the back."""
    image = np.full(SHAPE, air, dtype=np.float32)
    image[TABLE], image[BODY], image[LUNGS], image[VESSELS], image[TRACHEA] = 0, 40, lung, -300, air
    return image + np.random.default_rng(0).normal(0, noise, SHAPE).astype(np.float32)


def magnitude(image: np.ndarray, noise: float, seed: int = 0) -> np.ndarray:
    """An MR of ``image`` with the noise of a magnitude image."""
    rng = np.random.default_rng(seed)
    return np.hypot(image + rng.normal(0, noise, image.shape), rng.normal(0, noise, image.shape)).astype(np.float32)


def mr_chest(noise: float = 8.0) -> np.ndarray:
    """The same chest as an MR: dark lungs and airways."""
    image = np.zeros(SHAPE, dtype=np.float32)
    image[BODY], image[LUNGS], image[VESSELS], image[TRACHEA] = 400, 20, 200, 0
    return magnitude(image, noise)


def searched(image: np.ndarray, modality: Modality) -> np.ndarray:
    """The search space, voxel by voxel."""
    mask = find_search_space(cell_means(image, CELL, modality), modality, 4.0)
    return mask.repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(n) for n in image.shape)]


HALF, SLAB = np.s_[:, :, :70], np.s_[12:22]
LUNG_BOX = np.s_[10:34, 36:56, 34:56]  # all within the right lung
CUTS = {"whole": np.s_[:], "half": HALF, "slab": SLAB, "one lung": np.s_[:, 18:72, 24:68], "inside a lung": LUNG_BOX, "top": np.s_[36:]}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("noise", [0.0, 3.0, 25.0])
def test_no_anatomy_of_a_ct_is_left_out_however_it_is_cut(cut: str, noise: float) -> None:
    """The old body mask took a lung that is open to the border for outside air."""
    part = CUTS[cut]
    assert searched(chest(noise)[part], "ct")[BODY[part]].all()


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("noise", [0.0, 2.0, 10.0])
def test_no_anatomy_of_an_mr_is_left_out_however_it_is_cut(cut: str, noise: float) -> None:
    part = CUTS[cut]
    assert searched(mr_chest(noise)[part], "mr")[BODY[part]].all()


def test_flat_air_is_left_out_but_not_what_is_near_the_patient_or_the_table() -> None:
    image = chest()
    found, distance = searched(image, "ct"), ndimage.distance_transform_edt(~(BODY | TABLE), sampling=2.0)
    assert found[distance <= 12].all()
    assert not found[distance > 12 + 4 * np.sqrt(3) + 2].any()
    assert 0.05 < (~found).mean() < 0.5


@pytest.mark.parametrize("padding", [-1024.0, -2000.0, -3024.0])
def test_padding_around_the_field_of_view_is_air(padding: float) -> None:
    image = chest()
    outside = ((Y - 50) / 49) ** 2 + ((X - 70) / 69) ** 2 > 1
    image[outside] = padding
    found = searched(image, "ct")
    assert found[BODY].all() and not found[:, :6, :6].any()


def test_air_that_is_exactly_one_value_is_left_out() -> None:
    """As in planning CTs, where all outside the contour is -1024."""
    image = np.where(BODY, chest(), -1024.0)
    found = searched(image, "ct")
    assert found[BODY].all() and not found[:, :, :4].any()


@pytest.mark.parametrize("lung", [-930.0, -970.0])
def test_emphysema_is_searched(lung: float) -> None:
    image = chest(lung=lung)
    assert searched(image, "ct")[BODY].all()
    assert searched(image[LUNG_BOX], "ct").all()


def test_gas_near_tissue_is_searched_and_only_the_middle_of_a_wide_space_is_not() -> None:
    image = chest()
    pneumothorax = LUNGS & (X > 70)
    image[pneumothorax] = -1000 + np.random.default_rng(1).normal(0, 8, int(pneumothorax.sum()))
    found = searched(image, "ct")
    depth = ndimage.distance_transform_edt(np.pad(pneumothorax, ((0, 1), (0, 0), (0, 0)), mode="edge"), sampling=2.0)[:-1]
    assert found[BODY & (depth <= 12)].all()
    assert not found[depth > 22].any()


def spoiled(kind: str) -> np.ndarray:
    """An MR of the chest with one of the usual faults."""
    image = np.zeros(SHAPE, dtype=np.float32)
    image[BODY], image[LUNGS], image[VESSELS] = 400, 20, 200
    if kind == "hot slices":
        image[[3, 20, 21]] *= 20
    if kind == "coil":
        image *= 1 + 14 * np.exp(-(((Z - 20) ** 2 + (Y - 60) ** 2 + (X - 70) ** 2) / 60))
    if kind == "bias 1:10":
        image *= 10 ** (-X / SHAPE[2])
    if kind == "tumour with gas":
        ball = (Z - 20) ** 2 + (Y - 45) ** 2 + (X - 95) ** 2
        image[ball < 15**2], image[ball < 6**2] = 700, 0
    image = magnitude(image, 4.0)
    return image - 300 if kind == "below zero" else image


@pytest.mark.parametrize("kind", ["hot slices", "coil", "bias 1:10", "tumour with gas", "below zero"])
def test_no_anatomy_of_a_spoiled_mr_is_left_out_but_air_is(kind: str) -> None:
    found = searched(spoiled(kind), "mr")
    assert found[BODY].all()
    assert (~found).mean() > 0.05


@pytest.mark.parametrize(("modality", "factor"), [("mr", 0.001), ("mr", 250.0)])
def test_the_unit_of_an_mr_does_not_matter(modality: Modality, factor: float) -> None:
    image = mr_chest()
    np.testing.assert_array_equal(searched(image * np.float32(factor), modality), searched(image, modality))


def test_everything_is_searched_where_there_is_only_air() -> None:
    for modality, value in (("ct", -1000.0), ("mr", 0.0)):
        cells = np.full((6, 7, 8), value, dtype=np.float32)
        assert find_search_space(cells, modality, 4.0).all()
        assert not approximate_anatomy(cells, modality, 4.0).any()


def test_air_of_a_ct_is_never_as_dense_as_lung() -> None:
    noise = np.random.default_rng(0).normal(-900, 60, (30, 30, 30)).astype(np.float32)
    assert air_ceiling(noise, "ct") <= -950
    assert air_ceiling(cell_means(chest(8.0), CELL, "ct"), "ct") == pytest.approx(-1000 + 5 * 8 / np.sqrt(8), abs=4)


def test_means_of_cells_count_the_last_ones_with_what_they_have() -> None:
    image = np.random.default_rng(0).normal(0, 100, (5, 6, 7)).astype(np.float32)
    image[0, 0, 0] = -3024
    means = cell_means(image, (2, 3, 4), "ct")
    assert means.shape == (3, 2, 2)
    clipped = np.maximum(image, -1024)
    for at in np.ndindex(means.shape):
        part = tuple(slice(i * k, (i + 1) * k) for i, k in zip(at, (2, 3, 4), strict=True))
        assert means[at] == pytest.approx(clipped[part].mean(), abs=1e-3)
    assert cell_means(image, (2, 3, 4), "mr")[0, 0, 0] == pytest.approx(image[:2, :3, :4].mean(), abs=1e-3)


def test_box_holds_the_search_space_and_nothing_more() -> None:
    mask = np.zeros((5, 6, 7), dtype=bool)
    mask[1, 2, 3] = mask[3, 4, 6] = True
    voxels, cells = bounding_box(mask, (9, 12, 13), CELL)
    assert voxels == (slice(2, 8), slice(4, 10), slice(6, 13))
    assert cells == (slice(1, 4), slice(2, 5), slice(3, 7))


def test_sampling_is_about_the_patient() -> None:
    image = chest()
    image[:, 5:7, 30:110] = -700  # a fold of cloth
    found = anatomy_voxels(image, "ct", 2.0)
    assert found[BODY].mean() > 0.9 and found[LUNGS].mean() > 0.9, "lungs, in the top slice too"
    assert not found[TABLE].any() and not found[:, :9].any()
    assert (found & ~BODY).mean() < 0.02


def test_sampling_knows_a_lung_that_is_open_to_the_border_but_no_mattress() -> None:
    image = chest()
    mattress = (Y > 80) & (np.abs(X - 70) < 64)
    image[mattress] = -880 + np.random.default_rng(2).normal(0, 8, int(mattress.sum()))
    part = np.s_[:, :, 26:62]
    found = anatomy_voxels(image[part], "ct", 2.0)
    assert found[LUNGS[part]].mean() > 0.9
    assert found[mattress[part]].mean() < 0.1


def test_sampling_knows_the_size_of_the_voxels() -> None:
    image = chest()
    for step in (1, 2):
        found = anatomy_voxels(image[::step, ::step, ::step], "ct", 2.0 * step)
        assert found.shape == image[::step, ::step, ::step].shape
        assert found[BODY[::step, ::step, ::step]].mean() > 0.9


DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


def real_scans() -> list[tuple[str, str, str]]:
    """Split, modality, name of every scan that comes with the project's data, if it is there."""
    index = DATA / "INDEX.csv"
    if not index.is_file():
        return []
    with index.open(encoding="utf-8") as file:
        return [(row["split"], row["modality"].lower(), row["name"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_no_tissue_or_lung_of_a_real_scan_is_left_out(modality: Modality) -> None:
    """Also where the field of view is cut in half; lungs open at the cut."""
    scans = [(split, name) for split, m, name in real_scans() if m == modality and split == "dev"]
    if not scans:
        pytest.skip("needs the project's scans")
    for split, name in scans:
        raw, _ = to_canonical(read_volume(DATA / split / modality / f"{name}.nii.gz"), modality)
        high = np.percentile(raw, 90)
        inside = raw > (-900 if modality == "ct" else raw.min() + 0.25 * (high - raw.min()))
        for part in (np.s_[:], np.s_[:, :, : raw.shape[2] // 2], np.s_[raw.shape[0] // 3 : raw.shape[0] // 3 + 12]):
            missed = inside[part] & ~searched(raw[part], modality)
            assert missed.sum() <= 1e-4 * inside[part].sum(), name
