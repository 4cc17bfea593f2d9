"""Registration as a whole: tilted, cut and foreign scans from embeddings; landmark pairs alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from threading import Event
from typing import Any

import numpy as np
import pytest
from positions import carried, coded_scan, lps_grid, motion
from registration_scene import LANDMARKS, TRUTH, tre
from samples import probe_model, tissue_volume

from UniversalAnatomicalEmbeddingLib.images.volume import Volume
from UniversalAnatomicalEmbeddingLib.matching import Searchable
from UniversalAnatomicalEmbeddingLib.options import RegisterOptions
from UniversalAnatomicalEmbeddingLib.registration import NoCommonAnatomy, Scan, register_scans
from UniversalAnatomicalEmbeddingLib.registration.linear import LinearFit
from UniversalAnatomicalEmbeddingLib.registration.refine import Refined
from UniversalAnatomicalEmbeddingLib.session import Session
from UniversalAnatomicalEmbeddingLib.system.errors import InputError
from UniversalAnatomicalEmbeddingLib.system.progress import Cancelled

KEYPOINTS = 400
FIXED_GRID = lps_grid((-76, -56, -96), (152, 112, 192), 2.0)
PLAIN = Volume(np.zeros((3, 3, 3), np.int16), lps_grid((0, 0, 0), (6, 6, 6)), "mr", "moving")


def upright_only(
    truth: np.ndarray, low: tuple[float, float, float], size: tuple[float, float, float], noise: float = 0.1
) -> tuple[Scan, Callable]:
    """A moving scan, and what embeds it again: like a network it loses what is tilted (descriptors blur with the angle) and sees what is upright."""
    grid = lps_grid(low, size)
    calls: list[Volume] = []

    def embed(volume: Volume) -> Searchable:
        calls.append(volume)
        applied = volume.grid.affine @ np.linalg.inv(grid.affine)
        now = applied @ truth  # fixed space to the frame embedded
        corners = carried(applied, grid.corners())
        seen = lps_grid(tuple(corners.min(0)), tuple(np.ptp(corners, axis=0)))
        tilt = np.rad2deg(np.arccos(np.clip((np.trace(now[:3, :3]) - 1) / 2, -1, 1)))
        return coded_scan(seen, lambda p: carried(np.linalg.inv(now), p), "moving", noise=noise + tilt / 20)

    embed.calls = calls  # type: ignore[attr-defined]
    volume = Volume(np.zeros(grid.shape_zyx, np.int16), grid, "mr", "moving")
    scan = Scan(volume, embed(volume))
    calls.clear()
    return scan, embed


FIXED = Scan(Volume(np.zeros(FIXED_GRID.shape_zyx, np.int16), FIXED_GRID, "ct", "fixed"), coded_scan(FIXED_GRID, lambda p: p, "fixed"))


@pytest.mark.parametrize("stage", ["rigid", "similarity", "affine"])
def test_a_moved_patient_is_found(stage: str) -> None:
    truth = motion((1, -1, 1), (15, 30, -200), scale=1.0 if stage == "rigid" else 1.08)
    moving, embed = upright_only(truth, (-90, -60, -320), (200, 180, 240))
    result = register_scans(FIXED, moving, embed, RegisterOptions(stage=stage, keypoints=KEYPOINTS))
    assert tre(result.transform, truth) < 2
    assert result.inlier.mean() > 0.9
    assert embed.calls == []
    assert result.stage == stage and result.source == "embeddings" and result.folding == 0
    assert 0 < result.expected_tre_mm < 5
    np.testing.assert_allclose(result.residual_mm, np.linalg.norm(result.transform(result.fixed_lps) - result.moving_lps, axis=1))


def test_a_tilted_patient_is_turned_upright_and_matched_again() -> None:
    truth = motion((25, -20, 20), (40, -30, 60))
    moving, embed = upright_only(truth, (-60, -110, -50), (200, 160, 220))
    result = register_scans(FIXED, moving, embed, RegisterOptions(stage="rigid", keypoints=KEYPOINTS))
    assert 1 <= len(embed.calls) <= 4
    assert tre(result.transform, truth) < 3
    np.testing.assert_array_equal(embed.calls[0].array, moving.volume.array)  # only the header turns: no voxel is interpolated


# --- more turns than one: cells of 8 mm are enough for these ---

COARSE_GRID = lps_grid((-76, -56, -96), (152, 112, 192), 4.0)
COARSE = Scan(
    Volume(np.zeros(COARSE_GRID.shape_zyx, np.int16), COARSE_GRID, "ct", "fixed"),
    coded_scan(COARSE_GRID, lambda p: p, "fixed"),
)
TILTED, CLAIMED = motion((10, 0, 50), (40, -30, 60)), motion((60, 0, 0), (30, -20, 40))
AROUND = (-56, -128, -40), (192, 192, 200)


def shown_at(matrix: np.ndarray, low: tuple[float, float, float], size: tuple[float, float, float]) -> Searchable:
    """The body of COARSE carried by a matrix (4, 4), as a scan of this field of view shows it."""
    back = np.linalg.inv(matrix)
    grid = lps_grid(low, size, 4.0)
    return coded_scan(grid, lambda p: p @ back[:3, :3].T + back[:3, 3], "moving")


def lying(searchable: Searchable) -> Scan:
    """A moving scan with this embedding."""
    grid = searchable.embedding.grid
    return Scan(Volume(np.zeros(grid.shape_zyx, np.int16), grid, "mr", "moving"), searchable)


def test_a_second_turn_is_made_on_top_of_the_first() -> None:
    """The first embedding says CLAIMED, those of the turned scans the truth, TILTED."""
    moving = lying(shown_at(CLAIMED, *AROUND))

    def embed(upright: Volume) -> Searchable:
        turned = upright.grid.affine @ np.linalg.inv(moving.volume.grid.affine)
        corners = carried(turned, moving.volume.grid.corners())
        return shown_at(turned @ TILTED, tuple(corners.min(0)), tuple(np.ptp(corners, axis=0)))

    result = register_scans(COARSE, moving, embed, RegisterOptions(stage="rigid", keypoints=200))
    assert tre(result.transform, TILTED) < 3
    assert 0 < result.expected_tre_mm < 5
    truth = carried(TILTED, result.fixed_lps)
    off = np.linalg.norm(result.moving_lps - truth, axis=1)
    assert np.median(off) < 3, "in the scan as it lies"
    assert result.inlier.mean() > 0.9
    assert result.residual_mm == pytest.approx(np.linalg.norm(result.transform(result.fixed_lps) - result.moving_lps, axis=1))


class Recorder:
    """Stands in for the refinement and the dense field, and remembers what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.starts: list[np.ndarray] = []
        monkeypatch.setitem(register_scans.__globals__, "refine_linear", self.refine_linear)
        monkeypatch.setitem(register_scans.__globals__, "dense_field", self.dense_field)

    def refine_linear(self, model: str, starts: list, *rest: Any) -> Refined:
        self.starts, (_, _, self.body), self.believed = starts, rest[:3], rest[-1]
        return Refined(starts[0], 1.5)

    def dense_field(self, fixed: Any, moving: Any, matrix: np.ndarray, *rest: Any) -> tuple:
        self.relative = matrix
        grid = lps_grid((-100, -100, -100), (200, 200, 200), 50.0)
        return np.zeros((*grid.shape_zyx, 3)), grid


