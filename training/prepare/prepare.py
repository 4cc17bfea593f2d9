"""Turn a folder of scans into canonical 2 mm volumes and the index that training reads.

Every scan that is done has a small file beside it, so an interrupted run goes on where it was, and a later run takes only what is new or changed.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from UniversalAnatomicalEmbeddingLib.images import (
    PREPROCESS_VERSION,
    Grid,
    Volume,
    approximate_anatomy,
    bounding_box,
    cell_means,
    find_search_space,
    identify,
    read_volume,
    require_3d,
    to_canonical,
    write_volume,
)
from UniversalAnatomicalEmbeddingLib.system import InputError, sha256_of, write_atomically

from ..scans.labels import LabelTable, read_table
from ..scans.tissue import tissue_labels
from .label_files import collect
from .sources import Source, from_folder, from_index, from_patterns

PREPARE_VERSION = 1
SPACING_MM = 2.0
CELL = (2, 2, 2)  # voxels of the cells that the crop is found on, 4 mm
THICKEST_MM = 10.0
SMALLEST_MM = 32.0
SMALLEST_BODY_ML = 50.0
EVEN_SHARE = 0.8
MR_TOP = 4000.0
COLUMNS = ["name", "path", "modality", "frame", "spacing", "labels", "tissue", "licence", "sha256", "source"]

Row = dict[str, str]


def main() -> None:
    """``python -m training.prepare --source FOLDER --out runs/index.csv``; see training/README.md for data sets with labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of scans: NIfTI, NRRD, MetaImage, DICOM")
    parser.add_argument("--out", type=Path, required=True, help="index file to write; the volumes go into the folder 'scans' beside it")
    parser.add_argument("--dataset", default="", help="word that the names of these scans begin with, to tell several data sets apart")
    parser.add_argument("--scans", help="which files or DICOM folders, below --source: 'imagesTr/{name}.nii.gz' (default: all)")
    parser.add_argument(
        "--labels", default="", help="their labels, in the same words: 'labelsTr/{name}.nii.gz', '{name}/segmentations/*.nii.gz'"
    )
    parser.add_argument("--table", type=Path, help="JSON file that names the values of the label maps")
    parser.add_argument(
        "--modality", choices=("ct", "mr"), help="of all these scans (default: DICOM header, otherwise judged by the intensities)"
    )
    parser.add_argument("--licence", default="", help="licence of these scans, for the index")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (about 1 GiB of memory each)")
    args = parser.parse_args()
    try:
        sources = find(args)
        rows, refused = prepare(sources, args.out, args.workers)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    for name, reason in refused:
        print(f"refused {name}: {reason}")
    for name in unknown_names(rows):
        print(f"label '{name}' is not in training/scans/labels.csv: its voxels are ignored; add a row or an alias to use them")
    labelled = sum(bool(r["labels"]) for r in rows)
    print(f"{len(rows)} scans ({labelled} with labels) in {len({r['frame'] for r in rows})} frames -> {args.out}; {len(refused)} refused")


def find(args: argparse.Namespace) -> list[Source]:
    """The scans that the command line asks for. InputError if there is none."""
    if not args.source.is_dir():
        raise InputError(f"{args.source} is no folder. Give the folder that holds the scans.")
    if args.scans:
        sources = from_patterns(args.source, args.scans, args.labels, args.table, args.dataset)
    elif (args.source / "INDEX.csv").is_file():
        sources = from_index(args.source)
    else:
        sources = from_folder(args.source, args.dataset)
    if not sources:
        raise InputError(f"{args.source} holds no NIfTI, NRRD, MetaImage or DICOM files.")
    return [replace(s, modality=args.modality or s.modality, licence=args.licence or s.licence) for s in sources]


