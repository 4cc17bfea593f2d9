"""Correspondences between patients, found where they are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from samples import tissue_volume
from searchables import SHIFT, shifted, synthetic, warped

from training.rounds import between
from training.rounds.between import MOST_SPREAD_MM, POINT_STEP_MM, RETURN_MM, common_points
from training.scans.common_points import read_common_points
from UniversalAnatomicalEmbeddingLib.images.volume import write_volume
from UniversalAnatomicalEmbeddingLib.matching.guide import Guide

CELLS = (30, 30, 40)


def places(rows, fixed, moving) -> tuple[np.ndarray, np.ndarray]:
    return fixed.embedding.grid.index_to_world(rows[:, :3].numpy()), moving.embedding.grid.index_to_world(rows[:, 3:].numpy())


def test_common_points_are_where_a_known_map_puts_them_and_lie_in_both_scans() -> None:
    fixed, moving = synthetic(cells=CELLS), synthetic(warped, cells=CELLS, name="moving")
    rows = common_points(fixed, moving)
    source, destination = places(rows, fixed, moving)
    error = np.linalg.norm(warped(destination) - source, axis=1)
    assert len(rows) > 300
    assert np.median(error) < 2
    assert fixed.embedding.contains(source).all()
    assert moving.embedding.contains(destination).all()
    assert np.allclose(np.diff(np.unique(source[:, 0].round(2))), POINT_STEP_MM)


@pytest.mark.parametrize("fault", ["spread", "return"])
def test_points_that_the_two_guides_do_not_agree_on_are_left_out(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    fixed, moving = synthetic(cells=CELLS), shifted(cells=CELLS)
    middle = float(fixed.embedding.fine_grid.index_to_world([[0, 0, CELLS[2] / 2]])[0, 0])

    class Doubtful(Guide):
        def predict(self, points):
            position, spread = points + self.destination[0] - self.source[0], np.zeros(len(points))
            right = points[:, 0] > middle
            if fault == "spread":
                spread[right] = MOST_SPREAD_MM + 0.1
            else:
                position[right, 1] += (RETURN_MM + 0.2) * (self.source[0, 0] > 0)
            return position, spread

    start, goal = np.zeros((1, 3)), SHIFT[None]
    guides = iter([Doubtful(start, goal, start), Doubtful(goal, start, goal)])
    monkeypatch.setattr(between, "build_guide", lambda a, b: next(guides))
    source, destination = places(common_points(fixed, moving), fixed, moving)
    np.testing.assert_allclose(destination - source, np.broadcast_to(SHIFT, source.shape), atol=1e-3)
    kept_right = (destination[:, 0] > middle).any() if fault == "return" else (source[:, 0] > middle).any()
    assert len(source) > 100
    assert not kept_right


def test_the_command_pairs_the_scans_of_an_index_that_are_of_different_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, name in enumerate(("one", "two", "three", "limb")):
        write_volume(tissue_volume(seed=i, name=name), tmp_path / f"{name}.nii.gz")
    frames = {"one": "p", "two": "p", "three": "q", "limb": "r"}
    rows = [f"{n},{n}.nii.gz,ct,{f},2 2 2,,,,,," for n, f in frames.items()]
    (tmp_path / "index.csv").write_text("name,path,modality,frame,spacing,labels,tissue,licence,sha256,source\n" + "\n".join(rows) + "\n")
    pairs = []

    def found(a, b):
        pairs.append((a.embedding.name, b.embedding.name))
        return between.torch.zeros(between.LEAST_POINTS if b.embedding.name == "three" else 3, 6)

    monkeypatch.setattr(between, "common_points", found)
    out = tmp_path / "between.npz"
    monkeypatch.setattr(sys, "argv", ["between", "--index", str(tmp_path / "index.csv"), "--out", str(out), "--scans", "!limb*"])
    between.main()
    assert sorted(pairs) == [("one", "three"), ("two", "three")], "not two scans of one frame, and not the limb"
    assert list(read_common_points(out)) == pairs
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--pairs", "1"])
    between.main()
    assert list(read_common_points(out)) == pairs[:1]
    assert "1 pairs of 3 scans" in capsys.readouterr().out
