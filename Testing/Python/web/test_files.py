"""Nothing outside the root is reached, nothing of an upload survives, nothing too large is stored."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from samples import tissue_volume

from UniversalAnatomicalEmbeddingLib.images.volume import read_volume, write_volume
from UniversalAnatomicalEmbeddingLib.system.errors import InputError
from UniversalAnatomicalEmbeddingWeb.files import HEADER_BYTES, Root, Uploads, clean_name, require_self_contained

BATCH = "abcdef12"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with scans, beside a secret; links lead out in three ways."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "other.nii.gz").write_bytes(b"other patient")
    root = tmp_path / "root"
    (root / "study" / "series").mkdir(parents=True)
    (root / "study" / "scan.nii.gz").write_bytes(b"scan")
    (root / "study" / "notes.txt").write_bytes(b"no scan")
    (root / "study" / ".hidden.nii").write_bytes(b"no scan")
    (root / "study" / "series" / "IM1").write_bytes(b"dicom")
    (root / "inside.nii.gz").symlink_to(root / "study" / "scan.nii.gz")
    (root / "outside.nii.gz").symlink_to(tmp_path / "secret" / "other.nii.gz")
    (root / "way_out").symlink_to(tmp_path / "secret")
    (root / "loop").symlink_to(root / "loop")
    return root


def test_a_listing_shows_folders_then_scans_and_nothing_that_leads_out(tree: Path) -> None:
    root = Root(tree)
    assert [(e.path, e.is_folder) for e in root.list()] == [("study", True), ("inside.nii.gz", False)]
    assert [(e.path, e.is_folder) for e in root.list("study")] == [("study/series", True), ("study/scan.nii.gz", False)]


@pytest.mark.parametrize(
    "path",
    ["../secret/other.nii.gz", "study/../../secret/other.nii.gz", "..\\secret\\other.nii.gz", "/etc/passwd", "outside.nii.gz", "way_out/other.nii.gz",
     "way_out", "loop", "missing.nii", "study/\0", "..", "../root2"],
)  # fmt: skip
def test_no_path_leads_out(tree: Path, path: str) -> None:
    (tree.parent / "root2").mkdir()
    for reach in (Root(tree).find, Root(tree).scan, Root(tree).list):
        with pytest.raises(InputError, match="There is no"):
            reach(path)


def test_what_lies_inside_is_found_through_links_too(tree: Path) -> None:
    root = Root(tree)
    assert root.scan("inside.nii.gz") == root.scan("study/scan.nii.gz") == tree / "study" / "scan.nii.gz"
    assert root.scan("study/series") == tree / "study" / "series"


def test_a_series_folder_with_a_link_out_is_refused(tree: Path) -> None:
    (tree / "study" / "series" / "IM2").symlink_to(tree.parent / "secret" / "other.nii.gz")
    with pytest.raises(InputError, match="links that lead out"):
        Root(tree).scan("study/series")


def test_a_root_that_is_no_folder_is_refused(tree: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        Root(tree / "study" / "scan.nii.gz")


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_whole_files_are_self_contained(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"scan{ending}"
    write_volume(tissue_volume((4, 5, 6)), path)
    require_self_contained(path)
    assert read_volume(path).array.shape == (4, 5, 6)


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_a_header_may_name_the_file_beside_it_only(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"scan{ending}"
    write_volume(tissue_volume((4, 5, 6)), path)
    require_self_contained(path)
    data = next(f for f in tmp_path.iterdir() if f != path)
    (tmp_path / "sub").mkdir()
    moved = data.rename(tmp_path / "sub" / data.name)
    for named in (f"sub/{data.name}", str(moved), f"../{tmp_path.name}/sub/{data.name}", "LIST", "scan%03d.raw 1 9 1"):
        text = path.read_bytes().replace(data.name.encode(), named.encode())
        (tmp_path / f"evil{ending}").write_bytes(text)
        with pytest.raises(InputError, match="in another file"):
            require_self_contained(tmp_path / f"evil{ending}")
    data.symlink_to(moved)
    with pytest.raises(InputError, match="in another file"):
        require_self_contained(path)


def test_a_secret_cannot_be_read_through_an_attached_header(tmp_path: Path) -> None:
    """The attack itself: an uploaded .mha whose header points at somebody else's voxels, which ITK would follow."""
    secret = tmp_path / "secret.raw"
    secret.write_bytes(np.arange(60, dtype=np.int16).tobytes())
    evil = tmp_path / "upload" / "scan.mha"
    evil.parent.mkdir()
    fields = "ObjectType = Image\nNDims = 3\nDimSize = 3 4 5\nElementType = MET_SHORT\n"
    evil.write_text(f"{fields}ElementDataFile = {secret}\n")
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(evil))).max() == 59
    with pytest.raises(InputError, match="in another file"):
        require_self_contained(evil)


