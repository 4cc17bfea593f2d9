"""Matching of points between embedded scans: positions, verdicts, exemplars, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from searchables import inner_points, synthetic

from UniversalAnatomicalEmbeddingLib.matching import Calibration, match_points
from UniversalAnatomicalEmbeddingLib.matching.confidence import FEATURES
from UniversalAnatomicalEmbeddingLib.matching.guide import LARGEST_RADIUS_MM, expect
from UniversalAnatomicalEmbeddingLib.matching.nearest import find_peaks
from UniversalAnatomicalEmbeddingLib.options import MatchOptions
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

POINTS = inner_points(6, 1, 24.0)
SHIFT = np.array([9.3, -5.1, 7.7])
FIXED = MatchOptions(method="fixed-point", exact=True, anchor_reach=1)


def always(correct: bool, present: bool) -> Calibration:
    """A calibration that answers the same whatever it sees."""
    weights = (0.0,) * len(FEATURES)
    return Calibration((*weights, 9.0 if correct else -9.0), (*weights, 9.0 if present else -9.0), 0.5)


def shifted(name: str = "target", **changes: object):
    """A scan of the same patient moved by SHIFT."""
    return synthetic(lambda p: p - SHIFT, name=name, **changes)


# --- positions ------------------------------------------------------------------------------------------------------------------------


def test_points_are_found_where_the_target_shows_them() -> None:
    matches = match_points([(synthetic(), POINTS)], shifted())
    error = np.stack([m.point_lps for m in matches]) - (POINTS + SHIFT)
    assert np.linalg.norm(error, axis=1).max() < 2.0
    assert all(m.status == "found" and m.cycle_mm < 3.0 and m.note == "" and np.isnan(m.confidence) for m in matches)
    assert all(0.8 < m.similarity <= 1.01 and 0 < m.margin < m.similarity + 1 and m.coarse > 0.8 for m in matches)


@pytest.mark.parametrize("options", [MatchOptions(), MatchOptions(exact=True), FIXED], ids=["nn", "exact", "fixed-point"])
def test_a_scan_matched_to_itself_gives_the_same_points_and_closes_the_cycle(options: MatchOptions) -> None:
    scan = synthetic()
    cells = [[9, 12, 10], [12, 8, 18]]
    points = scan.embedding.fine_grid.index_to_world(cells)
    for point, match in zip(points, match_points([(scan, points)], scan, options), strict=True):
        assert np.linalg.norm(match.point_lps - point) < 1.0
        assert match.cycle_mm < 1.0
        assert match.status == "found"


@pytest.mark.parametrize("exact", [False, True])
def test_descriptors_around_a_point_are_those_at_the_offsets_of_the_target(monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    template, target = synthetic(), shifted()
    asked, query = [], template.query

    def listening(points: np.ndarray, around_mm: np.ndarray | None = None) -> object:
        asked.append((points, around_mm))
        return query(points, around_mm)

    monkeypatch.setattr(template, "query", listening)
    match_points([(template, POINTS)], target, MatchOptions(exact=exact))
    (around,) = [around for points, around in asked if np.array_equal(points, POINTS)]
    if exact:
        assert around is None
    else:
        np.testing.assert_array_equal(around, target.around_mm)


def test_cycle_is_the_distance_by_which_the_way_back_misses_the_start() -> None:
    template, target = synthetic(), shifted()
    matches = match_points([(template, POINTS)], target)
    back = find_peaks(target.query(np.stack([m.point_lps for m in matches])), template).points_lps
    np.testing.assert_allclose([m.cycle_mm for m in matches], np.linalg.norm(back - POINTS, axis=1), atol=1e-3)


def test_no_points_give_no_matches() -> None:
    assert match_points([(synthetic(), np.empty((0, 3)))], shifted()) == []
    assert match_points([(synthetic(), [])], shifted(), FIXED) == []


def test_a_single_point_needs_no_second_axis() -> None:
    [match] = match_points([(synthetic(), POINTS[0])], shifted())
    assert np.linalg.norm(match.point_lps - POINTS[0] - SHIFT) < 2.0


# --- several exemplars ----------------------------------------------------------------------------------------------------------------


def test_exemplars_in_several_scans_are_searched_together() -> None:
    other = synthetic(lambda p: p + [4.0, 2.0, -3.0], name="other")
    exemplars = [(synthetic(), POINTS), (other, POINTS - [4.0, 2.0, -3.0])]
    target = shifted()
    matches = match_points(exemplars, target)
    assert np.linalg.norm(np.stack([m.point_lps for m in matches]) - POINTS - SHIFT, axis=1).max() < 2.0
    found = np.stack([m.point_lps for m in matches])
    cycles = [np.linalg.norm(find_peaks(target.query(found), scan).points_lps - points, axis=1) for scan, points in exemplars]
    np.testing.assert_allclose([m.cycle_mm for m in matches], np.mean(cycles, axis=0), atol=1e-3)


def test_a_misplaced_exemplar_is_outvoted_by_the_others() -> None:
    scan, wrong = synthetic(), POINTS + [12.0, 0.0, 0.0]
    alone = match_points([(scan, wrong)], shifted())
    together = match_points([(scan, wrong), (scan, POINTS), (scan, POINTS)], shifted())
    error = [np.mean([np.linalg.norm(m.point_lps - p - SHIFT) for m, p in zip(ms, POINTS, strict=True)]) for ms in (alone, together)]
    assert error[0] > 10
    assert error[1] < error[0] / 2


# --- fixed points ---------------------------------------------------------------------------------------------------------------------


def test_fixed_points_that_fail_fall_back_to_the_nearest_neighbour_and_are_never_found() -> None:
    foreign = synthetic(seed=9, name="foreign")
    template, hopeless = synthetic(), MatchOptions(method="fixed-point", exact=True, anchor_reach=1, return_mm=0.01)
    nearest = match_points([(template, POINTS[:2])], foreign, MatchOptions(exact=True))
    for plain, match in zip(nearest, match_points([(template, POINTS[:2])], foreign, hopeless, always(True, True)), strict=True):
        np.testing.assert_allclose(match.point_lps, plain.point_lps)
        assert match.note.startswith("nearest neighbour, no fixed points: only ")
        assert match.status == "uncertain"
    [absent] = match_points([(template, POINTS[:1])], foreign, hopeless, always(True, False))
    assert absent.status == "absent"


def test_one_exemplar_with_fixed_points_is_enough() -> None:
    good, foreign = synthetic(), synthetic(seed=9, name="foreign")
    options = MatchOptions(method="fixed-point", exact=True, anchor_reach=1, return_mm=1.5)
    [alone] = match_points([(good, POINTS[:1])], shifted(), options)
    [mixed] = match_points([(foreign, POINTS[:1]), (good, POINTS[:1])], shifted(), options)
    assert alone.note == mixed.note == ""
    np.testing.assert_allclose(mixed.point_lps, alone.point_lps, atol=1e-6)
    assert np.linalg.norm(alone.point_lps - POINTS[0] - SHIFT) < 1.0


# --- an expected place ----------------------------------------------------------------------------------------------------------------


def test_without_common_anchors_the_search_is_free_and_the_spread_infinite() -> None:
    tiny = np.zeros((20, 24, 28), dtype=bool)
    tiny[8:12, 8:12, 8:12] = True
    template, target = synthetic(body=tiny), shifted()
    points = inner_points(2, 4, 36.0)
    assert np.isinf(expect([(template, points)], target).radius).all()
    for match, point in zip(match_points([(template, points)], target), points, strict=True):
        assert match.spread_mm == np.inf
        assert match.beyond_mm == 0
        assert np.linalg.norm(match.point_lps - point - SHIFT) < 2


def test_a_perfect_copy_far_away_does_not_win_over_the_right_place() -> None:
    """The plain rule falls for a copy; the anchors of the rest of the body know better."""
    point = np.array([-22.0, -18.0, 2.0])
    copy = np.array([22.0, 20.0, 26.0])

    def deceiving(points: np.ndarray) -> np.ndarray:
        shown = points.copy()
        shown[np.linalg.norm(points - point, axis=1) < 14] += 300.0  # like nothing in the template
        near_copy = np.linalg.norm(points - copy, axis=1) < 16
        shown[near_copy] += point - copy
        return shown

    template, target = synthetic(), synthetic(deceiving, name="deceiving")
    [plain] = match_points([(template, point)], target, MatchOptions(exact=True))
    [guided] = match_points([(template, point)], target)
    assert np.linalg.norm(plain.point_lps - copy) < 6
    assert np.linalg.norm(guided.point_lps - point) < LARGEST_RADIUS_MM
    assert guided.margin < 0 < plain.margin


# --- verdicts -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calibration", "status"),
    [(always(True, True), "found"), (always(False, True), "uncertain"), (always(True, False), "absent")],
)
def test_the_calibration_decides_the_status(calibration: Calibration, status: str) -> None:
    matches = match_points([(synthetic(), POINTS)], shifted(), None, calibration)
    assert {m.status for m in matches} == {status}
    assert all((m.confidence > 0.99) == (status == "found") for m in matches)
    assert all(np.isfinite(m.point_lps).all() for m in matches), "an absent landmark keeps its best position"


def test_confidence_uses_the_features_of_the_match() -> None:
    weights = np.linspace(1.0, -0.8, len(FEATURES))
    calibration = Calibration((*weights, 0.1), always(True, True).present, 0.1)
    for m in match_points([(synthetic(), POINTS)], shifted(), None, calibration):
        seen = {"log_cycle": np.log1p(m.cycle_mm), "log_spread": np.log1p(m.spread_mm), "log_beyond": np.log1p(m.beyond_mm)}
        seen["log_inside"] = np.log1p(min(m.inside_mm, 60.0))
        logit = 0.1 + sum(w * seen.get(name, getattr(m, name, np.nan)) for w, name in zip(weights, FEATURES, strict=True))
        there = 1 / (1 + np.exp(-always(True, True).present[-1]))
        assert m.confidence == pytest.approx(there / (1 + np.exp(-logit)))


# --- what is refused ------------------------------------------------------------------------------------------------------------------


def test_scans_embedded_with_different_models_are_refused_by_name() -> None:
    other = shifted(name="follow-up", model_id="synthetic-2")
    with pytest.raises(InputError, match=r"^baseline was embedded with model synthetic-1, follow-up with synthetic-2\. Use one model\.$"):
        match_points([(synthetic(name="baseline"), POINTS)], other)


def test_a_point_outside_the_template_is_named_by_number_and_position() -> None:
    points = np.vstack([POINTS[:2], [[0.0, 0.0, 999.94]]])
    with pytest.raises(InputError, match=r"^Point 3 at LPS \(0\.0, 0\.0, 999\.9\) mm lies outside the patient in baseline; "):
        match_points([(synthetic(name="baseline"), points)], shifted())


@pytest.mark.parametrize("points", [np.zeros((3, 2)), np.zeros(6), np.zeros((1, 2, 3)), 4.0])
def test_points_that_are_no_triples_are_refused_rather_than_reordered(points: object) -> None:
    with pytest.raises(InputError, match=r"^Points of shape \(.*\) were given; N points are an array \(N, 3\), LPS mm\.$"):
        match_points([(synthetic(), points)], shifted())


def test_exemplars_must_show_the_same_landmarks() -> None:
    with pytest.raises(InputError, match=r"show \[6, 2\] landmarks; give at least one template"):
        match_points([(synthetic(), POINTS), (synthetic(), POINTS[:2])], shifted())
    with pytest.raises(InputError, match="at least one template"):
        match_points([], shifted())


def test_every_exemplar_is_checked() -> None:
    with pytest.raises(InputError, match="outside the patient in second"):
        match_points([(synthetic(), POINTS), (synthetic(name="second"), POINTS + 500)], shifted())


def test_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'magic'; use nn or fixed-point"):
        MatchOptions(method="magic")
