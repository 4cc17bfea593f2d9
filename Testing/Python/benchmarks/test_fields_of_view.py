"""The benchmark of partial and disturbed scans: its anatomy, cuts, truth and verdicts."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


shown_scan = load("shown_scan")
ways = load("shown_parts")
figures = load("fields_of_view_table")
benchmark = load("fields_of_view")

SHAPE = (80, 90, 120)  # 160 x 180 x 240 mm


def chest() -> Any:
    """A trunk on a table, two lungs closed at the sides and open below, the left one smaller."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    hu = np.full(SHAPE, -1000.0)
    hu[((y - 42) / 36) ** 2 + ((x - 60) / 54) ** 2 < 1] = 40.0
    hu[80:83] = -1000.0
    hu[:, 83:85] = 200.0  # the table, a shell of 4 mm
    for centre, width in ((36, 17), (85, 13)):
        hu[(z < 60) & (((y - 42) / 22) ** 2 + ((x - centre) / width) ** 2 < 1)] = -850.0
    hu += np.random.default_rng(0).normal(0, 10, SHAPE)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-120, -90, 500)
    return shown_scan.scan_of(Volume(hu.astype(np.float32), Grid(SHAPE, affine), "ct", "c"), "ct")


@pytest.fixture(scope="module")
def scan() -> Any:
    return chest()


def shown_by(way: Any, scan: Any) -> Any:
    return way(scan, np.random.default_rng(1))


def test_anatomy_holds_lungs_open_below_but_neither_air_nor_table(scan: Any) -> None:
    assert scan.anatomy[0, 42, 36] and scan.anatomy[0, 42, 85]
    assert scan.anatomy[70, 42, 60]
    assert not scan.anatomy[:, 83:].any() and not scan.anatomy[:, :4].any()
    right, left = shown_scan.lungs(scan)
    assert right[5, 42, 36] and not right[5, 42, 85] and left[5, 42, 85] and not left[5, 42, 36]
    assert right.sum() > left.sum() > 0


def test_every_cut_keeps_the_places_of_what_it_shows(scan: Any) -> None:
    for way in ways.CHEST.values():
        part = shown_by(way, scan)
        if way in (ways.exact_air, ways.uncut):
            continue
        points = part.volume.grid.index_to_world(np.argwhere(part.shown)[::97])
        assert len(points) and shown_scan.at(scan.anatomy, scan.volume.grid, points).all()
        index = tuple(np.rint(scan.volume.grid.world_to_index(points)).astype(int).T)
        here = part.volume.array[part.shown][::97]
        offset = 1024 if way is ways.stored_values else 0
        if way not in (ways.heavy_noise, ways.emphysema):
            assert np.allclose(here - offset, scan.volume.array[index], atol=1e-3)


def test_right_is_where_x_is_small_and_upper_where_z_is_large(scan: Any) -> None:
    middle = scan.volume.grid.corners().mean(axis=0)
    sides, halves = (ways.right_lung, ways.left_lung), (ways.upper_half, ways.lower_half)
    right, left = (shown_by(way, scan).volume.grid.corners() for way in sides)
    assert right[:, 0].max() < middle[0] < left[:, 0].min()
    upper, lower = (shown_by(way, scan).volume.grid.corners() for way in halves)
    assert upper[:, 2].min() == pytest.approx(lower[:, 2].max())
    assert upper[:, 2].max() > middle[2]


def test_the_parts_are_what_they_are_called(scan: Any) -> None:
    assert shown_by(ways.slab(20, of_lungs=True), scan).extent_mm[0] == 20
    box = shown_by(ways.box_in_lung, scan)
    right, _ = shown_scan.lungs(scan)
    points = box.volume.grid.index_to_world(np.argwhere(box.shown))
    assert shown_scan.at(right, scan.volume.grid, points).mean() > 0.9
    round_field = shown_by(ways.cylinder(-2000), scan)
    assert (round_field.volume.array[~round_field.field] == -2000).all()
    assert 0.6 < round_field.field.mean() < 0.9
    bright = shown_by(ways.table, scan)
    assert not bright.anatomy[:, -10:].any() and bright.volume.array[:, -12].mean() > 0
    coarse = shown_by(ways.exact_air, scan)
    assert (coarse.volume.array[~coarse.anatomy] == -1024).all()
    assert np.allclose(coarse.volume.grid.spacing_xyz, [4, 4, 3])


def test_what_a_disease_replaces_is_not_asked_for(scan: Any) -> None:
    for way in (ways.tumour_in_lung, ways.pneumothorax):
        ill = shown_by(way, scan)
        changed = ill.volume.array != scan.volume.array
        assert ill.replaced.any() and not (changed & ill.shown).any()
    _, left = shown_scan.lungs(scan)
    assert (shown_by(ways.pneumothorax, scan).replaced & ~left).sum() == 0


