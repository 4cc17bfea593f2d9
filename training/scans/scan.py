"""One scan as training uses it, in memory or mapped from disk, and the index that lists all of them."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from UniversalAnatomicalEmbeddingLib.images import (
    PREPROCESS_VERSION,
    Intensity,
    anatomy_voxels,
    read_volume,
    scale_intensity,
)
from UniversalAnatomicalEmbeddingLib.system import InputError, sha256_of

from .labels import LabelTable, load_labels

SEEDS = 20_000
VOXEL_FIELDS = ("image", "body", "labels")
STORE_VERSION = 1


@dataclass(frozen=True)
class Scan:
    """One canonical scan: ``image`` (float16, network scale) and ``body`` ``(Z, Y, X)``, ``seeds`` (n, 3) some body voxels (z, y, x), ``mm_to_index``
    (3, 4).

    ``labels`` ``(Z, Y, X)`` int16 are ids of a :class:`LabelTable`, and ``known``
    (ids + 1,) says which structures are certainly absent where nothing is labelled (:meth:`LabelTable.truth`); both None without labels.
    A ``mapped`` scan keeps its voxels in a file; pages are read when a view needs them. Its positions in the physical ``frame`` that it shares with
    other scans may be off by ``slack_mm`` (0: acquired in that frame; more: registered to it).
    """

    name: str
    modality: str
    frame: str
    image: Tensor
    body: Tensor
    seeds: Tensor
    mm_to_index: Tensor
    labels: Tensor | None = None
    known: Tensor | None = None
    mapped: bool = False
    slack_mm: float = 0.0

    def place(self, index_zyx: Tensor) -> Tensor:
        """Patient mm (x, y, z) ``(N, 3)`` of continuous voxel indices (z, y, x) ``(N, 3)``."""
        return torch.linalg.solve(self.mm_to_index[:, :3], (index_zyx.flip(-1) - self.mm_to_index[:, 3]).T).T

    def in_frame(self, frame_to_scan: Tensor, slack_mm: float) -> Scan:
        """The scan in the millimetres of another frame, which the matrix (3, 4) takes to its own: what :mod:`training.align` found."""
        frame = torch.eye(4, dtype=torch.float64)
        frame[:3] = frame_to_scan.double()
        own = torch.eye(4, dtype=torch.float64)
        own[:3] = self.mm_to_index.double()
        return replace(self, mm_to_index=(own @ frame)[:3].float(), slack_mm=slack_mm)

    def voxels_to(self, device: torch.device) -> Scan:
        """The scan with its voxels on a device; its geometry stays, because views are drawn on the CPU, and a mapped scan's voxels stay in their file."""
        voxels = {} if self.mapped else {k: getattr(self, k) for k in VOXEL_FIELDS}
        return replace(self, **{k: v.to(device) for k, v in voxels.items() if v is not None})

    def resident(self) -> Scan:
        """The scan with its voxels in memory."""
        voxels = {k: getattr(self, k) for k in VOXEL_FIELDS}
        return replace(self, mapped=False, **{k: v.clone() for k, v in voxels.items() if v is not None})

    @property
    def nbytes(self) -> int:
        """Memory that the voxels take when resident."""
        return sum(v.nbytes for v in (self.image, self.body, self.labels) if v is not None)