def test_a_header_that_hides_its_field_behind_padding_is_refused(tmp_path: Path) -> None:
    for name, text in (("a.mha", "Comment = x\n"), ("b.nrrd", "# x\n")):
        (tmp_path / name).write_text("NRRD0004\n" + text * (HEADER_BYTES // len(text) + 1))
        with pytest.raises(InputError, match="in another file"):
            require_self_contained(tmp_path / name)


@pytest.mark.parametrize(
    ("given_name", "stored"),
    [("scan.nii.gz", "scan.nii.gz"), ("../../etc/passwd", "passwd"), ("C:\\scans\\a b.nrrd", "a b.nrrd"), (".hidden.nii", "hidden.nii"),
     ("con.nii", "_con.nii"), ("a<b>:|?*.mha", "a_b_____.mha"), ("Schädel.nii", "Schädel.nii"), ("ﬁle.nii", "file.nii"), ("IM0001", "IM0001")],
)  # fmt: skip
def test_names_are_cleaned(given_name: str, stored: str) -> None:
    assert clean_name(given_name) == stored


@given(st.text(max_size=300))
def test_no_name_reaches_out_of_its_folder(name: str) -> None:
    try:
        clean = clean_name(name)
    except InputError:
        return
    assert clean not in ("", ".", "..") and not set(clean) & set('/\\\0:*?"<>|\n') and not clean.startswith(".")
    assert (Path("/folder") / clean).parent == Path("/folder") and len(clean.encode()) <= 110


def test_a_long_name_keeps_its_ending() -> None:
    assert clean_name("x" * 300 + ".nii.gz").endswith("x.nii.gz") and len(clean_name("ä" * 300 + ".nii.gz").encode()) <= 110


async def _parts(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def _receive(uploads: Uploads, name: str, *parts: bytes, batch: str = BATCH, announced: int | None = None) -> Path:
    return asyncio.run(uploads.receive(batch, name, announced, _parts(*parts)))


def test_an_upload_is_stored_whole_and_gone_at_the_end() -> None:
    uploads = Uploads(100)
    path = _receive(uploads, "../a.nii", b"one", b"two")
    assert path.read_bytes() == b"onetwo" and path.parent.parent == uploads.folder
    assert os.stat(uploads.folder).st_mode & 0o077 == 0
    assert uploads.scans(BATCH) == [path]
    uploads.close()
    assert not uploads.folder.exists()


def test_a_batch_of_unknown_files_is_one_series() -> None:
    uploads = Uploads(100)
    first, second = (_receive(uploads, f"{folder}/IM1", b"x") for folder in "ab")
    assert first.name != second.name and uploads.scans(BATCH) == [first.parent]
    uploads.close()


def test_too_much_is_refused_before_and_while_it_is_sent_and_leaves_nothing() -> None:
    uploads = Uploads(10)
    with pytest.raises(InputError, match="larger than"):
        _receive(uploads, "a.nii", b"", announced=11)
    assert list(uploads.folder.iterdir()) == []
    with pytest.raises(InputError, match="larger than"):
        _receive(uploads, "a.nii", b"123456", b"78901")
    assert list((uploads.folder / BATCH).iterdir()) == []
    _receive(uploads, "a.nii", b"1234567890")
    with pytest.raises(InputError, match="larger than"):
        _receive(uploads, "b.nii", b"1", batch="other123")
    uploads.discard(BATCH)
    _receive(uploads, "b.nii", b"1", batch="other123")
    uploads.close()


@pytest.mark.parametrize("batch", ["", "../x", "ABCDEFGH", "short", "a" * 33, "abcdefgh/../x"])
def test_a_batch_has_a_plain_number(batch: str) -> None:
    uploads = Uploads(10)
    with pytest.raises(InputError, match="number"):
        _receive(uploads, "a.nii", b"x", batch=batch)
    uploads.close()


def test_an_empty_batch_says_what_is_needed() -> None:
    uploads = Uploads(10)
    with pytest.raises(InputError, match="No file arrived"):
        uploads.scans(BATCH)
    uploads.close()