def prepare(sources: Sequence[Source], out: Path, workers: int = 1) -> tuple[list[Row], list[tuple[str, str]]]:
    """Convert what is not done yet and write ``out`` (scans of earlier runs with the same ``out`` stay in it) and ``refused.csv`` beside it.

    Returns the rows of the index, with absolute paths, and the name and reason of every scan that was refused.
    """
    folder = out.parent / "scans"
    folder.mkdir(parents=True, exist_ok=True)
    refused, todo, names = [], [], set()
    for source in sources:
        if source.name in names:
            refused.append((str(source.path), f"its name {source.name} is that of another scan. Rename one, or use --scans."))
        elif not _is_done(source, folder):
            todo.append(source)
        names.add(source.name)
    for number, (source, reason) in enumerate(_converted(todo, folder, workers), start=1):
        print(f"[{number}/{len(todo)}] {source.name}{': refused' if reason else ''}", flush=True)
        if reason:
            _state(source.name, folder).unlink(missing_ok=True)
            refused.append((source.name, reason))
    rows, seen = [], {}
    for state in sorted(folder.glob("*.json")):
        if state.name.endswith(".seg.json"):
            continue
        row = json.loads(state.read_text(encoding="utf-8"))["row"]
        other = seen.setdefault(row["sha256"], row["name"])
        if other != row["name"]:
            refused.append((row["name"], f"it is the same image as {other}."))
        elif Path(row["path"]).is_file():
            rows.append(row)
    _write_csv(out, COLUMNS, [{**r, **{k: _relative(r[k], out.parent) for k in ("path", "labels", "tissue")}} for r in rows])
    _write_csv(out.with_name("refused.csv"), ["name", "reason"], [{"name": n, "reason": r} for n, r in refused])
    return rows, refused


def unknown_names(rows: Sequence[Row]) -> list[str]:
    """Label names in use that the table of names lacks."""
    table = LabelTable.read()
    tables = {Path(r["labels"].removesuffix(".nii.gz") + ".json") for r in rows if r["labels"]}
    return sorted({name for path in tables for _, _, name in read_table(path) if table.id_of(name) is None})


def _converted(sources: Sequence[Source], folder: Path, workers: int) -> Iterator[tuple[Source, str]]:
    """Each source with the reason of its refusal, or "", as they get ready."""
    if workers <= 1 or len(sources) <= 1:
        yield from ((source, _attempt(source, folder)) for source in sources)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=sitk.ProcessObject.SetGlobalDefaultNumberOfThreads, initargs=(1,)) as pool:
        running = {pool.submit(_attempt, source, folder): source for source in sources}
        for done in as_completed(running):
            yield running[done], done.result()


def _attempt(source: Source, folder: Path) -> str:
    """Convert one scan; the reason why it was refused, or ""."""
    try:
        row = convert(source, folder)
    except InputError as error:
        return str(error)
    except Exception as error:  # one strange file must not end a night's run
        return f"{type(error).__name__}: {error}"
    with write_atomically(_state(source.name, folder)) as staged:
        staged.write_text(json.dumps({"fingerprint": _fingerprint(source), "row": row}, indent=1), encoding="utf-8")
    return ""


def convert(source: Source, folder: Path) -> Row:
    """Write one scan, its labels and its rule-made tissue labels (CT) into ``folder``; its row of the index. InputError if it cannot be used."""
    volume = require_3d(read_volume(source.path, source.modality or None, source.series or None))  # type: ignore[arg-type]
    found = identify(volume)
    modality = found.volume.modality
    if modality not in ("ct", "mr"):
        raise InputError(f"it is of modality {modality}; CT or MR is needed.")
    check(volume, modality)
    if source.canonical and found.volume.array is not volume.array:
        raise InputError(f"{source.path} is said to be canonical, but it is not ({found.text}).")
    image, grid = to_canonical(found.volume, modality, SPACING_MM)
    if source.canonical and grid != volume.grid:
        raise InputError(f"{source.path} is said to be canonical, but its voxels are not {SPACING_MM:g} mm cubes along LPS axes.")
    means, cell_mm = cell_means(image, CELL, modality), CELL[0] * SPACING_MM
    if approximate_anatomy(means, modality, cell_mm).sum() * cell_mm**3 / 1000 < SMALLEST_BODY_ML:
        raise InputError(f"no body of at least {SMALLEST_BODY_ML:g} ml was found in it as {modality}.")
    path, labels = source.path, str(source.labels[0]) if source.labels else ""
    if not source.canonical:
        box, _ = bounding_box(find_search_space(means, modality, cell_mm), image.shape, CELL)
        image = np.ascontiguousarray(image[box])
        grid = grid.cropped([part.start for part in box], image.shape)
        path, labels = folder / f"{source.name}.nii.gz", ""
        write_volume(Volume(stored(image, modality), grid, name=source.name), path)
        if source.labels:
            labels = str(_write_labels(source, volume, grid, folder))
    tissue = ""
    if modality == "ct":
        tissue = str(folder / f"{source.name}.tissue.nii.gz")
        write_volume(Volume(tissue_labels(image), grid), tissue)
    return {
        "name": source.name,
        "path": str(path.resolve()),
        "modality": modality,
        "frame": source.frame or source.name,
        "spacing": " ".join(f"{v:.3g}" for v in volume.grid.spacing_xyz),
        "labels": str(Path(labels).resolve()) if labels else "",
        "tissue": str(Path(tissue).resolve()) if tissue else "",
        "licence": source.licence,
        "sha256": _content_hash(stored(image, modality), grid),
        "source": f"{source.path}{f'#{source.series}' if source.series else ''}",
    }


