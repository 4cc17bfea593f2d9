"""Messages and voxel files between the worker and its client."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from samples import OBLIQUE

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume
from UniversalAnatomicalEmbeddingLib.system.errors import InputError
from UniversalAnatomicalEmbeddingLib.worker.messages import (
    FOLDER_PREFIX,
    STALE_SECONDS,
    decode_line,
    encode_line,
    load_staged,
    make_folder,
    remove_stale_folders,
    stage,
    staged_files,
)

VOXELS = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
LAYOUTS = {
    "plain": VOXELS,
    "fortran": np.asfortranarray(VOXELS),
    "reversed": VOXELS[::-1, :, ::-1],
    "strided": np.repeat(VOXELS, 2, axis=2)[:, :, ::2],
    "big-endian": VOXELS.astype(">f8"),
    "read-only": np.frombuffer(VOXELS.tobytes(), np.int16).reshape(VOXELS.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_scan_comes_out_as_it_went_in(layout: str, tmp_path: Path) -> None:
    volume = Volume(LAYOUTS[layout], Grid((2, 3, 4), OBLIQUE), "mr", "Müller^A")
    job = decode_line(encode_line(stage({"job": "embed", "volume": volume, "device": "cpu"}, tmp_path, 3)))
    assert job is not None
    assert {k: v for k, v in job.items() if k != "volume"} == {"job": "embed", "device": "cpu"}
    back = load_staged(job["volume"])
    np.testing.assert_array_equal(back.array, LAYOUTS[layout])
    assert back.array.dtype == LAYOUTS[layout].dtype
    assert back.grid == volume.grid  # to the last bit: numbers are written with all their digits
    assert (back.modality, back.name) == ("mr", "Müller^A")


def test_files_belong_to_their_job(tmp_path: Path) -> None:
    volume = Volume(VOXELS, Grid((2, 3, 4), np.eye(4)))
    stage({"fixed": volume, "moving": volume}, tmp_path, 1)
    stage({"volume": volume}, tmp_path, 11)
    assert [f.name for f in staged_files(tmp_path, 1)] == ["1-fixed.npy", "1-moving.npy"]


def test_lines_hold_paths_and_numpy_numbers_and_refuse_the_rest() -> None:
    assert decode_line(encode_line({"a": Path("x"), "b": np.float32(0.5), "c": np.int64(3)})) == {"a": "x", "b": 0.5, "c": 3}
    with pytest.raises(TypeError, match="ndarray cannot be sent"):
        encode_line({"a": VOXELS})
    assert "\n" not in encode_line({"a": "two\nlines"})[:-1]


@pytest.mark.parametrize("line", ["", "noise", "[1]", "3", '{"a": ', "[" * 100_000])
def test_other_lines_are_no_messages(line: str) -> None:
    assert decode_line(line) is None


@pytest.mark.parametrize("change", [{"array": "nowhere.npy"}, {"affine": [1, 2]}, {"affine": None}, {"modality": "pet"}])
def test_a_damaged_record_is_refused(change: dict, tmp_path: Path) -> None:
    good = stage({"volume": Volume(VOXELS, Grid((2, 3, 4), np.eye(4)))}, tmp_path, 1)["volume"]
    for record in ({**good, **change}, {k: v for k, v in good.items() if k not in change}, None, "x"):
        with pytest.raises(InputError):
            load_staged(record)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        load_staged({"array": str(tmp_path / "evil.npy"), "affine": np.eye(4).tolist(), "modality": None, "name": "x"})


def test_only_folders_unused_for_a_day_are_removed(tmp_path: Path) -> None:
    def folder(name: str, hours: float, file_hours: float | None = None) -> Path:
        made = tmp_path / name
        made.mkdir()
        if file_hours is not None:
            (made / "1-volume.npy").write_bytes(b"x")
            os.utime(made / "1-volume.npy", (time.time() - file_hours * 3600,) * 2)
        os.utime(made, (time.time() - hours * 3600,) * 2)
        return made

    hours = STALE_SECONDS / 3600
    stale = [folder(f"{FOLDER_PREFIX}a", hours + 1), folder(f"{FOLDER_PREFIX}b", hours + 2, hours + 1)]
    kept = [folder(f"{FOLDER_PREFIX}c", hours - 1), folder(f"{FOLDER_PREFIX}d", hours + 1, 0.1), folder("other", hours + 100)]
    remove_stale_folders(tmp_path)
    assert [f.exists() for f in stale] == [False, False]
    assert [f.exists() for f in kept] == [True, True, True]


def test_a_new_folder_is_private_and_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"{FOLDER_PREFIX}old").mkdir()
    os.utime(tmp_path / f"{FOLDER_PREFIX}old", (1e9, 1e9))
    made = make_folder()
    assert list(tmp_path.iterdir()) == [made]
    if os.name == "posix":
        assert made.stat().st_mode & 0o077 == 0
