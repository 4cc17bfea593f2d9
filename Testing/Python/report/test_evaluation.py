"""Measuring matching: what is asked, what counts as a hit, and every query in the denominator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from searchables import synthetic

from UniversalAnatomicalEmbeddingLib.images.volume import Volume, from_array, write_volume
from UniversalAnatomicalEmbeddingLib.landmarks.points import Point, PointList, write_points
from UniversalAnatomicalEmbeddingLib.matching import Match, Searchable, match_points
from UniversalAnatomicalEmbeddingLib.report.evaluation import (
    IDENTITY_POINTS,
    Evaluation,
    Outcome,
    Pair,
    evaluate,
    read_pairs,
    shared_body_points,
    summarise,
)
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

ZERO = np.zeros(3)


def answer(point: list[float], status: str = "found") -> Match:
    figures = {"similarity": 0.9, "coarse": 0.9, "margin": 0.1, "cycle_mm": 1.0, "spread_mm": 2.0}
    figures |= {"beyond_mm": 0.0, "support": 0.5, "inside_mm": 30.0, "confidence": 0.8}
    return Match(point_lps=np.array(point), **figures, status=status)


def outcome(error_mm: float | None, status: str = "found", label: str = "carina") -> Outcome:
    """A query answered ``error_mm`` beside the truth; None: the landmark is absent."""
    match = answer([0.0, 3.0, 4.0], status)
    truth = None if error_mm is None else match.point_lps + [error_mm, 0.0, 0.0]
    return Outcome("a", "b", label, ZERO, match, truth)


def figures(*outcomes: Outcome) -> dict:
    return summarise(Evaluation(outcomes, 12.5, 0.25, 2))


# --- figures --------------------------------------------------------------------------------------------------------------------------


def test_distances_by_hand() -> None:
    found = figures(*[outcome(e) for e in (1.0, 2.0, 3.0, 6.0, 38.0)])
    assert found["n"] == 5
    assert found["mean_mm"] == pytest.approx(10.0)
    assert found["sd_mm"] == pytest.approx(np.sqrt((81 + 64 + 49 + 16 + 784) / 5))
    assert found["median_mm"] == pytest.approx(3.0)
    assert found["p95_mm"] == pytest.approx(6 + 0.8 * 32)
    assert found["cpm10"] == pytest.approx(4 / 5)
    assert (found["seconds_embed"], found["seconds_match"], found["scans"]) == (12.5, 0.25, 2)


def test_ten_millimetres_is_still_a_hit() -> None:
    assert figures(outcome(10.0), outcome(10.001))["cpm10"] == 0.5


def test_a_present_landmark_called_absent_is_a_miss_but_its_distance_counts() -> None:
    found = figures(outcome(2.0), outcome(4.0, "absent"), outcome(3.0, "uncertain"), outcome(50.0))
    assert found["n"] == 4
    assert found["cpm10"] == pytest.approx(2 / 4)
    assert found["mean_mm"] == pytest.approx(59 / 4)


def test_absence_is_counted_apart_from_the_distances() -> None:
    present = [outcome(1.0), outcome(1.0, "absent"), outcome(1.0, "uncertain"), outcome(99.0)]
    absent = [outcome(None, "absent"), outcome(None, "absent"), outcome(None, "uncertain")]
    found = figures(*present, *absent)
    assert (found["n"], found["n_absent"]) == (4, 3)
    assert found["absent_sensitivity"] == pytest.approx(2 / 3)
    assert found["absent_specificity"] == pytest.approx(3 / 4)
    assert found["mean_mm"] == pytest.approx(102 / 4)


def test_what_was_not_asked_has_no_figure() -> None:
    only_absent, only_present = figures(outcome(None, "absent")), figures(outcome(1.0))
    assert only_absent["n"] == 0
    assert all(only_absent[key] is None for key in ("mean_mm", "sd_mm", "median_mm", "p95_mm", "cpm10", "absent_specificity"))
    assert only_absent["absent_sensitivity"] == 1.0
    assert only_present["absent_sensitivity"] is None
    assert json.loads(json.dumps(only_absent)) == only_absent


def test_figures_of_each_landmark() -> None:
    found = figures(outcome(2.0, label="b"), outcome(4.0, label="a"), outcome(20.0, label="b"), outcome(None, "absent", label="c"))
    assert list(found["by_landmark"]) == ["a", "b"]
    assert found["by_landmark"]["a"] == {"n": 1, "mean_mm": 4.0, "sd_mm": 0.0, "median_mm": 4.0, "p95_mm": 4.0, "cpm10": 1.0}
    assert found["by_landmark"]["b"]["n"] == 2
    assert found["by_landmark"]["b"]["cpm10"] == 0.5


def test_error_is_the_distance_in_space_and_unknown_for_an_absent_landmark() -> None:
    assert Outcome("a", "b", "c", ZERO, answer([1.0, 2.0, 2.0]), ZERO).error_mm == pytest.approx(3.0)
    assert outcome(None).error_mm is None


# --- pairs ----------------------------------------------------------------------------------------------------------------------------


def written(folder: Path, content: object) -> Path:
    path = folder / "PAIRS.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_both_forms_of_pairs_are_read_relative_to_the_file(tmp_path: Path) -> None:
    landmarks = {"template": "a.nrrd", "template_landmarks": "sub/a.mrk.json", "target": "b.nrrd"}
    items = [
        {**landmarks, "target_landmarks": "b.mrk.json", "absent": ["apex"]},
        landmarks,
        {"fixed": "ct.nrrd", "moving": "mr.nrrd", "truth": "identity", "mi_shift_mm": 3.0},
    ]
    full, no_target_points, identity = read_pairs(written(tmp_path, items))
    assert full == Pair(
        tmp_path / "a.nrrd", tmp_path / "b.nrrd", tmp_path / "sub/a.mrk.json", tmp_path / "b.mrk.json", ("apex",), "landmarks"
    )
    assert no_target_points.target_landmarks is None
    assert no_target_points.absent == ()
    assert identity == Pair(tmp_path / "ct.nrrd", tmp_path / "mr.nrrd", None, None, (), "identity")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not json", "cannot be read as JSON"),
        ([], "non-empty list of pair objects"),
        ({"template": "a"}, "non-empty list of pair objects"),
        (["a.nrrd"], "non-empty list of pair objects"),
        ([{"template": "a", "target": "b"}], "Pair 1 of .* needs template, template_landmarks and target"),
        ([{"template": ["a"], "target": "b"}], "Pair 1 of .*: template is .*; a path in quotes is needed"),
        (
            [{"template": "a", "target": "b", "template_landmarks": "c", "absent": "apex"}],
            "Pair 1 of .*: absent is apex; a list of landmark names is needed",
        ),
        ([{"fixed": "a", "moving": "b"}], "Pair 1 of .* needs"),
        ([{"fixed": "a", "moving": "b", "truth": "identity"}, {"fixed": "a", "truth": "identity"}], "Pair 2 of .* needs"),
    ],
)
def test_pairs_that_cannot_be_used_say_what_is_missing(tmp_path: Path, content: object, says: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InputError, match=says) as caught:
        read_pairs(path)
    assert str(path) in str(caught.value)


def test_pairs_may_be_written_in_any_language_and_by_windows(tmp_path: Path) -> None:
    path = tmp_path / "PAIRS.json"
    path.write_bytes(b"\xef\xbb\xbf" + '[{"fixed": "Sch\u00e4del.nrrd", "moving": "\u982d.nrrd", "truth": "identity"}]'.encode())
    [pair] = read_pairs(path)
    assert (pair.template.name, pair.target.name) == ("Sch\u00e4del.nrrd", "\u982d.nrrd")


def test_a_missing_pairs_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json"):
        read_pairs(tmp_path / "none.json")


# --- points of scans in one frame -----------------------------------------------------------------------------------------------------


def test_shared_points_lie_in_both_bodies_and_are_the_same_every_time() -> None:
    left, low = np.zeros((2, 20, 24, 28), dtype=bool)
    left[:, :, :18] = True
    low[:12] = True
    template, target = synthetic(body=left), synthetic(body=low, origin=(-50.0, -40.0, -22.0))
    points = shared_body_points(template, target)
    assert points.shape == (IDENTITY_POINTS, 3)
    for scan, body in ((template, left), (target, low)):
        cell = scan.embedding.fine_grid.world_to_index(points)
        assert body[tuple(np.clip(np.rint(cell), 0, np.array(body.shape) - 1).astype(int).T)].all()
        assert scan.embedding.contains(points).all()
    np.testing.assert_array_equal(points, shared_body_points(template, target))
    assert len(np.unique(points, axis=0)) == IDENTITY_POINTS
    assert not np.allclose(template.embedding.fine_grid.world_to_index(points) % 1, 0), "not only the centres of cells"


def test_few_shared_cells_give_few_points_and_none_gives_none() -> None:
    corner, opposite = np.zeros((2, 20, 24, 28), dtype=bool)
    corner[:3, :3, :3] = True
    opposite[-3:, -3:, -3:] = True
    assert len(shared_body_points(synthetic(body=corner), synthetic())) == 27
    assert shared_body_points(synthetic(body=corner), synthetic(body=opposite)).shape == (0, 3)


# --- evaluation -----------------------------------------------------------------------------------------------------------------------

MOVES = {"a": np.zeros(3), "b": np.array([8.0, -4.0, 6.0]), "c": np.array([-5.0, 3.0, 2.0])}
LANDMARKS = {"carina": (-10.0, 0.0, 8.0), "apex": (5.0, -12.0, 14.0), "kidney": (-4.0, 10.0, 0.0)}


class FakeSession:
    """Embeds by name, without a network, and counts."""

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def embed(self, volume: Volume) -> Searchable:
        self.embedded.append(volume.name)
        return synthetic(lambda p: p - MOVES[volume.name], name=volume.name)

    def match(self, template, points, target, options=None):
        return match_points([(template, points)], target, options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, move in MOVES.items():
        write_volume(from_array(np.zeros((4, 4, 4), np.int16), np.eye(4), name=name), tmp_path / f"{name}.nrrd")
        points = {label: np.add(position, move) for label, position in LANDMARKS.items()}
        if name == "b":
            del points["kidney"]
        write_points(PointList(tuple(Point(label, tuple(p)) for label, p in points.items())), tmp_path / f"{name}.csv")
    return tmp_path


def landmark_pair(folder: Path, template: str, target: str, absent: tuple[str, ...] = ()) -> Pair:
    files = (folder / f"{template}.nrrd", folder / f"{target}.nrrd", folder / f"{template}.csv", folder / f"{target}.csv")
    return Pair(*files, absent, "landmarks")


def test_each_scan_is_read_and_embedded_once(folder: Path) -> None:
    session, kept = FakeSession(), {}
    pairs = [landmark_pair(folder, a, b) for a in "abc" for b in "abc" if a != b]
    result = evaluate(pairs, session, keep=lambda found: kept.__setitem__(found.volume.name, found.volume))
    assert sorted(session.embedded) == ["a", "b", "c"]
    assert sorted(kept) == ["a", "b", "c"]
    assert result.scans == 3
    assert result.seconds_embed > 0
    assert result.seconds_match > 0


def test_landmarks_are_paired_by_name_and_their_errors_measured(folder: Path) -> None:
    result = evaluate([landmark_pair(folder, "a", "b"), landmark_pair(folder, "a", "c")], FakeSession())
    assert [(o.template, o.target, o.label) for o in result.outcomes] == [
        ("a", "b", "carina"),
        ("a", "b", "apex"),
        ("a", "c", "carina"),
        ("a", "c", "apex"),
        ("a", "c", "kidney"),
    ]
    for o in result.outcomes:
        np.testing.assert_allclose(o.template_point, LANDMARKS[o.label])
        np.testing.assert_allclose(o.truth, np.add(LANDMARKS[o.label], MOVES[o.target]))
        assert o.error_mm < 2.5


def test_a_landmark_is_absent_only_when_the_pair_says_so(folder: Path) -> None:
    result = evaluate([landmark_pair(folder, "a", "b", ("kidney", "carina"))], FakeSession())
    assert {o.label: o.truth is None for o in result.outcomes} == {"carina": False, "apex": False, "kidney": True}


def test_without_target_landmarks_every_landmark_is_absent(folder: Path) -> None:
    pair = Pair(folder / "a.nrrd", folder / "b.nrrd", folder / "a.csv", None, (), "landmarks")
    assert [o.truth for o in evaluate([pair], FakeSession()).outcomes] == [None, None, None]


def test_scans_in_one_frame_are_asked_at_shared_points(folder: Path) -> None:
    [*outcomes] = evaluate([Pair(folder / "a.nrrd", folder / "a.nrrd", None, None, (), "identity")], FakeSession()).outcomes
    assert len(outcomes) == IDENTITY_POINTS
    assert len({o.label for o in outcomes}) == IDENTITY_POINTS
    assert all(np.array_equal(o.truth, o.template_point) for o in outcomes)
    assert np.median([o.error_mm for o in outcomes]) < 1.5


def test_scans_of_the_same_file_name_are_told_apart(folder: Path) -> None:
    kept: dict[str, Volume] = {}
    (folder / "other").mkdir()
    write_volume(from_array(np.ones((4, 4, 4), np.int16), np.eye(4)), folder / "other" / "A.nrrd")
    pair = replace(landmark_pair(folder, "a", "a"), target=folder / "other" / "A.nrrd")
    MOVES["A_2"] = MOVES["a"]
    result = evaluate([pair], FakeSession(), keep=lambda found: kept.__setitem__(found.volume.name, found.volume))
    assert {(o.template, o.target) for o in result.outcomes} == {("a", "A_2")}
    assert {name: volume.array.max() for name, volume in kept.items()} == {"a": 0, "A_2": 1}


def test_progress_ends_at_one(folder: Path) -> None:
    seen: list[float] = []
    evaluate([landmark_pair(folder, "a", "b")], FakeSession(), progress=lambda fraction, text: seen.append(fraction))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
