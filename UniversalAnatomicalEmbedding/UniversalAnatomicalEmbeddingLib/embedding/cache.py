"""Embeddings kept on disk, found again by what they were made from.

One folder per embedding, named by the hash of the voxels, the geometry, the model and the preprocessing. Its arrays are plain ``.npy`` files that are
memory-mapped; ``meta.json`` names them with their checksums. Anything that does not agree with it is deleted and made anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..images.grid import Grid
from ..images.preprocess import PREPROCESS_VERSION
from ..images.volume import Volume
from ..models.model import ModelCard
from ..system.files import sha256_of, user_folder
from .embedding import Embedding

ARRAYS = ("fine", "coarse", "search_space", "anatomy")
DEFAULT_CAP_BYTES = 20 * 2**30
_KEY = re.compile("[0-9a-f]{40}")


def default_folder() -> Path:
    """``$UAE_CACHE``, or ``uae`` in the user's cache folder."""
    return Path(os.environ.get("UAE_CACHE") or user_folder("cache")).expanduser()


def cache_key(volume: Volume, card: ModelCard, weights: str = "") -> str:
    """Hash of everything an embedding depends on; ``weights`` is the model's :attr:`Model.fingerprint`."""
    array = volume.array
    described = [
        str(array.dtype),
        array.shape,
        volume.grid.affine.tobytes().hex(),
        volume.modality,
        card.to_json(),
        weights,
        PREPROCESS_VERSION,
    ]
    return sha256_of([array, json.dumps(described)])[:40]


@dataclass(frozen=True)
class Cache:
    """A folder of embeddings; the least recently used are removed when it exceeds ``cap_bytes``."""

    folder: Path
    cap_bytes: int = DEFAULT_CAP_BYTES

    def load(self, key: str, name: str) -> Embedding | None:
        """The stored embedding under the name of its scan, or None; a damaged entry is removed."""
        entry = self.folder / key
        if not entry.is_dir():
            return None
        try:
            embedding = _read(entry, key, name)
        except Exception:  # whatever a damaged file makes its reader raise, the answer is to embed again
            shutil.rmtree(entry, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(entry)
        return embedding

    def store(self, key: str, embedding: Embedding) -> None:
        """Write an entry in one step (temporary folder, then rename) and keep the folder under its cap."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder))
        try:
            _write(partial, key, embedding)
            shutil.rmtree(self.folder / key, ignore_errors=True)
            _publish(partial, self.folder / key)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._remove_unfinished()
        self._evict(keep=key)

    def entries(self) -> list[tuple[str, int, float]]:
        """(key, bytes, time last used) of every entry, oldest first."""
        if not self.folder.is_dir():
            return []
        found = []
        for entry in self.folder.iterdir():
            if _KEY.fullmatch(entry.name) and (entry / "meta.json").is_file():
                with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                    found.append((entry.name, sum(f.stat().st_size for f in entry.iterdir()), entry.stat().st_mtime))
        return sorted(found, key=lambda e: e[2])

    def clear(self) -> int:
        """Remove every entry; returns how many. Other files in the folder are left alone."""
        entries = self.entries()
        for key, _, _ in entries:
            shutil.rmtree(self.folder / key)
        for unfinished in self.folder.glob(".partial-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        return len(entries)

    def _remove_unfinished(self) -> None:
        """Remove what a killed process left half-written; whatever is younger than an hour may still be growing."""
        for partial in self.folder.glob(".partial-*"):
            with contextlib.suppress(OSError):
                if time.time() - partial.stat().st_mtime > 3600:
                    shutil.rmtree(partial, ignore_errors=True)

    def _evict(self, keep: str) -> None:
        entries = self.entries()
        excess = sum(size for _, size, _ in entries) - self.cap_bytes
        for key, size, _ in entries:
            if excess > 0 and key != keep:
                shutil.rmtree(self.folder / key, ignore_errors=True)
                excess -= size


def _publish(partial: Path, entry: Path) -> None:
    """Give a complete entry its name; one that another process published in the same moment is as good and stays."""
    try:
        partial.replace(entry)
    except OSError:
        if not (entry / "meta.json").is_file():
            raise


def _write(folder: Path, key: str, embedding: Embedding) -> None:
    checksums = {}
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", np.ascontiguousarray(getattr(embedding, name)))
        checksums[name] = _checksum(folder / f"{name}.npy")
    meta = {
        "key": key,
        "checksums": checksums,
        "shape": embedding.grid.shape_zyx,
        "affine": embedding.grid.affine.tolist(),
        "fine_stride": embedding.fine_stride,
        "coarse_stride": embedding.coarse_stride,
        "heads": embedding.heads,
        "model_id": embedding.model_id,
        "pipeline": embedding.pipeline,
        "native": None if embedding.native is None else [embedding.native.shape_zyx, embedding.native.affine.tolist()],
    }
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _read(folder: Path, key: str, name: str) -> Embedding:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if meta["key"] != key:
        raise ValueError("entry of another scan")
    arrays: dict[str, NDArray] = {}
    for array_name in ARRAYS:
        file = folder / f"{array_name}.npy"
        if _checksum(file) != meta["checksums"][array_name]:
            raise ValueError("damaged array")
        arrays[array_name] = np.load(file, mmap_mode="c", allow_pickle=False)
    return Embedding(
        **arrays,
        grid=Grid(tuple(meta["shape"]), np.array(meta["affine"])),
        fine_stride=tuple(meta["fine_stride"]),
        coarse_stride=tuple(meta["coarse_stride"]),
        heads=meta["heads"],
        model_id=meta["model_id"],
        name=name,
        pipeline=meta["pipeline"],
        native=None if meta["native"] is None else Grid(tuple(meta["native"][0]), np.array(meta["native"][1])),
    )


def _checksum(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 24):
            value = zlib.crc32(block, value)
    return value
