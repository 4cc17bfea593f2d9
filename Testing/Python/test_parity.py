"""Parity with the published SAM / UAE inference, which Testing/parity/published.py states a second time without using the package."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import randomised, tissue_volume
from searchables import Points, synthetic
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
import published

from UniversalAnatomicalEmbeddingLib.embedding.embedding import Embedding, embed_volume
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.preprocess import Intensity, Pipeline, mr_limits, scale_intensity, to_canonical
from UniversalAnatomicalEmbeddingLib.images.volume import Volume
from UniversalAnatomicalEmbeddingLib.matching import match_points
from UniversalAnatomicalEmbeddingLib.matching.nearest import find_peaks
from UniversalAnatomicalEmbeddingLib.matching.searchable import Searchable
from UniversalAnatomicalEmbeddingLib.models.model import Model, ModelCard
from UniversalAnatomicalEmbeddingLib.networks.fold import fold_batch_norm
from UniversalAnatomicalEmbeddingLib.networks.resnet_embedder import ResNetEmbedder
from UniversalAnatomicalEmbeddingLib.options import MatchOptions

INTENSITY = Intensity(((-1024, -50), (3071, 205)), (0.2, 99.8), (-50, 205), mr_foreground=False, mr_rule="percentiles")
CARD = ModelCard("uae-s", "", "resnet3d18-fpn", ("ct", "mr"), (), "", "", {"semantic": True}, INTENSITY, "released")


@pytest.fixture(scope="module")
def networks() -> dict[bool, ResNetEmbedder]:
    """Random weights, statistics and biases: without and with the semantic head."""
    return {semantic: randomised(ResNetEmbedder(semantic)) for semantic in (False, True)}


# --- network --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 32, 32), (11, 37, 19), (13, 16, 33)])
@pytest.mark.parametrize("semantic", [False, True])
@pytest.mark.parametrize("folded", [False, True])
def test_maps_equal_the_published_ones(networks: dict[bool, ResNetEmbedder], size: tuple[int, ...], semantic: bool, folded: bool) -> None:
    network = networks[semantic]
    image = 60 * torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = published.embed(network.state_dict(), image)
        found = (fold_batch_norm(network) if folded else network)(image)
    assert found.keys() == expected.keys() == {"fine", "coarse"} | ({"semantic"} if semantic else set())
    for name, value in expected.items():
        assert value.shape == found[name].shape and value.std() > 0.01
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)


def test_a_wrong_layer_would_be_noticed(networks: dict[bool, ResNetEmbedder]) -> None:
    state = dict(networks[False].state_dict())
    image = 60 * torch.randn(1, 1, 8, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = published.embed(state, image)
        state["backbone.layer3.1.conv2.bn.running_var"] = state["backbone.layer3.1.conv2.bn.running_var"] * 1.05
        changed = published.embed(state, image)
    assert max(float((changed[name] - expected[name]).abs().max()) for name in expected) > 1e-4


# --- input ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing_xyz", [(0.7, 1.1, 5.0), (2.0, 2.0, 2.0), (1.9, 0.9, 1.25)])
@pytest.mark.parametrize("pipeline", ["released", "published"])
def test_canonical_grid_is_the_published_one(spacing_xyz: tuple[float, float, float], pipeline: Pipeline) -> None:
    array = np.random.default_rng(0).normal(0, 300, (11, 23, 30)).astype(np.float32)
    volume = Volume(array, Grid(array.shape, np.diag([*spacing_xyz, 1.0])), "ct")
    image, grid = to_canonical(volume, "ct", pipeline=pipeline)
    expected = published.resampled(array, spacing_xyz[::-1])
    assert image.shape == expected.shape
    np.testing.assert_allclose(grid.corners().min(0), volume.grid.corners().min(0), atol=1e-9)
    slab = (expected == 0) & (image != expected)
    np.testing.assert_allclose(image[~slab], expected[~slab], atol=0.02)
    if pipeline == "published":
        assert not slab.any()
    else:
        assert np.all(image[slab] == -1024), "the documented fix: air instead of water beyond the scan"


def test_intensities_are_scaled_as_published() -> None:
    rng = np.random.default_rng(0)
    hu = rng.uniform(-3000, 4000, (5, 6, 7)).astype(np.float32)
    np.testing.assert_allclose(scale_intensity(hu, "ct", INTENSITY), published.scaled_ct(hu), atol=1e-4)
    whole = replace(INTENSITY, mr_whole=True)
    for largest in (0.8, 3.9, 700.0):
        mr = rng.gamma(2, largest / 8, (9, 10, 11)).astype(np.float32)
        np.testing.assert_allclose(scale_intensity(mr, "mr", whole), published.scaled_mr(mr), atol=1e-3)
        assert mr_limits(mr, INTENSITY) == pytest.approx(np.percentile(mr, (0.2, 99.8)).tolist()), "the documented fix: no rounding"


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_a_scan_gets_the_published_embedding_end_to_end(networks: dict[bool, ResNetEmbedder], modality: str) -> None:
    """Native scan in, published chain on one side, the package's (tiled, float16 storage) on the other."""
    array = np.random.default_rng(3).normal(60, 50, (13, 52, 61)).astype(np.float32)
    volume = Volume(array, Grid(array.shape, np.diag([1.5, 1.3, 4.1, 1.0])), modality, "scan")
    card = replace(CARD, pipeline="published", intensity=replace(INTENSITY, mr_whole=True))
    embedding = embed_volume(volume, Model(networks[True], card))
    scaled = {"ct": published.scaled_ct, "mr": published.scaled_mr}[modality](published.resampled(array, (4.1, 1.3, 1.5)))
    with torch.inference_mode():
        expected = published.embed(networks[True].state_dict(), torch.from_numpy(scaled.astype(np.float32))[None, None])
    for name, value in maps_of(embedding).items():
        assert value.shape == expected[name].shape
        assert F.cosine_similarity(value, expected[name], dim=1).min() > 1 - 1e-5


