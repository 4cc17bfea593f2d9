"""Files complete or not at all; checksums; folders for results, refused where nothing can be written."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import platformdirs.windows
import pytest
from platformdirs.macos import MacOS
from platformdirs.unix import Unix
from platformdirs.windows import Windows

from UniversalAnatomicalEmbeddingLib.system import files as module
from UniversalAnatomicalEmbeddingLib.system.errors import InputError
from UniversalAnatomicalEmbeddingLib.system.files import sha256, sha256_of, user_folder, writable_folder, write_atomically


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


def test_a_file_appears_complete_under_its_own_name_with_the_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    with write_atomically(path) as staged:
        staged.write_bytes(b"half")
        assert staged.name == path.name and staged.parent.parent == tmp_path and not path.exists()
        staged.write_bytes(b"all of it")
    (tmp_path / "plain").write_bytes(b"")
    assert path.read_bytes() == b"all of it"
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain", path.name]


def test_after_an_error_the_old_file_stays_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old", encoding="utf-8")

    def fail() -> None:
        with write_atomically(path) as staged:
            staged.write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_a_header_speaks_of_is_there_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    replace = os.replace
    monkeypatch.setattr(module.os, "replace", lambda a, b: (moved.append(Path(b).name), replace(a, b)))
    with write_atomically(tmp_path / "a.mhd") as staged:
        for name in ("z.raw", "a.mhd", "a.raw"):
            (staged.parent / name).write_bytes(b"x")
    assert sorted(moved[:2]) == ["a.raw", "z.raw"] and moved[2] == "a.mhd"


def test_nothing_is_written_to_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "missing" / "a"):
        pytest.fail("was entered")


def test_checksums_are_the_standard_ones(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "abc") == sha256_of(["a", b"b", np.frombuffer(b"c", np.uint8)]) == known


@pytest.mark.parametrize("order", [lambda a: a, np.asfortranarray, lambda a: a[::-1, :, ::2], lambda a: a[0, 0, 0]])
def test_elements_are_hashed_in_the_order_of_their_indices(order: Callable[[np.ndarray], np.ndarray]) -> None:
    array = np.asarray(order(np.arange(24, dtype=np.float16).reshape(2, 3, 4)))
    assert sha256_of([array]) == hashlib.sha256(array.tobytes()).hexdigest()


def test_no_other_file_hashes_or_moves_a_part_to_its_place_by_itself() -> None:
    """The cache, whose entries are folders; a scan of the training, likewise; a download, which goes on with its part."""
    repository = Path(__file__).resolve().parents[3]
    own = [*(repository / "UniversalAnatomicalEmbedding").rglob("*.py"), *(repository / "training").rglob("*.py")]
    found = {p.name for p in own if re.search(r"hashlib|os\.replace|partial\.replace|mkstemp", p.read_text(encoding="utf-8"))}
    assert found == {"files.py", "cache.py", "scan.py", "download.py"}


HOMES = {"linux": Unix, "darwin": MacOS, "win32": Windows}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("plain")
def test_folders_of_the_user_on_linux_are_those_of_the_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_folder("cache") == Path.home() / ".cache" / "uae"
    assert user_folder("data") == Path.home() / ".local" / "share" / "uae"
    monkeypatch.setenv("XDG_DATA_HOME", "/some/data")
    assert user_folder("data") == Path("/some/data/uae")


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("system", HOMES)
@pytest.mark.parametrize("kind", get_args(module.Kind))
@pytest.mark.parametrize("moved", [False, True])
def test_folders_are_the_same_where_platformdirs_is_missing(
    monkeypatch: pytest.MonkeyPatch, system: str, kind: module.Kind, moved: bool
) -> None:
    """A Slicer that gets the package later must find its models and embeddings again."""
    if moved:
        for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
            monkeypatch.setenv(name, f"/some/{name}")
    local = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    monkeypatch.setattr(platformdirs.windows, "get_win_folder", lambda name: local)
    monkeypatch.setattr(platformdirs, "PlatformDirs", HOMES[system])
    monkeypatch.setattr(sys, "platform", system)
    there = user_folder(kind)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert user_folder(kind) == there and there.name == "uae"


def test_only_one_place_knows_platformdirs() -> None:
    repository = Path(__file__).resolve().parents[3]
    found = {p.name for p in (repository / "UniversalAnatomicalEmbedding").rglob("*.py") if "import PlatformDirs" in p.read_text(encoding="utf-8")}
    assert found == {"files.py"}
