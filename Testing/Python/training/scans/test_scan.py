"""Scans in memory or mapped from disk: the same numbers, read only where they are needed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from training.batches.augment import Augmentation, cut_view, draw_view
from training.batches.sampling import in_body
from training.scans.labels import LabelTable
from training.scans.scan import Scan, load_scan, load_scans, place, read_index
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.preprocess import Intensity
from UniversalAnatomicalEmbeddingLib.images.volume import Volume, read_volume, write_volume
from UniversalAnatomicalEmbeddingLib.models import model as catalogue
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

AFFINE = np.array([[2.0, 0, 0, -20], [0, 2, 0, 10], [0, 0, 2, 700], [0, 0, 0, 1]])
TABLE = LabelTable.read()


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, str]]:
    """Two scans; the first with labels."""
    rng = np.random.default_rng(0)
    found = []
    for name in ("one", "two"):
        array = np.full((40, 44, 48), -1000, np.int16)
        array[5:35, 6:38, 7:41] = rng.integers(-60, 300, (30, 32, 34))
        write_volume(Volume(array, Grid(array.shape, AFFINE)), tmp_path / f"{name}.nii.gz")
        found.append({"path": str(tmp_path / f"{name}.nii.gz"), "modality": "ct", "frame": name, "labels": "", "tissue": ""})
    labels = np.zeros((40, 44, 48), np.uint8)
    labels[10:20, 10:20, 10:20] = 3
    write_volume(Volume(labels, Grid(labels.shape, AFFINE)), tmp_path / "one.seg.nii.gz")
    (tmp_path / "one.seg.json").write_text(json.dumps({"3": "liver"}))
    found[0]["labels"] = str(tmp_path / "one.seg.nii.gz")
    return found


def same(a: Scan, b: Scan) -> bool:
    tensors = [(getattr(a, n), getattr(b, n)) for n in vars(a) if n != "mapped"]
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in tensors)


def test_mapped_and_resident_scans_have_the_same_numbers(rows: list[dict[str, str]], tmp_path: Path) -> None:
    store = tmp_path / "store"
    memory = load_scans(rows, Intensity(), TABLE)
    mapped = load_scans(rows, Intensity(), TABLE, store, resident_gb=0)
    again = load_scans(rows, Intensity(), TABLE, store)
    assert [s.mapped for s in (*memory, *mapped, *again)] == [False, False, True, True, False, False]
    for a, b, c in zip(memory, mapped, again, strict=True):
        assert same(a, b)
        assert same(a, c)
    assert memory[0].name == "one"
    assert memory[0].labels[15, 15, 15] == TABLE.id_of("liver")
    assert memory[0].labels[25, 25, 25] == 0
    assert memory[0].known[TABLE.id_of("liver")]
    assert memory[1].labels is memory[1].known is None
    assert not list(store.glob(".writing-*"))


def test_a_view_of_a_mapped_scan_is_that_of_the_resident_one(rows: list[dict[str, str]], tmp_path: Path) -> None:
    a = load_scan(rows[0]["path"], "ct", "f", Intensity())
    b = load_scan(rows[0]["path"], "ct", "f", Intensity(), store=tmp_path / "store")
    v = draw_view(torch.tensor([25.0, 50.0, 740.0]), (16, 32, 16), True, Augmentation(), Generator().manual_seed(0))
    assert torch.equal(cut_view(a.image, a.mm_to_index, v), cut_view(b.image, b.mm_to_index, v))
    points = torch.tensor([[20.0, 50.0, 740.0], [-19.0, 11.0, 701.0], [900.0, 0.0, 0.0]])
    assert in_body(b, points).tolist() == in_body(a, points).tolist() == [True, False, False]


def test_the_store_is_made_once_and_anew_when_something_changed(rows: list[dict[str, str]], tmp_path: Path) -> None:
    store = tmp_path / "store"
    load_scans(rows, Intensity(), TABLE, store)
    first = {p: p.stat().st_mtime_ns for p in store.iterdir()}
    load_scans(rows, Intensity(), TABLE, store)
    assert {p: p.stat().st_mtime_ns for p in store.iterdir()} == first
    other = load_scans(rows, replace(Intensity(), ct_knots=((-1000.0, -1.0), (1000.0, 1.0))), TABLE, store)
    assert len(list(store.iterdir())) == 2 * len(first)
    assert float(other[0].image[20, 20, 20]) == pytest.approx(float(np.float16(read_hu(rows[0])[20, 20, 20] / 1000)), abs=1e-3)


def read_hu(row: dict[str, str]) -> np.ndarray:

    return read_volume(row["path"]).array


def test_scans_that_do_not_fit_need_a_store(rows: list[dict[str, str]]) -> None:
    size = load_scan(rows[1]["path"], "ct", "f", Intensity()).nbytes
    assert size == 40 * 44 * 48 * (2 + 1)
    assert len(load_scans(rows, Intensity(), resident_gb=2.01 * size / 2**30)) == 2
    with pytest.raises(InputError, match="Give a folder 'store'"):
        load_scans(rows, Intensity(), resident_gb=1.5 * size / 2**30)


def test_mapped_voxels_stay_in_their_file(rows: list[dict[str, str]], tmp_path: Path) -> None:
    mapped = load_scan(rows[0]["path"], "ct", "f", Intensity(), rows[0]["labels"], "", TABLE, tmp_path / "store")
    for scan, expected in ((mapped, "cpu"), (mapped.resident(), "meta")):
        moved = scan.voxels_to(torch.device("meta"))
        assert {getattr(moved, n).device.type for n in ("image", "body", "labels")} == {expected}
        assert {getattr(moved, n).device.type for n in ("seeds", "mm_to_index", "known")} == {"cpu"}, "views are drawn there"


def test_scans_are_placed_on_a_gpu_only_if_they_fit(rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    scans = load_scans(rows, Intensity())
    size = sum(s.nbytes for s in scans)
    moved: list[str] = []
    monkeypatch.setattr(Scan, "voxels_to", lambda self, device: moved.append(self.name) or self)
    for free, expected in ((2 * size + 2, ["one", "two"]), (2 * size - 2, [])):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        moved.clear()
        place(scans, torch.device("cuda", 0))
        assert moved == expected
    assert place(scans, torch.device("cpu")) is scans


def test_the_index_gives_absolute_paths_and_keeps_empty_ones(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("path,modality,frame,labels,tissue\nscans/a.nii.gz,ct,a,,../t.nii.gz\n")
    [row] = read_index(tmp_path / "index.csv")
    assert row["path"] == str(tmp_path / "scans" / "a.nii.gz")
    assert row["labels"] == ""
    assert row["tissue"] == str(tmp_path.parent / "t.nii.gz")


def test_the_index_is_read_relative_to_itself(folder: Path) -> None:
    rows = read_index(folder / "index.csv")
    assert [(r["path"], r["modality"], r["frame"]) for r in rows] == [(str(folder / f"scans/{m}.nii.gz"), m, "p") for m in ("ct", "mr")]


def test_an_index_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("path,kind\na.nii.gz,ct\n")
    with pytest.raises(ValueError, match=r"lacks the column\(s\) frame, modality; make it with"):
        read_index(tmp_path / "index.csv")


def test_a_scan_is_loaded_on_the_scale_of_the_network_with_its_geometry(folder: Path) -> None:
    scan = load_scan(str(folder / "scans" / "ct.nii.gz"), "ct", "p", catalogue.Intensity())
    assert (scan.name, scan.image.shape, scan.body.shape) == ("ct", (48, 48, 48), (48, 48, 48))
    assert scan.image.min() >= -1
    assert scan.image.max() <= 1
    assert scan.body[24, 24, 24]
    assert not scan.body[0, 0, 0]
    assert scan.body[tuple(scan.seeds.T)].all()
    corner = read_volume(folder / "scans" / "ct.nii.gz").grid.index_to_world([5, 7, 11])[0]
    index_xyz = scan.mm_to_index[:, :3] @ torch.from_numpy(corner).float() + scan.mm_to_index[:, 3]
    assert index_xyz.tolist() == pytest.approx([11, 7, 5], abs=1e-3)