# --- matching -------------------------------------------------------------------------------------------------------------------------


def maps_of(embedding: Embedding) -> dict[str, torch.Tensor]:
    """The stored maps as the published code holds them, ``(1, C, Z, Y, X)`` by name."""
    fine = torch.from_numpy(embedding.fine.astype(np.float32)).permute(3, 0, 1, 2)[None]
    names = ("fine", "semantic")[: embedding.heads - 1]
    maps = dict(zip(names, fine.chunk(len(names), dim=1), strict=True))
    return {**maps, "coarse": torch.from_numpy(embedding.coarse.astype(np.float32)).permute(3, 0, 1, 2)[None]}


@pytest.fixture(scope="module")
def scans(networks: dict[bool, ResNetEmbedder]) -> tuple[Searchable, Searchable]:
    """Noise and the same with more noise, seen by the network; sizes are multiples of the strides, so nothing is stretched."""
    first = tissue_volume((12, 48, 64))
    noisy = first.array + np.random.default_rng(9).normal(0, 10, first.array.shape).astype(np.float32)
    first, second = (Searchable(embed_volume(replace(first, array=a), Model(networks[True], CARD))) for a in (first.array, noisy))
    return first, second


def test_exact_matching_is_the_published_nearest_neighbour(scans: tuple[Searchable, Searchable]) -> None:
    template, target = scans
    cells = np.random.default_rng(1).integers(0, template.shape, (40, 3))
    peaks = find_peaks(template.query(template.embedding.fine_grid.index_to_world(cells)), target, exhaustive=True)
    ours, theirs = maps_of(template.embedding), maps_of(target.embedding)
    for cell, found, score in zip(cells, peaks.cell, peaks.similarity, strict=True):
        expected = published.similarity(ours, theirs, cell[::-1])
        np.testing.assert_array_equal(found, published.first_maximum(expected)[::-1])
        assert score == pytest.approx(float(expected.max()), abs=5e-4), "rows are stored in half precision"


def test_unit_length_between_coarse_cells_matters(scans: tuple[Searchable, Searchable]) -> None:
    """Without it the scores are visibly other ones, so the test above would fail."""
    template = scans[0]
    standard = Searchable(replace(template.embedding, pipeline="standard"))
    query = template.query(template.embedding.grid.corners().mean(0)[None])
    assert (template.full_scores(query) - standard.full_scores(query)).abs().max() > 0.02
    cells = torch.tensor([[[3, 11, 17], [0, 0, 0], [5, 23, 31]]])
    at = template.scores_at(query, template.coarse_scores(query), cells)
    torch.testing.assert_close(at[0], template.full_scores(query)[0][tuple(cells[0].T)], rtol=0, atol=1e-5)


