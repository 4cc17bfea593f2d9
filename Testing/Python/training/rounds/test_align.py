"""A round of registration: which pairs are trusted, and how their scans come into one frame."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from training_scene import blank, described, make_scan, module

from training.batches.augment import Augmentation, to_patient
from training.batches.data import in_frames
from training.batches.sampling import corresponding_points
from training.batches.stream import PairStream
from training.rounds import align
from training.rounds.align import Alignment, Row, Trust, align_index, combine, read_patients, write_index
from training.scans.scan import read_index
from UniversalAnatomicalEmbeddingLib.registration import NoCommonAnatomy, Registration, Transform
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

MATRIX = np.eye(4)
MATRIX[:3, :3] = Rotation.from_euler("xyz", (5, -8, 12), degrees=True).as_matrix() * [1.05, 0.97, 1.0]
MATRIX[:3, 3] = [13, -21, 34]


def rows(tmp_path: Path) -> list[Row]:
    frames = {"ct": "ct", "t1": "mr", "t2": "mr", "other": "other"}
    return [{"path": str(tmp_path / f"{n}.nii.gz"), "modality": n[:2], "frame": f} for n, f in frames.items()]


def alignment(inliers: int = 100, round_trip_mm: float = 3.0, matrix: np.ndarray = MATRIX) -> Alignment:
    return Alignment(matrix, inliers, round_trip_mm, 4.0)


@pytest.mark.parametrize(("inliers", "there_and_back", "kept"), [(60, 6.0, True), (59, 6.0, False), (60, 6.1, False), (500, 1.0, True)])
def test_only_what_agrees_often_and_comes_back_is_trusted(inliers: int, there_and_back: float, kept: bool) -> None:
    assert alignment(inliers, there_and_back).trusted(Trust(60, 6.0)) == kept


def test_a_trusted_scan_takes_all_of_its_frame_along(tmp_path: Path) -> None:
    before = rows(tmp_path)
    after = align_index(before, [("ct", "t1"), ("ct", "t2")], lambda f, m: alignment(), Trust())
    assert [r["frame"] for r in after] == ["ct", "ct", "ct", "other"]
    for row in after[1:3]:
        np.testing.assert_allclose([float(v) for v in row["frame_to_scan"].split()], MATRIX[:3].ravel(), atol=1e-6)
        assert float(row["slack_mm"]) == pytest.approx(5.0), "3 mm there and back and 4 mm expected error"
    assert "frame_to_scan" not in after[0]
    assert [r["frame"] for r in before] == ["ct", "mr", "mr", "other"], "the rows given stay as they are"


def test_doubtful_and_unlike_scans_stay_apart(tmp_path: Path) -> None:
    def refuse(fixed: Row, moving: Row) -> Alignment:
        if moving["frame"] == "other":
            raise NoCommonAnatomy("nothing in common")
        return alignment(inliers=5)

    after = align_index(rows(tmp_path), [("ct", "t1"), ("ct", "other")], refuse, Trust())
    assert [r["frame"] for r in after] == ["ct", "mr", "mr", "other"]


def test_a_scan_may_be_registered_to_one_that_was(tmp_path: Path) -> None:
    second = np.linalg.inv(MATRIX) @ MATRIX @ MATRIX
    second[:3, 3] += 5
    found = iter([alignment(), alignment(matrix=second)])
    after = align_index(rows(tmp_path), [("ct", "t1"), ("t1", "other")], lambda f, m: next(found), Trust())
    assert {r["frame"] for r in after} == {"ct"}
    np.testing.assert_allclose([float(v) for v in after[3]["frame_to_scan"].split()], (second @ MATRIX)[:3].ravel(), atol=1e-5)
    assert float(after[3]["slack_mm"]) == pytest.approx(np.hypot(5, 5), abs=0.01)


def registration(matrix: np.ndarray, inliers: int, tre: float) -> Registration:
    points = np.random.default_rng(0).uniform(-100, 100, (80, 3))
    inlier = np.arange(80) < inliers
    transform = Transform(matrix)
    return Registration(transform, "affine", "embeddings", points, transform(points), np.zeros(80), inlier, tre, 0.0, 1.0)


def test_two_directions_are_combined_with_care() -> None:
    back = np.linalg.inv(MATRIX)
    back[:3, 3] += [3, 0, 4]
    found = combine(registration(MATRIX, 70, 1.5), registration(back, 50, 2.5))
    assert found.inliers == 50
    assert found.round_trip_mm == pytest.approx(5.0)
    assert found.expected_tre_mm == 2.5
    np.testing.assert_array_equal(found.matrix, MATRIX)
    assert alignment().slack_mm == pytest.approx(5.0)
    assert replace(alignment(), expected_tre_mm=float("nan")).slack_mm == pytest.approx(3.0)


def test_registered_scans_show_the_same_anatomy_at_the_same_millimetres() -> None:
    """Fixed to moving: a point of the frame lies at MATRIX point in the moving scan's own millimetres."""
    fixed = blank("ct", "ct", (70, 70, 70))
    linear = torch.from_numpy(MATRIX[:3, :3]).float()
    own = fixed.mm_to_index[:, :3] @ torch.linalg.inv(linear)
    moving = replace(
        fixed, name="mr", mm_to_index=torch.cat([own, fixed.mm_to_index[:, 3:] - own @ torch.tensor(MATRIX[:3, 3:]).float()], 1)
    )
    text = " ".join(f"{v:.9g}" for v in MATRIX[:3].ravel())
    placed = in_frames([fixed, moving], [{}, {"frame_to_scan": text, "slack_mm": "4.5"}])
    torch.testing.assert_close(placed[1].mm_to_index, fixed.mm_to_index, atol=1e-4, rtol=0)
    assert (placed[0].slack_mm, placed[1].slack_mm) == (0.0, 4.5)
    example = PairStream(placed, Augmentation(truncate_p=0), 0, 0, (48, 48, 48), 1.0)
    placed = [replace(s, frame="ct") for s in placed]
    example = PairStream(placed, Augmentation(truncate_p=0), 0, 0, (48, 48, 48), 1.0).draw(0)
    assert example.fixed_scan != example.moving_scan
    with torch.no_grad():
        d = described(module(slack_mm=30.0), example, placed[example.fixed_scan], placed[example.moving_scan])
        alone = described(module(), replace(example, moving_scan=example.fixed_scan), *[placed[example.fixed_scan]] * 2)
    assert d.slack_mm == 4.5 + 4.0, "that of the registration and of a patient who moved, not that of two patients"
    assert alone.slack_mm == 0
    at = corresponding_points((placed[0], example.fixed), (placed[1], example.moving), 50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_patient(at.fixed_index, example.fixed), to_patient(at.moving_index, example.moving), atol=2e-3, rtol=0)


