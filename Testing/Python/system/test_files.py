"""Folders for results: made where they are missing, refused where nothing can be written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from UniversalAnatomicalEmbeddingLib.system import files as module
from UniversalAnatomicalEmbeddingLib.system.errors import InputError
from UniversalAnatomicalEmbeddingLib.system.files import writable_folder


def test_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    made = writable_folder(tmp_path / "new" / "folder", "--out")
    assert made.is_dir() and list(made.iterdir()) == []


def test_what_a_folder_holds_stays(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    assert writable_folder(tmp_path, "--out") == tmp_path
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("below", ["", "folder"])
def test_file_in_the_way_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.txt.*another one with --out"):
        writable_folder(tmp_path / "a.txt" / below, "--out")


def test_folder_that_can_only_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(module.tempfile, "TemporaryFile", refuse)
    with pytest.raises(InputError, match=rf"{tmp_path.name} \(Read-only file system\).*--cache"):
        writable_folder(tmp_path, "--cache")
