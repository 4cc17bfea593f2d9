"""``uae register`` in process: its files agree with each other and with the truth; mistakes are one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread
from positions import carried, motion
from samples import tiny_model
from scipy import ndimage

from UniversalAnatomicalEmbeddingLib.commands.main import main
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume, read_volume, write_volume
from UniversalAnatomicalEmbeddingLib.landmarks.points import Point, PointList, write_points
from UniversalAnatomicalEmbeddingLib.models.model import save_model

SHIFT = np.array([30.0, -12.0, 250.0])
TURN = motion((20, 10, -30), tuple(SHIFT), (50, 40, 50))
PLACES = {"a": (20.0, 20, 20), "b": (70.0, 25, 30), "c": (40.0, 70, 40), "d": (30.0, 40, 75), "e": (60.0, 60, 60)}
FILES = {"transform.h5", "transform.tfm", "registered.nii.gz", "checkerboard.png", "report.json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A block of made-up tissue, the same shifted and the same turned, landmarks of the first and the third, and a tiny model."""
    folder = tmp_path_factory.mktemp("scans")
    tissue = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((48, 44, 50)), 3)
    array = np.full((56, 52, 58), -1000, np.float32)
    array[4:-4, 4:-4, 4:-4] = 50 + 60 * tissue / tissue.std()
    array = array.clip(-1000, 300).astype(np.int16)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    shifted = affine.copy()
    shifted[:3, 3] = SHIFT
    for name, matrix in (("fixed", affine), ("shifted", shifted), ("turned", TURN @ affine)):
        write_volume(Volume(array, Grid(array.shape, matrix), "ct"), folder / f"{name}.nrrd")
    for name, matrix in (("fixed", np.eye(4)), ("turned", TURN)):
        places = carried(matrix, np.array(list(PLACES.values())))
        write_points(PointList(tuple(Point(k, tuple(p)) for k, p in zip(PLACES, places, strict=True))), folder / f"{name}.mrk.json")
    save_model(tiny_model(), folder / "tiny.safetensors")
    return folder


def register(folder: Path, moving: str, out: Path, *options: str) -> int:
    given = [
        "--fixed",
        str(folder / "fixed.nrrd"),
        "--moving",
        str(folder / moving),
        "--out",
        str(out),
        "--cache",
        str(out.parent / "cache"),
    ]
    return main(["register", *given, "--device", "cpu", "--model", str(folder / "tiny.safetensors"), *options])


def check_results(folder: Path, out: Path, truth: np.ndarray, off_mm: float) -> dict:
    """Both transform files map the places right, and the resampled scan shows the fixed one."""
    assert {p.name for p in out.iterdir()} == FILES
    places = np.array(list(PLACES.values()))
    for name in ("transform.h5", "transform.tfm"):
        transform = sitk.ReadTransform(str(out / name))
        found = np.array([transform.TransformPoint(p) for p in places.tolist()])
        assert np.linalg.norm(found - carried(truth, places), axis=1).max() < off_mm
    fixed, registered = read_volume(folder / "fixed.nrrd"), read_volume(out / "registered.nii.gz")
    assert registered.array.dtype == np.int16
    np.testing.assert_allclose(registered.grid.affine, fixed.grid.affine, atol=1e-4)
    inner = (slice(12, -12),) * 3
    assert np.corrcoef(registered.array[inner].ravel(), fixed.array[inner].ravel())[0, 1] > 0.95
    height, width = imread(out / "checkerboard.png").shape[:2]
    assert width > 1000 and height > 700
    report = json.loads((out / "report.json").read_text())
    assert report["seconds"] > 0 and report["folding"] < 0.005
    assert {text.split(",")[0] for text in report["taken_for"].values()} == {"CT"}
    return report


def test_embeddings_register_a_shifted_patient(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert register(folder, "shifted.nrrd", tmp_path / "out", "--stages", "rigid") == 0
    report = check_results(folder, tmp_path / "out", motion((0, 0, 0), tuple(SHIFT)), 1.0)
    assert report["source"] == "embeddings" and report["stage"] == "rigid"
    assert report["inliers"] > 100 and report["landmarks"] is None
    assert "Rigid from embeddings: expected error" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["rigid", "affine", "deformable"])
def test_landmarks_register_a_turned_patient(folder: Path, tmp_path: Path, stage: str) -> None:
    landmarks = ("--landmarks-fixed", str(folder / "fixed.mrk.json"), "--landmarks-moving", str(folder / "turned.mrk.json"))
    assert register(folder, "turned.nrrd", tmp_path / "out", "--stages", stage, *landmarks) == 0
    report = check_results(folder, tmp_path / "out", TURN, 0.01)
    assert report["source"] == "landmarks"
    assert [row["label"] for row in report["landmarks"]] == list(PLACES)
    assert report["fre_mm"] < 0.01
    assert not (tmp_path / "cache").exists()


def test_refining_keeps_a_right_answer(folder: Path, tmp_path: Path) -> None:
    landmarks = ("--landmarks-fixed", str(folder / "fixed.mrk.json"), "--landmarks-moving", str(folder / "turned.mrk.json"))
    assert register(folder, "turned.nrrd", tmp_path / "out", "--stages", "rigid", "--refine", *landmarks) == 0
    assert check_results(folder, tmp_path / "out", TURN, 1.5)["refined_mm"] < 1.5


def test_landmarks_of_one_scan_only_are_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert register(folder, "turned.nrrd", tmp_path / "out", "--landmarks-fixed", str(folder / "fixed.mrk.json")) == 2
    error = capsys.readouterr().err
    assert error == "uae: Landmarks were given for one scan only; give --landmarks-fixed and --landmarks-moving, or neither.\n"
    assert not (tmp_path / "out").exists()