def test_an_index_survives_writing_and_reading(tmp_path: Path) -> None:
    given = align_index(rows(tmp_path / "scans"), [("ct", "t1")], lambda f, m: alignment(), Trust())
    write_index(tmp_path / "runs" / "round1.csv", given)
    found = read_index(tmp_path / "runs" / "round1.csv")
    assert [r["path"] for r in found] == [r["path"] for r in given]
    assert [r["frame"] for r in found] == ["ct", "ct", "ct", "other"]
    assert found[1]["frame_to_scan"] == given[1]["frame_to_scan"]
    assert (tmp_path / "runs" / "round1.csv").read_text().count(str(tmp_path)) == 0, "so that the folder can move"


def test_pairs_that_cannot_be_read_or_are_not_in_the_index_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text(json.dumps([{"fixed": "ct/ct.nii.gz", "moving": "mr/t9.nii.gz"}]))
    pairs = read_patients(tmp_path / "pairs.json")
    assert pairs == [("ct", "t9")]
    with pytest.raises(InputError, match=r"lacks 1 scans of the pairs \(first: t9\)"):
        align_index(rows(tmp_path), pairs, lambda f, m: alignment(), Trust())
    (tmp_path / "pairs.json").write_text('[{"fixed": "a"}]')
    with pytest.raises(InputError, match="is not a JSON list of"):
        read_patients(tmp_path / "pairs.json")


def test_the_command_writes_the_index_of_the_next_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real session on two scans of one patient, the second in other millimetres."""
    make_scan(tmp_path / "a.nii.gz", 1, "ct")
    make_scan(tmp_path / "b.nii.gz", 1, "ct")
    (tmp_path / "index.csv").write_text("path,modality,frame\na.nii.gz,ct,a\nb.nii.gz,ct,b\n")
    (tmp_path / "pairs.json").write_text(json.dumps([{"fixed": "a.nii.gz", "moving": "b.nii.gz"}]))
    out = tmp_path / "round1.csv"
    options = {"--index": tmp_path / "index.csv", "--pairs": tmp_path / "pairs.json", "--out": out, "--device": "cpu", "--inliers": 30}
    monkeypatch.setattr(sys, "argv", ["align", *(str(part) for pair in options.items() for part in pair)])
    align.main()
    found = read_index(out)
    assert [r["frame"] for r in found] == ["a", "a"]
    matrix = np.reshape([float(v) for v in found[1]["frame_to_scan"].split()], (3, 4))
    corner = matrix @ [[-40, 54], [10, 104], [500, 594], [1, 1]]
    np.testing.assert_allclose(corner, [[-40, 54], [10, 104], [500, 594]], atol=3.0)
