"""The session: scans it takes and refuses, work it does only once, and points that come back to where they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from samples import probe_model, tiny_model, tissue, tissue_volume
from scipy import ndimage

from UniversalAnatomicalEmbeddingLib import session as module
from UniversalAnatomicalEmbeddingLib.embedding.cache import Cache, cache_key
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.preprocess import PREPROCESS_VERSION
from UniversalAnatomicalEmbeddingLib.images.volume import Modality, Volume
from UniversalAnatomicalEmbeddingLib.matching.confidence import FEATURES
from UniversalAnatomicalEmbeddingLib.models.model import Model
from UniversalAnatomicalEmbeddingLib.options import MatchOptions
from UniversalAnatomicalEmbeddingLib.session import Session, choose_device
from UniversalAnatomicalEmbeddingLib.system.errors import InputError
from UniversalAnatomicalEmbeddingLib.system.progress import Cancelled


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[Volume]:
    """The scans that were really embedded, in order."""
    volumes: list[Volume] = []
    real = module.embed_volume
    monkeypatch.setattr(module, "embed_volume", lambda volume, *rest: volumes.append(volume) or real(volume, *rest))
    return volumes


def unknown(volume: Volume) -> Volume:
    return Volume(volume.array, volume.grid, None, volume.name)


def looks_like_mr() -> Volume:
    grid = tissue_volume((16, 16, 16)).grid
    return Volume(np.abs(np.random.default_rng(0).normal(900, 400, (16, 16, 16))).astype(np.float32), grid, None, "head")


def looks_like_ct() -> Volume:
    array = tissue((16, 16, 16))
    array[:4] = -1000
    return Volume(array, looks_like_mr().grid, None, "chest")


# --- embedding ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("volume", "expected"), [(looks_like_ct(), "ct"), (looks_like_mr(), "mr")], ids=["ct", "mr"])
def test_unknown_modality_is_guessed(embedded: list[Volume], volume: Volume, expected: Modality) -> None:
    scan = Session(tiny_model(), "cpu").embed(volume)
    assert [v.modality for v in embedded] == [expected]
    assert scan.embedding.name == volume.name and volume.modality is None


def test_known_modality_is_kept(embedded: list[Volume]) -> None:
    scan = looks_like_ct()
    Session(tiny_model(), "cpu").embed(Volume(scan.array, scan.grid, "mr"))
    assert [v.modality for v in embedded] == ["mr"]


@pytest.mark.parametrize(
    ("modality", "volume", "words"),
    [
        (("ct",), Volume(tissue((8, 8, 8)), Grid((8, 8, 8), np.eye(4)), "mr", "knee"), "knee is MR, but model tiny is for CT"),
        (("ct",), looks_like_mr(), "head is MR, but model tiny is for CT"),
        (("ct", "mr"), Volume(tissue((8, 8, 8)), Grid((8, 8, 8), np.eye(4)), "xray", "hand"), "hand is XRAY, but model tiny is for CT, MR"),
        (("ct",), Volume(tissue((1, 8, 9)), Grid((1, 8, 9), np.eye(4)), "ct", "slice"), "slice has 9 x 8 x 1 voxels"),
    ],
    ids=["stated", "guessed", "projection", "one slice"],
)
def test_scan_that_the_model_cannot_take_is_refused(embedded: list[Volume], modality: tuple[str, ...], volume: Volume, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Session(tiny_model(modality), "cpu").embed(volume)
    assert embedded == []


def test_progress_ends_with_ready() -> None:
    calls: list[tuple[float, str]] = []
    Session(tiny_model(), "cpu").embed(tissue_volume((16, 16, 16)), lambda *call: calls.append(call))
    assert calls[0][0] == 0 and calls[-1] == (1.0, "ready")


def test_embedding_can_be_cancelled(tmp_path: Path) -> None:
    cancel = Event()
    cancel.set()
    with pytest.raises(Cancelled):
        Session(tiny_model(), "cpu", Cache(tmp_path)).embed(tissue_volume(), cancel=cancel)
    assert list(tmp_path.iterdir()) == []


def test_model_that_was_handed_in_stays_as_it_is() -> None:
    model = tiny_model()
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    session = Session(model, "cpu")
    session.embed(tissue_volume((16, 16, 16)))
    assert not any(isinstance(m, torch.nn.BatchNorm3d) for m in session.model.network.modules()), "folded where it is used"
    assert model.network.state_dict().keys() == before.keys() and session.model.card is model.card
    for key, value in model.network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


# --- cache ----------------------------------------------------------------------------------------------------------------------------


def test_second_embedding_comes_from_the_cache(tmp_path: Path, embedded: list[Volume]) -> None:
    volume = tissue_volume((16, 16, 32))
    first = Session(tiny_model(), "cpu", Cache(tmp_path)).embed(volume).embedding
    again = Session(tiny_model(), "cpu", Cache(tmp_path)).embed(tissue_volume((16, 16, 32), name="copy")).embedding
    assert len(embedded) == 1 and again.name == "copy"
    np.testing.assert_array_equal(again.fine, first.fine)
    np.testing.assert_array_equal(again.coarse, first.coarse)
    np.testing.assert_array_equal(again.search_space, first.search_space)
    np.testing.assert_array_equal(again.anatomy, first.anatomy)
    assert again.grid == first.grid


def test_guessed_and_stated_modality_share_an_entry(tmp_path: Path, embedded: list[Volume]) -> None:
    session, scan = Session(tiny_model(), "cpu", Cache(tmp_path)), looks_like_ct()
    session.embed(scan)
    session.embed(Volume(scan.array, scan.grid, "ct", "chest"))
    assert len(embedded) == 1


def test_another_scan_or_modality_is_embedded_anew(tmp_path: Path, embedded: list[Volume]) -> None:
    session, scan = Session(tiny_model(), "cpu", Cache(tmp_path)), tissue_volume((16, 16, 16))
    for volume in (scan, tissue_volume((16, 16, 16), seed=1), Volume(scan.array, scan.grid, "mr")):
        session.embed(volume)
    assert len(embedded) == 3 and len(Cache(tmp_path).entries()) == 3


def test_other_weights_under_the_same_card_are_not_taken_from_the_cache(tmp_path: Path, embedded: list[Volume]) -> None:
    volume = tissue_volume((16, 16, 16))
    first, second = (Session(tiny_model(seed=s), "cpu", Cache(tmp_path)).embed(volume).embedding for s in (0, 1))
    assert len(embedded) == 2 and not np.array_equal(first.fine, second.fine)


def test_entry_of_an_older_preprocessing_is_made_anew(tmp_path: Path, embedded: list[Volume], monkeypatch: pytest.MonkeyPatch) -> None:
    session, volume = Session(tiny_model(), "cpu", Cache(tmp_path)), tissue_volume((16, 16, 16))
    with monkeypatch.context() as patch:
        patch.setattr("UniversalAnatomicalEmbeddingLib.embedding.cache.PREPROCESS_VERSION", PREPROCESS_VERSION - 1)
        session.embed(volume)
    session.embed(volume)
    assert len(embedded) == 2
    session.embed(volume)
    assert len(embedded) == 2


def test_damaged_entry_is_made_anew(tmp_path: Path, embedded: list[Volume]) -> None:
    session, volume = Session(tiny_model(), "cpu", Cache(tmp_path)), tissue_volume((16, 16, 16))
    first = session.embed(volume).embedding
    (tmp_path / cache_key(volume, session.model.card, session.fingerprint) / "coarse.npy").unlink()
    np.testing.assert_array_equal(session.embed(volume).embedding.fine, first.fine)
    assert len(embedded) == 2


def test_without_a_cache_every_scan_is_embedded(embedded: list[Volume]) -> None:
    session = Session(tiny_model(), "cpu")
    session.embed(tissue_volume((16, 16, 16)))
    session.embed(tissue_volume((16, 16, 16)))
    assert len(embedded) == 2


def test_voxels_that_are_no_numbers_do_not_spoil_the_rest(embedded: list[Volume]) -> None:
    volume = tissue_volume((16, 16, 16))
    volume.array[8, 8, 8] = np.nan
    scan = Session(tiny_model(), "cpu").embed(volume).embedding
    assert np.isfinite(scan.fine).all() and np.isfinite(scan.coarse).all()
    assert embedded[0].array[8, 8, 8] == np.nanmin(volume.array)
    with pytest.raises(InputError, match="no finite voxel"):
        Session(tiny_model(), "cpu").embed(Volume(np.full((16, 16, 16), np.inf), volume.grid, "ct"))


# --- devices --------------------------------------------------------------------------------------------------------------------------


def pretend(monkeypatch: pytest.MonkeyPatch, cuda: int = 0, mps: bool = False) -> None:
    """A machine with so many CUDA devices, and Apple's or not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(("cuda", "mps", "expected"), [(0, False, "cpu"), (1, False, "cuda"), (0, True, "mps"), (2, True, "cuda")])
