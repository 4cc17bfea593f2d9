"""The scans that a folder holds: which files make one scan, what is known of it, where its labels are."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from UniversalAnatomicalEmbeddingLib.images import EXTENSIONS
from UniversalAnatomicalEmbeddingLib.system import InputError

MAX_MISALIGNMENT_MM = 8.0
LABEL_FOLDER = "segmentations"


@dataclass(frozen=True)
class Source:
    """One scan as it was found: a file, or a folder of DICOM slices with the UID of one ``series``.

    ``labels``: nothing, one label map (with its ``table`` file), or one file per organ, or a folder of PNG slices. ``modality``: ct, mr or "" (not
    known). ``canonical``: already a 2 mm LPS scan that is used where it lies.
    """

    name: str
    path: Path
    series: str = ""
    modality: str = ""
    frame: str = ""
    licence: str = ""
    labels: tuple[Path, ...] = ()
    table: Path | None = None
    canonical: bool = False

    @property
    def files(self) -> list[Path]:
        """All files the result depends on, the label table too."""
        places = [self.path, *self.labels, *([self.table] if self.table else [])]
        return [f for p in places for f in (sorted(q for q in p.rglob("*") if q.is_file()) if p.is_dir() else [p])]


def from_index(folder: Path) -> list[Source]:
    """The training scans of a folder of canonical scans with ``INDEX.csv`` (columns ``name``, ``split``, ``modality``, ``licence``) and
    ``train/ctmr_pairs.json``; scans of one patient that share a physical frame carry the same ``frame``."""
    aligned = aligned_pairs(folder / "train" / "ctmr_pairs.json")
    sources = []
    with (folder / "INDEX.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] != "train":
                continue
            name, modality = row["name"], row["modality"].lower()
            path = folder / "train" / modality / f"{name}.nii.gz"
            sources.append(Source(name, path, "", modality, frame_of(name, aligned), row["licence"], *_beside(path), canonical=True))
    return sources


def aligned_pairs(path: Path) -> set[str]:
    """Patients whose CT and MR agree to ``MAX_MISALIGNMENT_MM``."""
    pairs = json.loads(path.read_text(encoding="utf-8"))
    return {Path(p["fixed"]).name.split("_")[0] for p in pairs if p["mi_shift_mm"] <= MAX_MISALIGNMENT_MM}


def frame_of(name: str, aligned: set[str]) -> str:
    """Patient (and visit) of scans known to be aligned, otherwise the scan's own name."""
    parts = name.split("_")
    if parts[0] in aligned or parts[0].startswith(("prostx", "mscs")):
        return parts[0]
    if parts[0].startswith("ms") and len(parts) == 3:
        return "_".join(parts[:2])
    if name.startswith("sct_mt"):
        return "sct_mt"
    if name.endswith(("MTon", "MToff")):
        return "_".join(parts[:2])
    return name


def from_folder(folder: Path, dataset: str = "") -> list[Source]:
    """Every scan in a folder and its subfolders: image files, and each series of each folder of DICOM slices.

    ``NAME.seg.nii.gz`` with ``NAME.seg.json`` beside an image, or a folder ``segmentations`` of one file per organ, are its labels.
    """
    sources = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and _is_image(p)):
        sources.append(Source(_name(dataset, [*path.relative_to(folder).parts[:-1], _stem(path)]), path, "", *[""] * 3, *_beside(path)))
    for place in sorted(p for p in (folder, *folder.rglob("*")) if p.is_dir() and _has_dicom(p)):
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(place))
        for number, uid in enumerate(series):
            parts = [*place.relative_to(folder).parts, *([f"series{number + 1}"] if len(series) > 1 else [])]
            sources.append(Source(_name(dataset, parts or [folder.name]), place, uid))
    return sources


def from_patterns(folder: Path, scans: str, labels: str = "", table: Path | None = None, dataset: str = "") -> list[Source]:
    """The files or DICOM folders that match ``scans``, such as ``imagesTr/{name}.nii.gz`` or ``MR/{frame}/T1DUAL/DICOM_anon/{name}``.

    The words in braces make the name; scans with the same ``{frame}`` share a physical frame. ``labels`` says in the same words (and with ``*``)
    where the labels are: one label map, one file per organ, or a folder of PNG slices. InputError where nothing matches.
    """
    expression, glob = _expression(scans), re.sub(r"\{\w+\}", "*", scans)
    sources = []
    for path in sorted(folder.glob(glob)):
        found = expression.fullmatch(path.relative_to(folder).as_posix())
        if not found:
            continue
        words = found.groupdict()
        places = tuple(sorted(folder.glob(labels.format(**words)))) if labels else ()
        name = _name(dataset, words.values())
        frame = f"{_name(dataset, [words['frame']])}" if "frame" in words else ""
        sources.append(Source(name, path, "", "", frame, "", places, table))
    if not sources:
        raise InputError(
            f"Nothing in {folder} matches '{scans}'. Give the path below it, with the parts that differ in braces: imagesTr/{{name}}.nii.gz."
        )
    return sources


def _expression(pattern: str) -> re.Pattern[str]:
    """A pattern with ``{word}`` (part of one path component) and ``*``."""
    parts = re.split(r"(\{\w+\}|\*)", pattern)
    seen: set[str] = set()
    out = ""
    for part in parts:
        if part == "*":
            out += "[^/]*"
        elif part.startswith("{") and part.endswith("}"):
            out += f"(?P={part[1:-1]})" if part in seen else f"(?P<{part[1:-1]}>[^/]+)"
            seen.add(part)
        else:
            out += re.escape(part)
    return re.compile(out)


def _beside(path: Path) -> tuple[tuple[Path, ...], Path | None]:
    """Labels that lie where they usually do."""
    seg, table = path.with_name(f"{_stem(path)}.seg.nii.gz"), path.with_name(f"{_stem(path)}.seg.json")
    if seg.is_file() and table.is_file():
        return (seg,), table
    return tuple(sorted((path.parent / LABEL_FOLDER).glob("*.nii.gz"))), None


def _is_image(path: Path) -> bool:
    known = path.name.lower().endswith(EXTENSIONS) and not path.name.startswith(".")
    return known and ".seg." not in path.name and path.parent.name != LABEL_FOLDER


def _stem(path: Path) -> str:
    extension = next((e for e in EXTENSIONS if path.name.lower().endswith(e)), path.suffix)
    return path.name[: -len(extension)] if extension else path.name


def _name(dataset: str, parts: Iterable[str]) -> str:
    """A file name out of words."""
    return "_".join(re.sub(r"[^A-Za-z0-9-]+", "-", p).strip("-") for p in (dataset, *parts) if p)


def _has_dicom(folder: Path) -> bool:
    """Whether the folder itself holds DICOM files, told by the first few."""
    return any(_is_dicom(f) for f in _first_files(folder, 8))


def _first_files(folder: Path, count: int) -> Iterator[Path]:
    for number, path in enumerate(sorted(p for p in folder.iterdir() if p.is_file())):
        if number >= count:
            return
        yield path


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
