"""Parity with the published SAM / UAE inference, which Testing/parity/published.py states a second time without using the package."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import randomised, tissue_volume
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
import published

from UniversalAnatomicalEmbeddingLib.catalogue import Model, ModelCard
from UniversalAnatomicalEmbeddingLib.embedding import Embedding, embed_volume
from UniversalAnatomicalEmbeddingLib.geometry import Grid
from UniversalAnatomicalEmbeddingLib.matching import match_points
from UniversalAnatomicalEmbeddingLib.matching.nearest import find_peaks
from UniversalAnatomicalEmbeddingLib.matching.similarity import Searchable
from UniversalAnatomicalEmbeddingLib.networks.fold import fold_batch_norm
from UniversalAnatomicalEmbeddingLib.networks.resnet_embedder import ResNetEmbedder
from UniversalAnatomicalEmbeddingLib.options import MatchOptions
from UniversalAnatomicalEmbeddingLib.preprocess import Intensity, Pipeline, mr_limits, scale_intensity, to_canonical
from UniversalAnatomicalEmbeddingLib.volume import Volume

INTENSITY = Intensity(((-1024, -50), (3071, 205)), (0.2, 99.8), (-50, 205), mr_foreground=False)
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
def released(networks: dict[bool, ResNetEmbedder]) -> dict[bool, Searchable]:
    """Two scans of noise, the second a part of the first with more noise, embedded with random weights; sizes are multiples of the strides."""
    return {n: Searchable(embed_volume(scan_of_noise(n, (16, 64, 80)), Model(networks[True], CARD))) for n in (0, 1)}


def scan_of_noise(seed: int, shape: tuple[int, int, int]) -> Volume:
    scan = tissue_volume((16, 64, 80), 0, f"scan {seed}")
    noisy = scan.array + seed * np.random.default_rng(9).normal(0, 10, scan.array.shape)
    z, y, x = shape
    array = noisy[:z, :y, :x].astype(np.float32)
    return Volume(array, Grid(array.shape, scan.grid.affine), "ct", scan.name)


@pytest.mark.parametrize("far", [False, True])
def test_exact_matching_is_the_published_nearest_neighbour(released: dict[int, Searchable], far: bool) -> None:
    template, target = released[0], released[1]
    cells = np.random.default_rng(1).integers(0, template.shape, (40, 3))
    query = template.query(template.embedding.fine_grid.index_to_world(cells))
    if far:
        query = type(query)(query.fine.flip(0), query.coarse)  # heads that disagree: no clear winner
        ours = maps_of(template.embedding)
    peaks = find_peaks(query, target, exhaustive=True)
    ours, theirs = maps_of(template.embedding), maps_of(target.embedding)
    for i, cell in enumerate(cells):
        if far:
            fine = published.similarity({**ours, "coarse": ours["coarse"]}, theirs, cells[::-1][i][::-1])
            coarse_there = published.enlarged(theirs["coarse"], theirs["fine"])
            own = published.enlarged(ours["coarse"], ours["fine"])
            there, here = (own[0, :, c[0], c[1], c[2]] for c in (cells[::-1][i], cell))
            scores = fine + torch.einsum("c,czyx->zyx", here - there, coarse_there[0]) / 3
        else:
            scores = published.similarity(ours, theirs, cell[::-1])
        at = scores[tuple(peaks.cell[i])]
        assert at >= scores.max() - 2e-6
        assert peaks.similarity[i] == pytest.approx(float(scores.max()), abs=5e-4)
    if not far:
        assert (peaks.cell == cells).mean() > 0.9


def test_unit_length_between_coarse_cells_matters(released: dict[int, Searchable]) -> None:
    """Without it the scores are visibly other ones, so the test above would fail."""
    template = released[0]
    standard = Searchable(replace(template.embedding, pipeline="standard"))
    query = template.query(template.embedding.grid.corners().mean(0)[None])
    difference = (template.full_scores(query) - standard.full_scores(query)).abs()
    assert difference.max() > 0.02


NATIVE = (1.6, 1.25, 5.0)


@pytest.fixture(scope="module")
def compat(networks: dict[bool, ResNetEmbedder]) -> tuple[Searchable, Searchable, np.ndarray]:
    """Two scans with odd grids and unequal voxels embedded in the published way: noise, and the same moved by whole voxels."""
    card = replace(CARD, pipeline="published")
    noise = np.random.default_rng(4).normal(50, 60, (20, 80, 90)).astype(np.float32)
    shift = np.array([5, 8, 2])
    scans = []
    for n, (spacing, low) in enumerate(((NATIVE, (0, 0, 0)), (NATIVE, shift))):
        array = noise[low[2] : low[2] + 17, low[1] : low[1] + 67, low[0] : low[0] + 59]
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = [-30, 12, 200 + 50 * n]
        scans.append(Searchable(embed_volume(Volume(array, Grid(array.shape, affine), "ct", f"scan {n}"), Model(networks[True], card))))
    return scans[0], scans[1], shift


def test_compat_nearest_neighbour_is_the_published_one_voxel_by_voxel(compat: tuple[Searchable, Searchable, np.ndarray]) -> None:
    template, target, _ = compat
    native = [s.embedding.native for s in (template, target)]
    voxels = np.random.default_rng(2).integers(8, (50, 58, 14), (12, 3))
    found = match_points([(template, native[0].index_to_world(voxels[:, ::-1]))], target, MatchOptions(compat=True))
    ratio = np.array(NATIVE) / 2
    for voxel, match in zip(voxels, found, strict=True):
        shape = native[1].shape_zyx
        expected, score = published.nearest_voxel(maps_of(template.embedding), maps_of(target.embedding), voxel, ratio, shape)
        np.testing.assert_allclose(native[1].world_to_index(match.point_lps)[0, ::-1], expected, atol=1e-6)
        assert match.similarity == pytest.approx(score, abs=1e-5)


def test_compat_fixed_points_are_the_published_ones_voxel_by_voxel(compat: tuple[Searchable, Searchable, np.ndarray]) -> None:
    template, target, shift = compat
    native = [s.embedding.native for s in (template, target)]
    voxels = np.array([[30, 36, 8], [25, 30, 9], [40, 41, 7], [22, 50, 10]])
    options = MatchOptions(method="fixed-point", compat=True)
    found = match_points([(template, native[0].index_to_world(voxels[:, ::-1]))], target, options)
    ratios = (np.array(NATIVE) / 2,) * 2
    compared = 0
    for voxel, match in zip(voxels, found, strict=True):
        if match.note:
            continue
        maps = maps_of(template.embedding), maps_of(target.embedding)
        expected, score = published.fixed_point(*maps, voxel, ratios, native[1].shape_zyx)
        np.testing.assert_allclose(native[1].world_to_index(match.point_lps)[0, ::-1], expected, atol=1e-6)
        assert match.similarity == pytest.approx(score, abs=1e-5)
        assert np.abs(expected - (voxel - shift)).max() <= 4
        compared += 1
    assert compared >= 2
