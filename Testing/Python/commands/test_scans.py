"""Scans on the command line: which is read, what it is taken for, and what ``uae info`` shows."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_series
from samples import tiny_model

from UniversalAnatomicalEmbeddingLib.commands.main import main
from UniversalAnatomicalEmbeddingLib.commands.scans import identified, read, scan
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume, write_volume
from UniversalAnatomicalEmbeddingLib.models.model import save_model

OWN, MR = Namespace(modality="auto"), Namespace(modality="mr")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A block of soft tissue in air and a file that is cut short."""
    folder = tmp_path_factory.mktemp("scans")
    array = np.full((48, 44, 40), -1000, np.int16)
    array[4:-4, 4:-4, 4:-4] = np.random.default_rng(1).normal(40, 20, (40, 36, 32)).round()
    affine = np.diag([2.0, 2.5, 3.0, 1.0])
    affine[:3, 3] = [30.0, -12.0, 250.0]
    write_volume(Volume(array, Grid(array.shape, affine)), folder / "b.nii.gz")
    (folder / "broken.nrrd").write_bytes(b"NRRD0004\n# cut short")
    return folder


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    error = capsys.readouterr().err
    assert error.startswith("uae: ") and error.count("\n") == 1, error
    return error


def test_info_tells_name_modality_size_and_geometry(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder / "b.nii.gz")]) == 0
    text = capsys.readouterr().out
    for part in (
        "name        b",
        "modality    CT, guessed",
        "40 x 44 x 48, int16",
        "2 x 2.5 x 3 mm",
        "-1000 .. ",
        "29.0, -13.2, 248.5 .. 109.0, 96.8, 392.5 mm",
        "       0.00000       2.50000       0.00000     -12.00000\n",
    ):
        assert part in text
    assert main(["info", str(folder / "b.nii.gz"), "--modality", "mr"]) == 0
    assert "modality    MR, given\n" in capsys.readouterr().out
    assert main(["info", str(folder / "broken.nrrd")]) == 2
    assert "broken.nrrd" in sentence(capsys)


def test_pet_is_refused_in_one_sentence_and_only_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_series(tmp_path / "pet", t0008_0060="PT")
    save_model(tiny_model(), tmp_path / "tiny.safetensors")
    tiny = ["--model", str(tmp_path / "tiny.safetensors"), "--cache", str(tmp_path / "cache")]
    assert main(["embed", str(tmp_path / "pet"), "--device", "cpu", *tiny]) == 2
    assert "series 1 is PET (PT) by its DICOM header" in sentence(capsys)
    assert main(["info", str(tmp_path / "pet")]) == 0
    assert "modality    PET (PT), from the DICOM header" in capsys.readouterr().out


def test_one_series_of_a_folder_is_named_behind_a_hash(tmp_path: Path) -> None:
    """A folder whose own name has one is read as it is."""
    several = tmp_path / "chest#2"
    for uid in ("1.2.826.1", "1.2.826.2"):
        write_series(several / uid, uid=uid)
    assert read(f"{several}#1.2.826.2", OWN).name == "series 2"
    assert read(f"{several}#1.2.826.1", MR).modality == "mr"
    assert read(str(several / "1.2.826.1"), OWN).name == "series 1"


def test_what_a_scan_is_taken_for_is_said_under_the_name_that_it_gets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(folder / "b.nii.gz")
    assert identified(path, OWN).volume.name == "b"
    assert capsys.readouterr().out == ""
    found = scan(path, OWN, "second")
    assert (found.name, found.modality) == ("second", "ct")
    assert capsys.readouterr().out == "second: CT, guessed\n"
    assert scan(path, MR).modality == "mr"
    assert capsys.readouterr().out == "b: MR, given\n"
