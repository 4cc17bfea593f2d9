"""Folders of scans become canonical volumes and an index; what cannot be used is refused with its reason; a second run does only what is new."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_files import write_series

from training.prepare import prepare
from training.scans.labels import LabelTable
from training.scans.scan import load_scan, read_index
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.preprocess import Intensity
from UniversalAnatomicalEmbeddingLib.images.volume import Volume, read_volume, write_volume
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

OBLIQUE = np.array([[0, -3.0, 0.2, 40.0], [2.5, 0, 0, -70.0], [0, 0.3, 4.0, 300.0], [0, 0, 0, 1]])


def body(shape: tuple[int, int, int] = (24, 40, 36), seed: int = 0, air: float = -1000.0) -> np.ndarray:
    """A block of soft tissue in air, so that it can be told where it lies; x, y and z sides differ."""
    array = np.random.default_rng(seed).normal(air, 5, shape)
    array[4:-5, 6:-8, 7:-11] = np.random.default_rng(seed + 1).normal(50, 15, (shape[0] - 9, shape[1] - 14, shape[2] - 18))
    return np.rint(array).astype(np.int16)


def write(path: Path, array: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(Volume(array, Grid(array.shape, affine)), path)
    return path


def run(source: Path, out: Path, *options: str) -> list[dict[str, str]]:
    """The command, and the rows of its index."""
    old = sys.argv
    sys.argv = ["prepare", "--source", str(source), "--out", str(out), "--workers", "1", *options]
    try:
        prepare.main()
    finally:
        sys.argv = old
    return read_index(out) if out.exists() and len(out.read_text().splitlines()) > 1 else []


def refusals(out: Path) -> dict[str, str]:
    with out.with_name("refused.csv").open(newline="") as file:
        return {r["name"]: r["reason"] for r in csv.DictReader(file)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict[str, str]]]:
    """A folder with all formats and all kinds of rubbish, prepared."""
    folder, out = tmp_path_factory.mktemp("mixed"), tmp_path_factory.mktemp("out") / "index.csv"
    write(folder / "a.nii.gz", body())
    write(folder / "deep" / "b.nrrd", body(seed=2))
    write(folder / "c.mha", (body(seed=4, air=0) * 0.001 + 0.01).clip(0).astype(np.float32))
    ct = body((20, 60, 70), seed=6)
    write_series(folder / "dicom" / "one", ct, [(0.0, 0.0, 6.0 * k) for k in range(20)])
    write_series(folder / "pet", ct, [(0.0, 0.0, 6.0 * k) for k in range(20)], uid="1.2.9", t0008_0060="PT")
    write(folder / "copy_of_a.nii.gz", body())
    write(folder / "flat.nii.gz", np.zeros((20, 30, 30), np.int16))
    write(folder / "thick.nii.gz", body(), np.diag([2.0, 2.0, 12.0, 1.0]))
    write(folder / "thin.nii.gz", body()[8:12])
    write(folder / "labels.nii.gz", (body() > -500).astype(np.uint8))
    (folder / "broken.nii.gz").write_bytes(b"\x1f\x8b nothing")
    (folder / "notes.txt").write_text("not a scan")
    return folder, out, run(folder, out)


def test_every_format_becomes_a_canonical_volume(mixed: tuple[Path, Path, list[dict[str, str]]]) -> None:
    _, out, rows = mixed
    assert {r["name"]: r["modality"] for r in rows} == {"a": "ct", "deep_b": "ct", "c": "mr", "dicom_one": "ct"}
    for row in rows:
        volume = read_volume(row["path"])
        assert volume.array.dtype == np.int16
        np.testing.assert_allclose(volume.grid.affine[:3, :3], np.diag([2.0] * 3), atol=1e-6)
        assert Path(row["path"]).parent == out.parent / "scans"
        assert len(row["sha256"]) == 64
        assert row["frame"] == row["name"]
    assert next(r for r in rows if r["name"] == "a")["spacing"] == "2.5 3.01 4"


def test_what_was_refused_is_said_with_its_reason(mixed: tuple[Path, Path, list[dict[str, str]]]) -> None:
    reasons = refusals(mixed[1])
    expected = {
        "copy-of-a": "same image as a",
        "flat": "all its voxels are equal",
        "thick": "12.0 mm apart",
        "thin": "only 16 mm thick",
        "labels": "looks like a label map",
        "broken": "damaged",
        "pet": "PET (PT) by its DICOM header",
    }
    assert reasons.keys() == expected.keys()
    assert {n: words for n, words in expected.items() if words not in reasons[n]} == {}


def test_tissue_stays_where_it_is_in_the_patient(mixed: tuple[Path, Path, list[dict[str, str]]]) -> None:
    folder, _, rows = mixed
    original = read_volume(folder / "a.nii.gz")
    found = read_volume(next(r["path"] for r in rows if r["name"] == "a"))
    for index, hu in (([12.0, 20.0, 15.0], 50), ([12, 20, 8], 50), ([12, 20, 5], -1000), ([17, 30, 23], 50), ([20, 34, 24], -1000)):
        point = original.grid.index_to_world([index])
        z, y, x = np.rint(found.grid.world_to_index(point)[0]).astype(int)
        near = found.array[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2]
        assert abs(float(np.median(near)) - hu) < 120, index


def test_small_mr_numbers_are_not_rounded_away(mixed: tuple[Path, Path, list[dict[str, str]]]) -> None:
    rows = mixed[2]
    assert len(np.unique(read_volume(next(r["path"] for r in rows if r["name"] == "c")).array)) > 100


def test_flat_air_is_cropped_but_not_what_is_within_12_mm_of_the_patient(tmp_path: Path) -> None:
    write(tmp_path / "in" / "wide.nii.gz", np.pad(body(), 40, constant_values=-1000))
    (row,) = run(tmp_path / "in", tmp_path / "out" / "index.csv", "--licence", "CC BY 4.0")
    scan = read_volume(row["path"])
    patient = scan.grid.index_to_world(np.argwhere(scan.array > -500))
    tight = np.ptp(patient, axis=0) + 2
    room = np.array(scan.array.shape)[::-1] * 2 - tight
    assert (room >= 2 * 12).all() and (room <= 2 * 24).all()


def test_a_second_run_does_only_what_is_new_or_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "in", tmp_path / "out" / "index.csv"
    write(folder / "a.nii.gz", body())
    write(folder / "b.nii.gz", body(seed=2))
    first = run(folder, out, "--licence", "CC BY 4.0")
    capsys.readouterr()
    assert run(folder, out, "--licence", "CC BY 4.0") == first
    assert "[1/" not in capsys.readouterr().out
    write(folder / "b.nii.gz", body(seed=3))
    write(folder / "c.nii.gz", body(seed=5))
    (out.parent / "scans" / "a.tissue.nii.gz").unlink()
    rows = run(folder, out, "--licence", "CC BY 4.0")
    assert "[3/3]" in capsys.readouterr().out
    assert {r["name"] for r in rows} == {"a", "b", "c"}
    assert {r["licence"] for r in rows} == {"CC BY 4.0"}
    other = {r["name"]: r["sha256"] for r in first}
    assert [r["sha256"] == other.get(r["name"]) for r in rows] == [True, False, False]


def test_several_data_sets_go_into_one_index(tmp_path: Path) -> None:
    for dataset, seed in (("one", 0), ("two", 4)):
        write(tmp_path / dataset / "scan.nii.gz", body(seed=seed))
        rows = run(tmp_path / dataset, tmp_path / "out" / "index.csv", "--dataset", dataset)
    assert [r["name"] for r in rows] == ["one_scan", "two_scan"]


def test_several_processes_do_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder / "a.nii.gz", body())
    write(folder / "b.nii.gz", np.zeros((20, 30, 30), np.int16))
    single = run(folder, tmp_path / "one" / "index.csv")
    parallel = run(folder, tmp_path / "two" / "index.csv", "--workers", "2")
    assert [r["sha256"] for r in parallel] == [r["sha256"] for r in single]
    assert refusals(tmp_path / "two" / "index.csv") == refusals(tmp_path / "one" / "index.csv") != {}


# --- layouts --------------------------------------------------------------------------------------------------------------------------


def known_voxel(row: dict[str, str], grid: Grid, index: list[float]) -> tuple[str, set[str]]:
    """Name of the label at an index of the original grid, and the structures that the source knows, in a loaded scan."""
    table = LabelTable.read()
    scan = load_scan(row["path"], row["modality"], row["frame"], Intensity(), row["labels"], row["tissue"], table)
    at = torch.from_numpy(grid.index_to_world([index])[0]).float()
    x, y, z = (scan.mm_to_index[:, :3] @ at + scan.mm_to_index[:, 3]).round().long().tolist()
    number = int(scan.labels[z, y, x])
    names = {s.name for s, k in zip(table.structures, scan.known[1:].tolist(), strict=True) if k}
    return (table.structures[number - 1].name if number > 0 else str(number)), names


def test_totalsegmentator_one_file_per_organ(tmp_path: Path) -> None:
    array, grid = body(), Grid((24, 40, 36), OBLIQUE)
    write(tmp_path / "s0001" / "ct.nii.gz", array)
    for name, z in (("liver", 8), ("spleen", 14), ("colon", 0)):
        mask = np.zeros(array.shape, np.uint8)
        mask[z : z + 4 if z else z, 8:30, 9:22] = 1
        write(tmp_path / "s0001" / "segmentations" / f"{name}.nii.gz", mask)
    for options in ([], ["--scans", "{name}/ct.nii.gz", "--labels", "{name}/segmentations/*.nii.gz"]):
        [row] = run(tmp_path, tmp_path / f"out{len(options)}" / "index.csv", *options)
        assert row["name"] == ("s0001" if options else "s0001_ct")
        assert known_voxel(row, grid, [9.5, 20, 15]) == ("liver", {"liver", "spleen", "colon"})
        assert known_voxel(row, grid, [15.5, 20, 15])[0] == "spleen"


def test_amos_label_maps_with_a_dataset_file(tmp_path: Path) -> None:
    array, grid = body(), Grid((24, 40, 36), OBLIQUE)
    labels = np.zeros(array.shape, np.uint8)
    labels[8:12, 8:30, 9:22], labels[14:18, 8:30, 9:22] = 2, 8
    write(tmp_path / "imagesTr" / "amos_0001.nii.gz", array)
    write(tmp_path / "labelsTr" / "amos_0001.nii.gz", labels)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "2": "right kidney", "8": "arota", "9": "postcava"}}))
    options = ["--scans", "imagesTr/{name}.nii.gz", "--labels", "labelsTr/{name}.nii.gz", "--table", str(tmp_path / "dataset.json")]
    [row] = run(tmp_path, tmp_path / "out" / "index.csv", *options)
    assert known_voxel(row, grid, [9.5, 20, 15]) == ("kidney_right", {"kidney_right", "aorta", "inferior_vena_cava"})
    assert known_voxel(row, grid, [15.5, 20, 15])[0] == "aorta"


def test_a_label_that_the_table_lacks_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in" / "a.nii.gz", body())
    write(tmp_path / "in" / "a.seg.nii.gz", (body() > -500).astype(np.uint8))
    (tmp_path / "in" / "a.seg.json").write_text('{"1": "GTV_Mass"}')
    run(tmp_path / "in", tmp_path / "out" / "index.csv")
    assert "label 'GTV_Mass' is not in training/scans/labels.csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("array", "modality", "words"),
    [(body(air=0), "ct", "no Hounsfield units"), (body() + 1024, "ct", "no Hounsfield units"), (body(), "ct", ""), (body(air=0), "mr", "")],
)
def test_ct_without_hounsfield_units_is_refused(array: np.ndarray, modality: str, words: str) -> None:
    volume = Volume(array, Grid(array.shape, OBLIQUE))
    if not words:
        return prepare.check(volume, modality)
    with pytest.raises(InputError, match=words):
        prepare.check(volume, modality)


# --- canonical scans with INDEX.csv ---------------------------------------------------------------------------------------------------


def test_canonical_scans_are_indexed_where_they_lie(tmp_path: Path) -> None:
    source, out = tmp_path / "data", tmp_path / "runs" / "index.csv"
    canonical = np.diag([2.0, 2.0, 2.0, 1.0])
    for n, (modality, name) in enumerate((("ct", "sts001_ct"), ("ct", "sts002_ct"), ("mr", "sts002_mrT1"), ("ct", "sts003_ct"))):
        array = body((32, 40, 36), seed=n, air=-1000 if modality == "ct" else 0)
        write(source / "train" / modality / f"{name}.nii.gz", array, OBLIQUE if "003" in name else canonical)
    write(source / "train" / "ct" / "sts001_ct.seg.nii.gz", (body((32, 40, 36)) > -500).astype(np.uint8), canonical)
    (source / "train" / "ct" / "sts001_ct.seg.json").write_text('{"1": "liver"}')
    lines = ["sts001_ct,train,CT,MIT", "sts002_ct,train,CT,MIT", "sts002_mrT1,train,MR,BSD", "sts003_ct,train,CT,MIT", "x_ct,dev,CT,MIT"]
    (source / "INDEX.csv").write_text("\n".join(["name,split,modality,licence", *lines]) + "\n")
    pairs = [{"fixed": f"ct/{n}_ct.nii.gz", "moving": "", "mi_shift_mm": mm} for n, mm in (("sts001", 8.1), ("sts002", 8.0))]
    (source / "train" / "ctmr_pairs.json").write_text(json.dumps(pairs))
    rows = run(source, out)
    found = [(r["modality"], r["frame"], r["licence"], bool(r["tissue"])) for r in rows]
    assert found == [("ct", "sts001_ct", "MIT", True), ("ct", "sts002", "MIT", True), ("mr", "sts002", "BSD", False)]
    assert rows[2]["path"] == str(source / "train" / "mr" / "sts002_mrT1.nii.gz")
    assert rows[0]["labels"] == str(source / "train" / "ct" / "sts001_ct.seg.nii.gz")
    assert known_voxel(rows[0], Grid((32, 40, 36), canonical), [16, 20, 15]) == ("liver", {"liver"})
    assert "not 2 mm cubes" in refusals(out)["sts003_ct"]
    with out.open(newline="") as file:
        assert not any(Path(r["path"]).is_absolute() for r in csv.DictReader(file)), "so that the folder can move"