def test_presence_knows_margin_and_cut(scan: Any) -> None:
    part = shown_by(ways.upper_half, scan)
    floor = part.volume.grid.corners()[:, 2].min()
    x, y = scan.volume.grid.corners().mean(axis=0)[:2]
    points = np.array([[x, y, floor + up] for up in (30.0, 1.0, -5.0, -30.0)])
    present, cut = shown_scan.presence(part, points, 4.0, 10.0)
    assert present.tolist() == [True, False, False, False]
    assert cut.tolist() == [False, False, False, True]


def test_the_warped_scan_shows_the_same_tissue_at_the_true_place(scan: Any) -> None:
    warp = benchmark.warp_of(scan)
    moved = benchmark.warped(scan, warp)
    points = benchmark.present_points(scan, moved, warp, 300, 3)
    assert len(points) == 300
    lung, there = (shown_scan.at(s.volume.array < -500, s.volume.grid, p) for s, p in ((scan, points), (moved, warp(points))))
    assert (lung == there).mean() > 0.95 and 0.05 < lung.mean() < 0.6
    assert np.linalg.norm(warp(points) - points, axis=1).max() > 5
    back = benchmark.tabled(warp, moved.volume.grid)(warp(points))
    assert np.percentile(np.linalg.norm(back - points, axis=1), 95) < 0.5


def row(kind: str, errors: list[float], absent: list[bool], patient: str = "p", **more: Any) -> Any:
    cells = {"kind": kind, "way": "w", "scan": "s", "patient": patient, "mm": errors}
    plain = {"uncut_mm": [1.0] * len(errors), "uncut_absent": [False] * len(errors)}
    present = {"present": [True] * len(errors), "shown_mm": [200.0, 90.0, 90.0]}
    return {**cells, "absent": absent, **plain, **present, **more}


def test_verdict_names_the_goals_that_are_missed() -> None:
    good = row("warp", [1.0] * 98 + [30.0] * 2, [False] * 100)
    assert figures.line_of("w", [good]).endswith("| met |")
    short = {**good, "shown_mm": [60.0, 60.0, 60.0]}
    assert figures.line_of("w", [short]).endswith("| not judged |")
    bad = row("warp", [1.0] * 95 + [30.0] * 5, [False] * 97 + [True] * 3)
    assert "warp -5.0, warp absent 3.0 %" in figures.line_of("w", [bad])
    away = row("landmarks", [50.0] * 4, [True, True, True, False], present=[False] * 4)
    assert "missed: cut away 75 %" in figures.line_of("w", [good, away])


def test_a_present_point_called_absent_is_a_miss() -> None:
    verdicts = [False, True, False, False]
    queries = figures.Queries.read([row("warp", [1.0, 1.0, 20.0, 1.0], verdicts)])
    assert queries.within() == 50 and queries.within_uncut() == 100


def test_interval_is_over_patients() -> None:
    errors = {"a": [30.0] * 10, "b": [1.0] * 10}
    rows = [row("landmarks", mm, [False] * 10, patient) for patient, mm in errors.items()]
    assert figures.interval(rows) == (0, 100)
    assert figures.interval(rows[:1]) == (100, 100)


def test_it_goes_on_where_it_was_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    class Fake:
        def __init__(self, session: object, data: Path) -> None: ...

        def warp_case(self, source: Any, name: str, count: int) -> Any:
            asked.append((source.file, name))
            found = [(1.0, False)]
            return {**benchmark.row_of(found, found, [True]), "shown_mm": [1, 2, 3]}

        def landmark_cases(self, source: Any, name: str, templates: Any) -> list[Any]:
            return []

        def forget(self, source: Any) -> None: ...

    monkeypatch.setattr(benchmark, "Bench", Fake)
    monkeypatch.setattr(benchmark, "Session", lambda device: None)
    out = tmp_path / "cases.jsonl"
    chosen = {"ways": "uncut;slab 20 mm", "scans": 2, "quick": False, "device": "cpu"}
    args = argparse.Namespace(out=out, data=tmp_path, **chosen)
    benchmark.run(args)
    assert len(asked) == 4 == len(set(asked))
    lines = out.read_text().splitlines()
    out.write_text("\n".join(lines[:1] + lines[2:]) + "\n")
    benchmark.run(args)
    assert asked[4:] == [tuple(json.loads(lines[1])[k] for k in ("scan", "way"))]
    printed = figures.table([json.loads(line) for line in lines], ["uncut", "slab 20 mm"])
    assert "| uncut | 1 x 2 x 3 |" in printed
