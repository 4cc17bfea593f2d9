"""Fine-tuning on a handful of own scans: phantoms of two patients, one trained on, one held out."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.release import finetune
from training.release.finetune import canonical_scans, check, unit_scale
from training.scans.scan import read_index
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.preprocess import Intensity, scale_intensity
from UniversalAnatomicalEmbeddingLib.images.volume import write_volume
from UniversalAnatomicalEmbeddingLib.landmarks.points import Point, PointList, write_points
from UniversalAnatomicalEmbeddingLib.models.model import load_model
from UniversalAnatomicalEmbeddingLib.phantom.patient import landmarks, make_patient, render
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|isinstance.treespec|srun|GPU available).*")
SPACING = (4.0, 4.0, 6.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chests of two phantom patients with the landmarks that they show."""
    folder = tmp_path_factory.mktemp("mine")
    for name, seed in (("own", 0), ("held", 1)):
        patient = make_patient(seed)
        affine = np.diag([*SPACING, 1.0])
        affine[:3, 3] = patient.to_patient([(0, 0, -60)])[0] - [80, 68, 54]
        grid = Grid((18, 34, 40), affine)
        write_volume(replace(render(patient, grid), name=name), folder / f"{name}.nii.gz")
        shown = [Point(k, tuple(map(float, p))) for k, p in landmarks(patient) if grid.contains(p)[0]]
        assert len(shown) >= 3
        write_points(PointList(tuple(shown)), folder / f"{name}.mrk.json")
    return folder


def run(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    options = ["--scans", folder, "--out", out, "--steps", 2, "--pairs-per-step", 1, "--max-view", 48, 48, 48, "--device", "cpu", *more]
    monkeypatch.setattr(sys, "argv", ["finetune", *map(str, options)])
    finetune.main()


def test_one_command_trains_measures_and_writes_a_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.safetensors"
    run(folder, out, monkeypatch, "--held-out", "held")
    printed = capsys.readouterr().out
    base, tuned = load_model(), load_model(out)
    assert (tuned.card.id, tuned.card.training["fine_tuned_from"]) == ("mine", base.card.id)
    assert tuned.card.calibration is None, "it was fitted to the other weights"
    assert tuned.card.intensity == base.card.intensity
    figures = tuned.card.accuracy["fine_tuning"]
    assert figures["held_out"] is True
    for when in ("before", "after"):
        assert set(figures[when]) == {"known warp, held-out scans", "landmarks, held-out scans"}
        for what, values in figures[when].items():
            assert values["n"] >= 3
            assert f"{when}: {what}: n {values['n']}, median_mm {values['median_mm']:g}" in printed
    state, start = tuned.network.state_dict(), base.network.state_dict()
    moved = {k for k in start if not torch.equal(state[k], start[k])}
    assert any("project.weight" in k for k in moved)
    assert not any("running" in k for k in moved), "the statistics of the batch norm stay"
    assert [Path(r["path"]).name for r in read_index(tmp_path / "mine_scans" / "index.csv")] == ["own.nii.gz"]


def test_scans_and_names_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    model, volumes = load_model(), canonical_scans(folder)
    assert [v.name for v in volumes] == ["held", "own"]
    assert all(v.grid.spacing_xyz == pytest.approx(2.0) for v in volumes)
    check(model, volumes, ["held"])
    with pytest.raises(InputError, match="No scan is named other; there are held, own"):
        check(model, volumes, ["other"])
    with pytest.raises(InputError, match="All scans are held out"):
        check(model, volumes, ["held", "own"])
    with pytest.raises(InputError, match=r"Some scans are CT, model .* is for MR"):
        check(replace(model, card=replace(model.card, modality=("mr",))), volumes, [])
    with pytest.raises(InputError, match="holds no scan"):
        canonical_scans(tmp_path)


def test_another_intensity_scale_is_the_same_for_the_network() -> None:
    published = Intensity(((-1024.0, -50.0), (3071.0, 205.0)), (0.2, 99.8), (-50.0, 205.0), False)
    unit, (low, high) = unit_scale(published)
    assert (low, high) == (-50, 205)
    rng = np.random.default_rng(0)
    for modality, raw in (("ct", rng.uniform(-1500, 4000, (9, 9, 9))), ("mr", rng.uniform(0, 900, (9, 9, 9)))):
        seen = low + (high - low) * (scale_intensity(raw.astype(np.float32), modality, unit) + 1) / 2
        np.testing.assert_allclose(seen, scale_intensity(raw.astype(np.float32), modality, published), atol=1e-3)
    unchanged, spread = unit_scale(Intensity())
    assert spread == (-1, 1)
    assert np.allclose(unchanged.ct_knots, Intensity().ct_knots)
