"""The registration benchmark: its cases are true, it goes on where it was stopped, and what is not solved counts as a failure."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from positions import lps_grid, textured
from scipy import ndimage

FILE = Path(__file__).parents[2] / "benchmarks" / "registration.py"
SPEC = importlib.util.spec_from_file_location("registration_benchmark", FILE)
assert SPEC is not None and SPEC.loader is not None
benchmark = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


def value(volume: object, points: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(volume.array.astype(float), volume.grid.world_to_index(points).T, order=1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["moderate", "hard"])
def test_a_case_shows_the_same_tissue_at_a_point_and_at_its_true_place(kind: str) -> None:
    fixed = textured(lps_grid((-80, -60, -100), (160, 120, 200), 4.0), lambda p: p, "ct", "fixed")
    moving = textured(lps_grid((-72, -66, -90), (150, 126, 176), 4.0), lambda p: p, "ct", "moving")
    case = benchmark.identity_case(kind, fixed, moving, 1)
    assert len(case.points) == 200
    steps = 4.0 * np.vstack([np.zeros(3), np.eye(3), -np.eye(3)])
    around = [value(case.fixed, case.points + step) for step in steps]
    inner = np.min(around, axis=0) > -100  # away from the skin, where a linear interpolation is close
    assert inner.mean() > 0.7
    difference = value(case.fixed, case.points) - value(case.moving, case.truth)
    assert (
        np.abs(difference[inner]).mean()
        < 10
        < np.abs(value(case.fixed, case.points)[inner] - value(case.fixed, case.points + 15)[inner]).mean()
    )
    assert np.linalg.norm(case.points - case.truth, axis=1).mean() > 5
    share = case.moving.grid.shape_zyx[0] / moving.grid.shape_zyx[0]
    assert share == 0.5 if kind == "hard" else 0.75 <= share <= 1
    assert case.fixed.grid.shape_zyx[0] == fixed.grid.shape_zyx[0] * (2 if kind == "hard" else 1)


def test_it_goes_on_where_it_was_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[tuple[str, int, str]] = []
    monkeypatch.setattr(benchmark, "Session", lambda device: None)
    monkeypatch.setattr(benchmark, "make_case", lambda kind, data, fixed, moving, seed: (fixed, seed))
    monkeypatch.setattr(
        benchmark, "measure", lambda method, case, embedder: done.append((*case, method)) or {"tre_mm": [1.0], "seconds": 2.0}
    )
    suite = [{"group": "g", "kind": "hard", "cases": 2, "methods": ["a", "b"], "best_truth": ["x/f"], "pairs": [["x/f", "x/m"]]}]
    out = tmp_path / "results.jsonl"
    benchmark.run(suite, tmp_path, out)
    assert done == [("x/f", 0, "a"), ("x/f", 0, "b"), ("x/f", 1, "a"), ("x/f", 1, "b")]
    lines = out.read_text().splitlines()
    out.write_text("\n".join(lines[:1] + lines[2:]) + "\n")
    benchmark.run(suite, tmp_path, out)
    assert done[4:] == [("x/f", 0, "b")]
    assert {json.loads(line)["subset"] for line in lines} == {"best truth"}


def test_unsolved_and_far_cases_are_failures() -> None:
    rows = [
        {"tre_mm": [9.0, 9.0, 90.0], "seconds": 1, "cpu_seconds": 1},
        {"tre_mm": [11.0], "seconds": 1, "cpu_seconds": 1},
        {"failure": "no"},
    ]
    assert "failures  2,  66.7 %" in benchmark.summary(rows, 10.0)
    assert "failures  1, 100.0 %" in benchmark.summary(rows[2:], 10.0)


def test_the_suite_names_methods_and_kinds_that_there_are() -> None:
    for group in json.loads(benchmark.SUITE.read_text()):
        assert set(group["methods"]) <= {*benchmark.OURS, *benchmark.PEERS}
        assert group["kind"] in {*benchmark.LARGEST, "landmarks"}
        assert {fixed for fixed, _ in group["pairs"]} >= set(group.get("best_truth", []))