def test_automatic_device_is_the_best_there_is(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, expected: str) -> None:
    pretend(monkeypatch, cuda, mps)
    assert choose_device("auto") == expected


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1", "mps"])
def test_device_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch, cuda=2, mps=True)
    assert choose_device(name) == name


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "gpu", "", "CUDA", "auto:1"])
def test_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch)
    with pytest.raises(InputError, match=f"'{name}' is not available here; use auto or cpu"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:2", "cuda:-1", "cuda:first", "cuda:", "cpu:first"])
def test_device_number_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch, cuda=2)
    with pytest.raises(InputError, match=f"'{name}' is not available here; use auto or cpu, cuda"):
        choose_device(name)


def test_search_runs_on_the_cpu_where_the_device_lacks_what_it_needs(tmp_path: Path) -> None:
    session, volume = Session(tiny_model(), "cpu", Cache(tmp_path)), tissue_volume((16, 16, 16))
    session.embed(volume)
    session.device = "mps"
    assert session.embed(volume).device == torch.device("cpu")


# --- matching -------------------------------------------------------------------------------------------------------------------------


def blobs() -> Volume:
    """A scan with structures of a few millimetres everywhere."""
    array = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(48, 48, 48)), 1.5)
    return Volume((50 + 40 * array / array.std()).clip(-100, 200).astype(np.float32), tissue_volume((48, 48, 48)).grid, "ct", "scan")