def check(volume: Volume, modality: str) -> None:
    """InputError for a volume that training cannot use."""
    spacing = volume.grid.spacing_xyz
    extent = spacing * volume.grid.shape_zyx[::-1]
    if spacing.max() > THICKEST_MM:
        raise InputError(f"its slices are {spacing.max():.1f} mm apart; {THICKEST_MM:g} mm or less are needed.")
    if extent.min() < SMALLEST_MM:
        raise InputError(f"it is only {extent.min():.0f} mm thick; {SMALLEST_MM:g} mm are needed.")
    if volume.array.min() == volume.array.max():
        raise InputError("all its voxels are equal.")
    if looks_like_labels(volume.array):
        raise InputError("it looks like a label map. If it is one, name it with --labels, and the scans with --scans.")
    if modality == "ct" and not (np.percentile(volume.array, 1) < -200 and -1100 < np.percentile(volume.array, 90) < 1000):
        low, high = np.percentile(volume.array, (1, 90))
        raise InputError(
            f"its intensities ({low:.0f} to {high:.0f} for most) are no Hounsfield units with air. Rescale it, or give --modality mr."
        )


def looks_like_labels(array: NDArray) -> bool:
    """Whether nearly all neighbours that are not background are equal whole numbers."""
    if array.min() < 0 or (array[:: max(1, len(array) // 8)] % 1 != 0).any():
        return False
    left, right = array[..., :-1], array[..., 1:]
    shown = (left != 0) | (right != 0)
    return bool(shown.any()) and float((left == right)[shown].mean()) > EVEN_SHARE


def stored(image: NDArray[np.float32], modality: str) -> NDArray[np.int16]:
    """Whole numbers that lose nothing one could see: HU for CT; MR scaled where its numbers are very small or very large."""
    if modality == "ct":
        return np.rint(np.clip(image, -1024, 3071)).astype(np.int16)
    top = float(np.percentile(np.abs(image), 99.9)) or 1.0
    factor = 1.0 if MR_TOP / 20 <= top <= 4 * MR_TOP else MR_TOP / top
    return np.rint(np.clip(image * factor, -32768, 32767)).astype(np.int16)


def _write_labels(source: Source, volume: Volume, grid: Grid, folder: Path) -> Path:
    values, names = collect(source.labels, source.table, volume, source.path, grid)
    path = folder / f"{source.name}.seg.nii.gz"
    write_volume(Volume(values, grid), path)
    with write_atomically(folder / f"{source.name}.seg.json") as staged:
        staged.write_text(json.dumps({str(k): v for k, v in names.items()}, indent=1), encoding="utf-8")
    return path


def _content_hash(voxels: NDArray[np.int16], grid: Grid) -> str:
    return sha256_of([voxels, np.round(grid.affine, 4)])


def _state(name: str, folder: Path) -> Path:
    return folder / f"{name}.json"


def _is_done(source: Source, folder: Path) -> bool:
    state = _state(source.name, folder)
    if not state.is_file() or not source.path.exists():
        return False
    known = json.loads(state.read_text(encoding="utf-8"))
    made = [p for p in (known["row"]["path"], known["row"]["tissue"], known["row"]["labels"]) if p]
    return known["fingerprint"] == _fingerprint(source) and all(Path(p).is_file() for p in made)


def _fingerprint(source: Source) -> str:
    """Changes with the files of a scan, what is said about it, and the way it is prepared."""
    files = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in source.files]
    said = [source.name, source.series, source.modality, source.frame, source.licence, source.canonical]
    return sha256_of([json.dumps([PREPARE_VERSION, PREPROCESS_VERSION, said, files])])


def _relative(path: str, start: Path) -> str:
    return os.path.relpath(path, start) if path else ""


def _write_csv(path: Path, columns: list[str], rows: Sequence[Row]) -> None:
    with write_atomically(path) as staged, staged.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