def test_later_stages_begin_where_the_turns_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refinement goes to the moving scan as it lies, the dense field as it was turned.

    The turned scan still lies off by 2 degrees, which is no further turn, and a shift.
    """
    rest, recorder = motion((0, 0, 2), (30, -20, 10)), Recorder(monkeypatch)
    moving = lying(shown_at(TILTED, *AROUND))
    upright = shown_at(rest, (-60, -90, -90), (200, 140, 200))
    options = RegisterOptions(stage="deformable", refine=True, keypoints=200)
    result = register_scans(COARSE, moving, lambda volume: upright, options)
    assert tre(lambda points: carried(recorder.starts[0], points), TILTED @ rest) < 3
    assert tre(lambda points: carried(recorder.relative, points), rest) < 3
    np.testing.assert_array_equal(result.transform.matrix, recorder.starts[0])
    assert result.refined_mm == 1.5
    assert recorder.believed(TILTED @ rest) and not recorder.believed(np.eye(4))


def test_only_the_part_of_the_body_that_both_show_is_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth, recorder = motion((0, 0, 0), (200, -30, 40)), Recorder(monkeypatch)
    upper = shown_at(truth, (120, -90, 40), (160, 120, 100))  # from z = 0 mm of the fixed scan on
    options = RegisterOptions(stage="rigid", refine=True, keypoints=200)
    register_scans(COARSE, lying(upper), lambda volume: upper, options)
    assert upper.embedding.contains(carried(truth, recorder.body) + [0, 0, 3]).all()
    assert len(recorder.body) > 300
    assert recorder.body[:, 2].min() > -6


def test_keypoints_of_both_scans_are_counted_where_the_map_places_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A true map that no pair agrees with: nearly all keypoints lie in the other body."""
    truth = motion((0, 0, 0), (200, -30, 40))
    moved = shown_at(truth, (120, -90, -60), (160, 120, 200))
    pairs: list[Any] = []

    def disagreeing(model: str, found: Any, seed: int) -> list[LinearFit]:
        pairs.append(found)
        return [LinearFit(truth, np.ones(len(found)), np.full(len(found), 99.0))]

    monkeypatch.setitem(register_scans.__globals__, "find_linear", disagreeing)
    with pytest.raises(NoCommonAnatomy, match="0 agree with it") as told:
        options = RegisterOptions(stage="rigid", keypoints=200)
        register_scans(COARSE, lying(moved), lambda volume: moved, options)
    placed = int(re.search(r"of (\d+) keypoints", str(told.value))[1])  # type: ignore[index]
    tried = len(pairs[0].fixed_keypoints) + len(pairs[0].moving_keypoints)
    assert 0.8 * tried < placed <= tried