def read_index(path: Path) -> list[dict[str, str]]:
    """Rows of an index file as :mod:`training.prepare` writes it: ``path`` (absolute here), ``modality`` (ct or mr), ``frame``, and where they are
    known ``name``, ``labels`` and ``tissue`` (absolute paths or empty), ``spacing``, ``licence``, ``sha256``, ``source``; of scans registered to a frame
    ``frame_to_scan`` (12 numbers) and ``slack_mm``."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    missing = {"path", "modality", "frame"} - set(rows[0] if rows else {})
    if missing:
        raise ValueError(f"{path} lacks the column(s) {', '.join(sorted(missing))}; make it with 'python -m training.prepare'.")
    places = ("path", "labels", "tissue")
    return [{**row, **{k: str((path.parent / row[k]).resolve()) for k in places if row.get(k)}} for row in rows]


def load_scan(
    path: str,
    modality: str,
    frame: str,
    intensity: Intensity,
    labels: str = "",
    tissue: str = "",
    table: LabelTable | None = None,
    store: Path | None = None,
) -> Scan:
    """Read one canonical 2 mm scan; with a ``table``, its ``labels`` (a label map with a ``.seg.json`` beside it) and rule-made ``tissue`` labels too.

    With a folder ``store`` the arrays are written there once and mapped from then on; otherwise they are in memory.
    """
    used = (path, labels, tissue) if table else (path,)
    if store is None:
        arrays = _arrays(path, modality, intensity, *used[1:], table=table)
    else:
        folder = store / _key(used, modality, intensity, table)
        if not folder.is_dir():
            _write(folder, _arrays(path, modality, intensity, *used[1:], table=table))
        arrays = {f.stem: np.load(f, mmap_mode="c" if f.stem in VOXEL_FIELDS else None) for f in sorted(folder.glob("*.npy"))}
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
    return Scan(name=scan_name(path), modality=modality, frame=frame, mapped=store is not None, **tensors)


def load_scans(
    rows: Sequence[dict[str, str]],
    intensity: Intensity,
    table: LabelTable | None = None,
    store: Path | None = None,
    resident_gb: float = 8.0,
) -> list[Scan]:
    """All scans of an index (:func:`read_index`): in memory where they take at most ``resident_gb`` GiB together, else mapped from ``store``.

    InputError where they are too large for the memory and no ``store`` is given.
    """

    def load(row: dict[str, str]) -> Scan:
        where = row["path"], row["modality"], row["frame"]
        return load_scan(*where, intensity, row.get("labels", ""), row.get("tissue", ""), table, store)

    scans, total, most = [], 0, resident_gb * 2**30
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for scan in pool.map(load, rows):
            scans.append(scan)
            total += scan.nbytes
            if store is None and total > most:
                pool.shutdown(cancel_futures=True)
                raise InputError(
                    f"The first {len(scans)} of {len(rows)} scans take more than the {resident_gb:g} GiB allowed in memory. Give a folder 'store' on a "
                    "fast disk to map them from, or allow more with 'resident_gb'."
                )
    return [s.resident() for s in scans] if store is not None and total <= most else scans


def place(scans: list[Scan], device: torch.device, share: float = 0.5) -> list[Scan]:
    """The scans with their voxels on a CUDA ``device`` if they fit into ``share`` of its free memory; otherwise, and for other devices, as they are."""
    if device.type != "cuda" or any(s.mapped for s in scans):
        return scans
    free, _ = torch.cuda.mem_get_info(device)
    return [s.voxels_to(device) for s in scans] if sum(s.nbytes for s in scans) <= share * free else scans


def scan_name(path: str | Path) -> str:
    """File name without extensions."""
    return Path(path).name.split(".")[0]


def _arrays(
    path: str, modality: str, intensity: Intensity, labels: str = "", tissue: str = "", table: LabelTable | None = None
) -> dict[str, np.ndarray]:
    """Arrays of the fields of :class:`Scan`."""
    volume = read_volume(path)
    raw = np.asarray(volume.array, dtype=np.float32)
    body = anatomy_voxels(raw, modality, float(volume.grid.spacing_xyz[0]))
    voxels = np.argwhere(body)
    arrays = {
        "image": scale_intensity(raw, modality, intensity).astype(np.float16),
        "body": body,
        "seeds": voxels[:: max(1, len(voxels) // SEEDS)],
        "mm_to_index": np.linalg.inv(volume.grid.affine)[:3].astype(np.float32),
    }
    if table and (labels or tissue):
        arrays["labels"], arrays["known"] = load_labels(labels, tissue, volume.grid, table)
    return arrays


def _key(paths: Sequence[str], modality: str, intensity: Intensity, table: LabelTable | None) -> str:
    """Changes whenever the arrays would."""
    files = [(p, os.stat(p).st_size, os.stat(p).st_mtime_ns) for p in paths if p]
    described = [STORE_VERSION, PREPROCESS_VERSION, files, modality, vars(intensity), table.fingerprint if table else ""]
    return f"{scan_name(paths[0])}-{sha256_of([json.dumps(described)])[:16]}"


def _write(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """The folder appears complete or not at all, also where several processes write it at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        for name, array in arrays.items():
            np.save(staged / f"{name}.npy", array)
        with contextlib.suppress(OSError):  # another process was faster, and its folder has the same content
            os.replace(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
