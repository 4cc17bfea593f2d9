"""Queries whose answer is known: who is present, who was cut away, and who counts at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import TINY, tissue

from training.release import known_queries
from training.release.known_queries import (
    CUTS,
    FRAME_CUTS,
    FRAME_POINTS,
    WHOLE,
    centroids,
    cut,
    frame_queries,
    joined,
    landmark_queries,
    structure_queries,
)
from training.scans.scan import read_index
from UniversalAnatomicalEmbeddingLib.images.volume import Volume, from_array, write_volume
from UniversalAnatomicalEmbeddingLib.landmarks.points import Point, PointList, write_points
from UniversalAnatomicalEmbeddingLib.models.model import Model, ModelCard
from UniversalAnatomicalEmbeddingLib.networks.compact import Compact
from UniversalAnatomicalEmbeddingLib.options import MatchOptions
from UniversalAnatomicalEmbeddingLib.session import Session
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

SHAPE = (48, 52, 56)


@pytest.fixture(scope="module")
def session() -> Session:
    torch.manual_seed(0)
    return Session(Model(Compact(**TINY).eval(), ModelCard("tiny", "Tiny", "compact", ("ct", "mr"), (), "", "")), "cpu")


def scan(path: Path, seed: int, modality: str = "ct") -> Volume:
    """A block of texture in air on 2 mm voxels, written to ``path``."""
    array = np.full(SHAPE, -1000.0 if modality == "ct" else 0.0)
    array[4:-4, 4:-4, 4:-4] = tissue(tuple(n - 8 for n in SHAPE), seed) + (0 if modality == "ct" else 300)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-40, 10, 500]
    volume = from_array(array.astype(np.int16), affine, modality, path.name.split(".")[0])
    write_volume(volume, path)
    return volume


def test_a_cut_scan_keeps_its_place_in_the_patient() -> None:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = [1, 2, 3]
    volume = from_array(np.arange(10 * 4 * 4, dtype=np.int16).reshape(10, 4, 4), affine, "ct", "a")
    part = cut(volume, CUTS["upper part"])
    assert part.array.shape == part.grid.shape_zyx == (6, 4, 4)
    np.testing.assert_array_equal(part.array, volume.array[4:])
    np.testing.assert_allclose(part.grid.index_to_world([1, 2, 3]), volume.grid.index_to_world([5, 2, 3]))
    assert (part.name, part.modality) == ("a", "ct")
    np.testing.assert_array_equal(cut(volume, WHOLE).array, volume.array)
    assert cut(volume, ((0.5, 0.51), (0, 1), (0, 1))).array.shape == (1, 4, 4), "never nothing"


def test_right_and_left_are_the_patients(session: Session) -> None:
    volume = from_array(np.zeros((4, 4, 10), dtype=np.int16), np.eye(4), "ct", "a")
    right, left = cut(volume, CUTS["right half"]), cut(volume, CUTS["left half"])
    assert right.grid.corners()[:, 0].max() == left.grid.corners()[:, 0].min() == 4.5


def test_pairs_of_one_frame_give_present_points_and_points_that_a_cut_removed(session: Session, tmp_path: Path) -> None:
    for name, seed in (("ct", 1), ("mr", 2)):
        scan(tmp_path / f"{name}.nii.gz", seed, name)
    (tmp_path / "index.csv").write_text("path,modality,frame\nct.nii.gz,ct,p\nmr.nii.gz,mr,p\n")
    rows = read_index(tmp_path / "index.csv")
    samples = frame_queries(session, rows, MatchOptions())
    assert len(samples.x) == len(samples.present) == len(samples.correct) > FRAME_POINTS
    assert np.isfinite(samples.x).all()
    assert samples.present[:FRAME_POINTS].all(), "the whole scan shows all"
    assert 0 < samples.present.sum() < len(samples.present)
    assert not samples.correct[~samples.present].any()
    with pytest.raises(InputError, match="share a frame"):
        frame_queries(session, [{**row, "frame": row["path"]} for row in rows], MatchOptions())


def test_landmarks_are_present_where_the_target_shows_them_and_absent_elsewhere(session: Session, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1)):
        volume = scan(tmp_path / f"{name}.nii.gz", seed)
        low, high = (volume.grid.index_to_world([i])[0] for i in ((6, 26, 28), (42, 26, 28)))
        points = [Point("carina", low), Point("left_lung_apex", high)]
        write_points(PointList(points), tmp_path / f"{name}.mrk.json")
    scan(tmp_path / "sts01_ct.nii.gz", 9)
    samples = landmark_queries(session, tmp_path, "sts*_ct.nii.gz", MatchOptions())
    shown = 2 * (2 + 1 + 1 + 2 + 2 + 2)  # whole, lower part, upper part, halves, front: the middle of the halves is theirs
    assert samples.present.sum() <= shown and samples.present[:2].all()
    absent = len(samples.present) - samples.present.sum()
    assert absent >= 2 * (1 + 1 + 2) + 2, "the parts lack one or both, and the other body part the landmark of the trunk"
    assert samples.correct[:2].all(), "the same scan twice"


def test_structures_that_are_cut_or_tubes_are_no_landmarks(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_queries, "HEADNECK_STEP", 2)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[10:14, 20:24, 30:34], labels[:5, 5:9, 5:9], labels[20:30, 20:24, 8:12], labels[20:22, 30:31, 30:31] = 1, 2, 3, 4
    table = {"1": "brainstem", "2": "larynx", "3": "spinal_cord", "4": "parotid_left"}
    for n, name in enumerate("abc"):
        volume = scan(tmp_path / f"{name}.nii.gz", n)
        write_volume(Volume(labels, volume.grid), tmp_path / f"{name}.seg.nii.gz")
        (tmp_path / f"{name}.seg.json").write_text(json.dumps(table))
    found = centroids(tmp_path / "a.nii.gz")
    assert list(found) == ["brainstem"], "the larynx touches the border, the cord is a tube, two voxels are too few"
    np.testing.assert_allclose(found["brainstem"], volume.grid.index_to_world([(11.5, 21.5, 31.5)])[0])
    samples = structure_queries(session, tmp_path, MatchOptions())
    assert len(samples.present) <= 1 + len(FRAME_CUTS) and samples.present[0], "the first and the third scan"
    assert len(joined([samples, samples]).x) == 2 * len(samples.x)