def test_a_scan_of_a_small_part_is_placed() -> None:
    truth = motion((1, 1, -1), (5, -4, 3))
    moving, embed = upright_only(truth, (-70, -50, -30), (140, 100, 60))
    result = register_scans(FIXED, moving, embed, RegisterOptions(stage="rigid", keypoints=KEYPOINTS))
    assert tre(result.transform, truth) < 3


def test_deformable_gives_a_field_on_top() -> None:
    truth = motion((1, 0, 1), (5, -4, 3), scale=1.05)
    moving, embed = upright_only(truth, (-90, -70, -110), (190, 150, 220))
    result = register_scans(FIXED, moving, embed, RegisterOptions(stage="deformable", keypoints=KEYPOINTS, field_mm=16.0))
    assert result.transform.displacement is not None
    assert result.folding < 0.005
    assert tre(result.transform, truth) < 2.5


def test_foreign_anatomy_is_reported() -> None:
    other = coded_scan(FIXED_GRID, lambda p: p, "other", codes=77)
    with pytest.raises(NoCommonAnatomy, match=r"fixed and other .* no common anatomy"):
        register_scans(FIXED, Scan(replace(PLAIN, name="other"), other), lambda volume: other, RegisterOptions(keypoints=KEYPOINTS))


def test_cancelling_stops_it() -> None:
    moving, embed = upright_only(np.eye(4), (-70, -50, -30), (140, 100, 60))
    cancel = Event()
    cancel.set()
    with pytest.raises(Cancelled):
        register_scans(FIXED, moving, embed, RegisterOptions(keypoints=KEYPOINTS), cancel=cancel)


def test_progress_only_goes_up_and_ends_at_one() -> None:
    moving, embed = upright_only(np.eye(4), (-70, -50, -60), (140, 100, 120))
    seen: list[float] = []
    register_scans(
        FIXED,
        moving,
        embed,
        RegisterOptions(stage="deformable", keypoints=KEYPOINTS, field_mm=20.0),
        lambda fraction, text: seen.append(fraction),
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize("wrong", [{"stage": "elastic"}, {"keypoints": 3}, {"field_mm": 0.1}])
def test_wrong_options_are_one_sentence(wrong: dict) -> None:
    with pytest.raises(InputError, match="use "):
        RegisterOptions(**wrong)


# --- session --------------------------------------------------------------------------------------------------------------------------


def test_the_session_embeds_both_scans_unless_landmarks_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    session, embedded = Session(probe_model(), "cpu"), []
    monkeypatch.setattr(session, "embed", lambda volume, *rest: embedded.append(volume.name) or coded_scan(FIXED_GRID, lambda p: p))
    a, b = tissue_volume((16, 16, 16), name="a"), tissue_volume((16, 16, 16), name="b")
    result = session.register(a, b, RegisterOptions(stage="rigid"), landmarks=(LANDMARKS, carried(TRUTH, LANDMARKS)))
    assert embedded == []
    assert tre(result.transform, TRUTH) < 1e-6
    assert isinstance(result.transform.matrix, np.ndarray)
    shifted = session.register(a, b, RegisterOptions(stage="rigid", keypoints=KEYPOINTS))
    assert embedded == ["a", "b"]
    assert tre(shifted.transform, np.eye(4)) < 1
