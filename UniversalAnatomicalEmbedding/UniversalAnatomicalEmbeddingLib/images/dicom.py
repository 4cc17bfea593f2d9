"""One DICOM series out of a folder, with the affine from the positions of its slices: gantry tilt shears, and ITK's reader drops that."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ..system.errors import InputError

RELATIVE_TOLERANCE = 0.01  # of the slice distance: how far a slice may lie from its place in the regular stack
ROUNDING_MM = 0.05  # headers with one decimal are off by this much without being wrong
DIRECTION_TOLERANCE = 1e-3
IMAGE_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{suffix}" for suffix in ("1", "2", "4", "7", "12", "20", "128"))  # CR/DX CT MR SC XA NM PT

# What a DICOM modality code stands for: what holds no image, and images of other kinds.
LABELS = {
    "SEG": "a segmentation",
    "RTSTRUCT": "a set of contours",
    "RTDOSE": "a radiotherapy dose",
    "RTPLAN": "a treatment plan",
}
IMAGES = {
    "PT": "PET",
    "NM": "nuclear medicine",
    "US": "ultrasound",
    "IVUS": "intravascular ultrasound",
    "OCT": "optical coherence tomography",
    "MG": "mammography",
    "RF": "fluoroscopy",
    "SC": "a secondary capture",
    "OT": "of no stated kind",
    "CT": "CT",
    "MR": "MR",
}

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """Rescaled voxels ``(Z, Y, X)``, index-to-LPS affine, DICOM modality code (0008,0060) and series description.

    ``rescaled``: False where a slice has no rescale intercept (0028,1052): its voxels are as stored."""

    array: NDArray
    affine: FloatArray
    modality: str
    description: str
    rescaled: bool = True


@dataclass(frozen=True, eq=False)
class _Slice:
    """What the header of one file says."""

    path: Path
    series: str
    description: str
    modality: str
    instance: str
    rescaled: bool
    size: tuple[int, ...]
    components: int
    spacing_xy: tuple[float, float]
    has_spacing: bool
    thickness: float
    position: FloatArray | None
    directions: FloatArray | None  # (2, 3): along a row, along a column


def read_series(folder: Path, series: str | None = None) -> DicomSeries:
    """Read the only image series in ``folder`` (searched with its subfolders), or the one with the SeriesInstanceUID ``series``.

    The slices are ordered along their normal; the third column of the affine is the step between their positions, so it is exact for a
    tilted gantry too. Raises InputError where there is no image, a choice to make, a damaged or multi-frame file, colour, a gap, several
    images at one place, or slices of differing size or direction.
    """
    slices, damaged = _scan(folder)
    chosen = _choose(folder, slices, damaged, series)
    uid = chosen[0].series
    _check_complete(folder, damaged, uid)
    chosen = list({(s.instance or str(s.path)): s for s in chosen}.values())  # the same image copied twice counts once
    _check_alike(folder, chosen)
    ordered, affine = _arrange(folder, chosen)
    first, rescaled = ordered[0], all(s.rescaled for s in ordered)
    return DicomSeries(_stack(ordered), affine, first.modality, first.description, rescaled)


def named(code: str) -> str:
    """A DICOM modality code with the words for it: "PET (PT)"."""
    words = LABELS.get(code) or IMAGES.get(code)
    return code if words in (None, code) else f"{words} ({code})"


def refusal(name: str, code: str) -> str:
    """Why a scan of a modality that no model knows is not used, in one sentence, and how to insist."""
    insist = "" if code in LABELS else ", or insist with --modality mr (modality='mr')"
    what = f"{name} is {named(code)} by its DICOM header"
    return f"{what}, and the models know CT and MR; give a CT or MR series{insist}."


def _scan(folder: Path) -> tuple[list[_Slice], list[Path]]:
    """Headers of all image files, and the files that should be images but cannot be read."""
    slices, damaged = [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            if _should_be_image(path):
                damaged.append(path)
            continue
        slices.append(_header(path, reader))
    return slices, damaged


def _should_be_image(path: Path) -> bool:
    """Whether an unreadable file is meant to hold an image, rather than a report, a plan, an index or no DICOM at all."""
    with path.open("rb") as file:
        head = file.read(1024)
    if head[128:132] != b"DICM":
        return path.suffix.lower() in (".dcm", ".ima")
    start = head.find(b"\x02\x00\x02\x00UI")  # media storage SOP class
    length = int.from_bytes(head[start + 6 : start + 8], "little")
    storage = head[start + 8 : start + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")
    return start < 0 or any(storage == c or storage.startswith(c + ".") for c in IMAGE_CLASSES)


def _header(path: Path, reader: sitk.ImageFileReader) -> _Slice:
    def text(tag: str) -> str:
        return reader.GetMetaData(tag).strip(" \0") if reader.HasMetaDataKey(tag) else ""

    def numbers(tag: str, count: int) -> FloatArray | None:
        try:
            values = np.array([float(v) for v in text(tag).split("\\")])
        except ValueError:
            return None
        return values if values.shape == (count,) and np.isfinite(values).all() else None

    directions, thickness = numbers("0020|0037", 6), numbers("0018|0050", 1)
    if directions is not None:
        rows = directions.reshape(2, 3)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        usable = lengths.min() > 0 and abs(rows[0] @ rows[1]) < 0.1
        directions = rows / lengths if usable else None
    return _Slice(
        path=path,
        series=text("0020|000e"),
        description=text("0008|103e"),
        modality=text("0008|0060"),
        instance=text("0008|0018"),
        rescaled=bool(text("0028|1052")),
        size=tuple(reader.GetSize()),
        components=reader.GetNumberOfComponents(),
        spacing_xy=(reader.GetSpacing()[0], reader.GetSpacing()[1]),
        has_spacing=bool(text("0028|0030")),
        thickness=float(thickness[0]) if thickness is not None and thickness[0] > 0 else 1.0,
        position=numbers("0020|0032", 3),
        directions=directions,
    )


def _choose(folder: Path, slices: list[_Slice], damaged: list[Path], series: str | None) -> list[_Slice]:
    """The slices of the series asked for, or of the only one."""
    groups: dict[str, list[_Slice]] = defaultdict(list)
    for item in slices:
        groups[item.series].append(item)
    if not groups:
        if damaged:
            raise InputError(f"None of the DICOM images in {folder} can be read ({damaged[0].name}, ..). Copy or export them again.")
        raise InputError(f"The folder {folder} holds no DICOM images. Give the folder of one series, or the image file itself.")
    listing = "; ".join(f"{uid} '{g[0].description}' ({g[0].modality or 'no modality'}, {len(g)} slices)" for uid, g in groups.items())
    if series is not None:
        if series not in groups:
            raise InputError(f"The folder {folder} holds no series {series}. It holds: {listing}.")
        return groups[series]
    if len(groups) > 1:
        raise InputError(
            f"The folder {folder} holds {len(groups)} DICOM series; choose one with series=UID (command line: FOLDER#UID): {listing}."
        )
    return slices


def _check_complete(folder: Path, damaged: list[Path], uid: str) -> None:
    """Refuse a series one of whose files is damaged (a file too short to tell counts as one of them)."""
    for path in damaged:
        data = path.read_bytes()
        if uid.encode() in data or b"\x20\x00\x0e\x00" not in data:
            raise InputError(f"The DICOM file {path.name} in {folder} is damaged or incomplete. Copy or export the series again.")


def _check_alike(folder: Path, slices: list[_Slice]) -> None:
    """Refuse what cannot be one stack of single-frame grey images."""
    first = slices[0]
    for item in slices:
        if item.modality in LABELS:
            raise InputError(refusal(f"The series in {folder}", item.modality))
        if item.components != 1:
            raise InputError(f"{item.path.name} in {folder} is a colour image ({item.components} values per voxel); choose a grey one.")
        if len(item.size) > 2 and item.size[2] > 1:
            raise InputError(f"{item.path.name} in {folder} is a multi-frame file ({item.size[2]} frames); convert it to NIfTI first.")
        if item.size[:2] != first.size[:2] or not np.allclose(item.spacing_xy, first.spacing_xy, rtol=1e-4):
            raise InputError(
                f"The series in {folder} mixes slices of {_extent(first)} ({first.path.name}) and {_extent(item)} ({item.path.name}). "
                "Export one acquisition only."
            )
    if len(slices) == 1:
        return
    for item in slices:
        if item.position is None or item.directions is None or not item.has_spacing:
            raise InputError(f"{item.path.name} in {folder} lacks a position, direction or pixel spacing. Export the original slices.")
        if first.directions is None or np.abs(item.directions - first.directions).max() > DIRECTION_TOLERANCE:
            raise InputError(
                f"The series in {folder} holds slices of different directions ({first.path.name}, {item.path.name}), such as a localizer. "
                "Export one direction only."
            )


def _extent(item: _Slice) -> str:
    return f"{item.size[0]} x {item.size[1]} pixels of {item.spacing_xy[0]:g} x {item.spacing_xy[1]:g} mm"


def _arrange(folder: Path, slices: list[_Slice]) -> tuple[list[_Slice], FloatArray]:
    """Slices in order along their normal, and the affine of the stack."""
    first = slices[0]
    rows = np.eye(3)[:2] if first.directions is None else first.directions
    normal = np.cross(rows[0], rows[1])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = rows[0] * first.spacing_xy[0], rows[1] * first.spacing_xy[1]
    if len(slices) == 1:
        affine[:3, 2] = normal * first.thickness
        affine[:3, 3] = 0 if first.position is None else first.position
        return slices, affine
    positions = np.array([item.position for item in slices], dtype=np.float64)
    order = np.argsort(positions @ normal, kind="stable")
    ordered, positions = [slices[i] for i in order], positions[order]
    _check_regular(folder, ordered, positions, normal)
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(ordered) - 1)
    affine[:3, 3] = positions[0]
    return ordered, affine


def _check_regular(folder: Path, ordered: list[_Slice], positions: FloatArray, normal: FloatArray) -> None:
    """Refuse a stack whose slices are not evenly spaced, and say where."""
    steps = np.diff(positions, axis=0)
    distances = steps @ normal
    if distances.min() < 1e-3:
        k = int(distances.argmin())
        raise InputError(
            f"The series in {folder} has several images at one place ({ordered[k].path.name}, {ordered[k + 1].path.name}): "
            "phases, echoes or reconstructions in one series. Export one of them only."
        )
    fitted = positions[0] + np.arange(len(positions))[:, None] * (positions[-1] - positions[0]) / (len(positions) - 1)
    typical = np.median(steps, axis=0)
    spacing = float(np.linalg.norm(typical))
    if np.linalg.norm(positions - fitted, axis=1).max() <= max(RELATIVE_TOLERANCE * spacing, ROUNDING_MM):
        return
    k = int(np.linalg.norm(steps - typical, axis=1).argmax())
    here, there = (", ".join(f"{v:.1f}" for v in positions[i]) for i in (k, k + 1))
    missing = round(float(distances[k] / np.median(distances))) - 1
    cause = f"{missing} slice(s) seem to be missing there" if missing > 0 else "the slices are not evenly spaced"
    raise InputError(
        f"The series in {folder} has slices {spacing:.2f} mm apart, but {np.linalg.norm(steps[k]):.2f} mm between slice {k + 1} "
        f"({ordered[k].path.name} at {here}) and slice {k + 2} ({ordered[k + 1].path.name} at {there}): {cause}. "
        "Export the complete series."
    )


def _stack(ordered: list[_Slice]) -> NDArray:
    """Rescaled voxels of all slices; read one by one, because rescaling (and with it the voxel type) may differ between them."""
    first = _plane(ordered[0])
    stack = np.empty((len(ordered), *first.shape), first.dtype)
    stack[0] = first
    for k, item in enumerate(ordered[1:], start=1):
        plane = _plane(item)
        stack = stack.astype(np.result_type(stack, plane), copy=False)
        stack[k] = plane
    return stack


def _plane(item: _Slice) -> NDArray:
    try:
        image = sitk.ReadImage(str(item.path), imageIO="GDCMImageIO")
    except RuntimeError as error:
        raise InputError(f"{item.path} is damaged or in a compression that cannot be read. Export the series again.") from error
    return sitk.GetArrayFromImage(image).reshape(item.size[1], item.size[0])