def test_points_are_found_again_in_the_same_scan() -> None:
    session, volume = Session(tiny_model(), "cpu"), blobs()
    scan = session.embed(volume)
    points = volume.grid.index_to_world(np.random.default_rng(1).uniform(12, 35, (4, 3)))
    matches = session.match(scan, points, scan, MatchOptions("fixed-point", anchor_reach=1))
    assert [m.note for m in matches] == [""] * 4
    assert max(np.linalg.norm(m.point_lps - p) for m, p in zip(matches, points, strict=True)) < 1


def test_points_are_found_again_after_the_scan_was_moved() -> None:
    session, volume, by = Session(tiny_model(), "cpu"), blobs(), np.array([33.3, -4.5, 170.1])
    affine = volume.grid.affine.copy()
    affine[:3, 3] += by
    here, there = session.embed(volume), session.embed(Volume(volume.array, Grid(volume.array.shape, affine), "ct", "moved"))
    points = volume.grid.index_to_world(np.random.default_rng(1).uniform(12, 35, (2, 3)))
    for match, point in zip(session.match(here, points, there, MatchOptions("fixed-point", anchor_reach=1)), points, strict=True):
        assert np.linalg.norm(match.point_lps - by - point) < 1


def test_matches_come_in_the_order_of_the_points() -> None:
    session = Session(tiny_model(), "cpu")
    scan = session.embed(blobs())
    points = scan.embedding.fine_grid.index_to_world(np.random.default_rng(2).integers(5, 18, (6, 3)))
    forwards, backwards = session.match(scan, points, scan), session.match(scan, points[::-1], scan)
    for a, b in zip(forwards, backwards[::-1], strict=True):
        np.testing.assert_allclose(a.point_lps, b.point_lps, atol=1e-3)
    assert len({tuple(m.point_lps.round(1)) for m in forwards}) > 3


def test_several_exemplars_that_agree_find_the_same_point_as_one() -> None:
    session = Session(tiny_model(), "cpu")
    scan = session.embed(blobs())
    points = scan.embedding.fine_grid.index_to_world([(8, 9, 10), (14, 12, 6)])
    one, two = session.match(scan, points, scan), session.match_exemplars([(scan, points), (scan, points)], scan)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a.point_lps, b.point_lps, atol=1e-3)


def test_no_points_give_no_matches() -> None:
    session = Session(tiny_model(), "cpu")
    scan = session.embed(tissue_volume((16, 16, 16)))
    assert session.match(scan, np.empty((0, 3)), scan) == []


def test_calibration_of_the_model_gives_the_confidence() -> None:
    plain, values = tiny_model(), {"correct": [0.0] * len(FEATURES) + [1.0], "present": [0.0] * len(FEATURES) + [5.0], "absent_below": 0.5}
    calibrated = Model(plain.network, replace(plain.card, calibration=values))
    for session, expected in ((Session(plain, "cpu"), np.nan), (Session(calibrated, "cpu"), 1 / (1 + np.exp(-1)) / (1 + np.exp(-5)))):
        scan = session.embed(blobs())
        match = session.match(scan, scan.embedding.fine_grid.index_to_world([(8, 9, 10)]), scan)[0]
        np.testing.assert_allclose(match.confidence, expected)


def test_scans_of_different_models_are_not_matched() -> None:
    a, b = (Session(m, "cpu").embed(tissue_volume((16, 16, 16))) for m in (tiny_model(), probe_model()))
    with pytest.raises(InputError, match=r"tiny.*probe.*Use one model"):
        Session(tiny_model(), "cpu").match(a, [[0, 40, 420]], b)


def test_unknown_matching_method_is_refused() -> None:
    with pytest.raises(InputError, match="'magic'; use nn or fixed-point"):
        MatchOptions("magic")  # type: ignore[arg-type]
