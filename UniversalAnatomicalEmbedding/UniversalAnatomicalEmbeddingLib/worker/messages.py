"""What passes between the worker and its client: one JSON object a line, and scans as raw ``.npy`` files beside it."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..images.grid import Grid
from ..images.volume import Volume
from ..system.errors import InputError

FOLDER_PREFIX = "uae-worker-"
STALE_SECONDS = 24 * 3600.0


def encode_line(message: dict[str, Any]) -> str:
    """A message as one line of ASCII; numpy numbers and paths are taken too."""
    return json.dumps(message, default=_plain) + "\n"


def decode_line(line: str) -> dict[str, Any] | None:
    """The message of a line; None for anything else, such as a stray print."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def stage(job: dict[str, Any], folder: Path, number: int) -> dict[str, Any]:
    """The job with every :class:`Volume` in it replaced by a record; its voxels go to ``folder/NUMBER-KEY.npy``, whatever their memory layout."""
    return {key: _stage_volume(value, folder / f"{number}-{key}.npy") if isinstance(value, Volume) else value for key, value in job.items()}


def staged_files(folder: Path, number: int) -> list[Path]:
    """The voxel files of a job."""
    return sorted(folder.glob(f"{number}-*.npy"))


def load_staged(record: Any) -> Volume:
    """The volume of a record made by :func:`stage`. Raises InputError for anything else."""
    try:
        array = np.load(record["array"], allow_pickle=False)
        grid = Grid(array.shape, np.array(record["affine"], dtype=np.float64))
        return Volume(array, grid, record["modality"], record["name"], record["header"], record["rescaled"])
    except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
        raise InputError(f"The scan handed to the worker cannot be read ({error}). Submit the job again.") from error


def make_folder() -> Path:
    """A new private folder for voxel files; folders that nobody has used for a day are removed."""
    remove_stale_folders(Path(tempfile.gettempdir()))
    return Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))


def remove_stale_folders(parent: Path) -> None:
    """Remove voxel files of clients that ended without cleaning up (killed together with their worker, power cut)."""
    for folder in parent.glob(f"{FOLDER_PREFIX}*"):
        try:
            newest = max(f.stat().st_mtime for f in (folder, *folder.iterdir()))
        except OSError:  # it was just removed, or belongs to somebody else
            continue
        if time.time() - newest > STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _stage_volume(volume: Volume, file: Path) -> dict[str, Any]:
    np.save(file, np.ascontiguousarray(volume.array), allow_pickle=False)
    stated = {"modality": volume.modality, "name": volume.name, "header": volume.header, "rescaled": volume.rescaled}
    return {"array": str(file), "affine": volume.grid.affine.tolist(), **stated}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be sent to the worker")
