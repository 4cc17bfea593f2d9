"""The whole path on real scans with the bundled model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from UniversalAnatomicalEmbeddingLib import Session, read_points, read_volume
from UniversalAnatomicalEmbeddingLib.commands.main import main
from UniversalAnatomicalEmbeddingLib.report.evaluation import shared_body_points

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(device="cpu")


def test_native_thick_slices_match_their_own_resampled_copy(session: Session, data_dir: Path) -> None:
    native = session.embed(read_volume(data_dir / "dev/native/sts034_ct.nii.gz"))
    resampled = session.embed(read_volume(data_dir / "dev/ct/sts034_ct.nii.gz"))
    points = shared_body_points(native, resampled)[:60]
    errors = [np.linalg.norm(m.point_lps - p) for m, p in zip(session.match(native, points, resampled), points, strict=True)]
    assert np.median(errors) < 4.0
    signed = np.mean([m.point_lps - p for m, p in zip(session.match(native, points, resampled), points, strict=True)], axis=0)
    assert np.abs(signed).max() < 1.0


def test_landmarks_of_one_patient_are_found_in_another(session: Session, data_dir: Path) -> None:
    folder = data_dir / "dev/ct"
    template, target = (session.embed(read_volume(folder / f"{n}.nii.gz")) for n in ("lidc_0001_chest", "cptac_c3n00247_chest"))
    known, truth = (read_points(folder / f"{n}.mrk.json") for n in ("lidc_0001_chest", "cptac_c3n00247_chest"))
    labels = [label for label in known.labels if label in truth.labels]
    matches = session.match(template, [known.by_label(k).position_lps for k in labels], target)
    errors = np.array([np.linalg.norm(m.point_lps - truth.by_label(k).position_lps) for k, m in zip(labels, matches, strict=True)])
    assert np.median(errors) < 10.0
    found = np.array([m.status == "found" for m in matches])
    assert errors[found].size >= len(labels) // 2
    assert np.median(errors[found]) < 8.0


def test_chest_landmarks_are_not_claimed_in_a_limb(session: Session, data_dir: Path) -> None:
    folder = data_dir / "dev/ct"
    template, limb = (session.embed(read_volume(folder / f"{n}.nii.gz")) for n in ("lidc_0001_chest", "sts036_ct"))
    matches = session.match(template, read_points(folder / "lidc_0001_chest.mrk.json").positions(), limb)
    assert sum(m.status == "found" for m in matches) <= 1
    assert np.mean([m.status == "absent" for m in matches]) >= 0.75


def test_identity_pairs_are_scored_with_200_points(tmp_path: Path, data_dir: Path) -> None:
    pairs = [
        {"fixed": str(data_dir / "dev/mr/ms01_s1_T1w.nii.gz"), "moving": str(data_dir / "dev/mr/ms01_s1_T2w.nii.gz"), "truth": "identity"}
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    assert main(["evaluate", str(tmp_path / "pairs.json"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    summary = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert summary["n"] == 200
    assert summary["median_mm"] < 10.0
    assert (tmp_path / "out/errors.png").stat().st_size > 10_000


def test_the_python_example_of_the_readme_runs(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in (("a", "lidc_0001_chest"), ("b", "cptac_c3n00247_chest")):
        (tmp_path / f"{name}.nii.gz").symlink_to(data_dir.resolve() / f"dev/ct/{source}.nii.gz")
    monkeypatch.chdir(tmp_path)
    example = README.read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(example, names)
    assert np.isfinite(names["carina"].point_lps).all()