# Scanner voxels (x, y, z) of the template and the target, and the number of canonical 2 mm voxels (z, y, x) that they fill, none a multiple of 8.
SPACINGS = ((1.3, 0.8, 5.0), (0.9, 1.7, 2.6))
CELLS = (13, 17, 19)


def in_scanner_voxels(to_template: Callable[[Points], Points], spacing: tuple[float, ...], seed: int = 0) -> Searchable:
    """A synthetic scan with three heads that takes itself for one embedded in the published way."""
    made = synthetic(to_template, cells=CELLS, heads=3, channels=16, seed=seed, origin=(-30.0, -20.0, 10.0))
    size = np.floor(2 * np.array(CELLS[::-1]) * 2 / np.array(spacing)).astype(int)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = made.embedding.grid.corners().min(0) + np.array(spacing) / 2
    return Searchable(replace(made.embedding, pipeline="published", native=Grid(tuple(size[::-1]), affine)))


def bent(points: Points) -> Points:
    return points * 1.05 + 1.5 * np.sin(points[:, [1, 2, 0]] / 20) + [2.0, -1.0, -1.5]


@pytest.fixture(scope="module")
def compat() -> tuple[Searchable, Searchable]:
    return in_scanner_voxels(lambda p: p, SPACINGS[0]), in_scanner_voxels(bent, SPACINGS[1])


def native(scan: Searchable) -> Grid:
    assert scan.embedding.native is not None
    return scan.embedding.native


def inner_voxels(scan: Searchable, count: int, seed: int) -> np.ndarray:
    """Whole scanner voxels (N, 3) x, y, z in the middle of a scan."""
    size = np.array(native(scan).shape_zyx[::-1])
    return np.random.default_rng(seed).integers(0.3 * size, 0.7 * size, (count, 3))


@pytest.mark.parametrize("method", ["nn", "fixed-point"])
def test_compat_matching_is_the_published_one_voxel_by_voxel(compat: tuple[Searchable, Searchable], method: str) -> None:
    template, target = compat
    voxels = inner_voxels(template, 12 if method == "nn" else 4, 2)
    points = native(template).index_to_world(voxels[:, ::-1])
    found = match_points([(template, points)], target, MatchOptions(method=method, compat=True))
    ratios = tuple(np.array(s) / 2 for s in SPACINGS)
    maps, shape = (maps_of(template.embedding), maps_of(target.embedding)), native(target).shape_zyx
    for voxel, match in zip(voxels, found, strict=True):
        if method == "nn":
            expected, score = published.nearest_voxel(*maps, voxel, ratios[0], shape)
        else:
            expected, score = published.fixed_point(*maps, voxel, ratios, shape)
        np.testing.assert_allclose(native(target).world_to_index(match.point_lps)[0, ::-1], expected, atol=1e-6)
        assert match.similarity == pytest.approx(score, abs=1e-5) and match.note == ""


def test_published_truncation_is_biased_and_ours_is_not() -> None:
    """Whole-voxel arithmetic pulls towards the first voxel on every axis; the floating-point method has no such pull."""
    template, target = in_scanner_voxels(lambda p: p, SPACINGS[0]), in_scanner_voxels(bent, SPACINGS[1])
    ours = [Searchable(replace(s.embedding, pipeline="released")) for s in (template, target)]
    truth = native(target).index_to_world(inner_voxels(target, 12, 5)[:, ::-1])
    points = bent(truth)
    fixed = MatchOptions(method="fixed-point", exact=True)
    errors = {}
    for name, pair, options in (("published", (template, target), replace(fixed, compat=True)), ("ours", ours, fixed)):
        found = match_points([(pair[0], points)], pair[1], options)
        assert all(m.note == "" for m in found)
        errors[name] = np.array([m.point_lps for m in found]) - truth
    bias = {name: e.mean(axis=0) / SPACINGS[1] for name, e in errors.items()}
    assert (bias["published"] < 0).all() and bias["published"].mean() < -0.5, bias
    assert np.abs(bias["ours"]).max() < 0.15, bias
    assert np.linalg.norm(errors["ours"], axis=1).mean() < 0.6 * np.linalg.norm(errors["published"], axis=1).mean()
