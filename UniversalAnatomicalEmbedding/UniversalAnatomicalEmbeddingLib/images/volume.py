"""A scan in memory: voxels, geometry, modality; reading and writing with the full index-to-LPS affine, shear included."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal, cast, get_args

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from ..system.errors import InputError
from ..system.files import write_atomically
from .dicom import read_series
from .grid import Grid
from .nifti import HEADER_BYTES, NiftiHeader, build_header, parse_header

Modality = Literal["ct", "mr", "xray"]

NIFTI = (".nii.gz", ".nii")
ITK_FORMATS = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
EXTENSIONS = (*NIFTI, *ITK_FORMATS)
DICOM_MODALITIES: dict[str, Modality] = {"CT": "ct", "MR": "mr", "CR": "xray", "DX": "xray", "XA": "xray", "DR": "xray"}


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels ``(Z, Y, X)`` (one slice for a 2-D image), their grid (LPS mm), and what made them (None: not known).

    ``header``: the modality code of the DICOM header ("CT", "PT"; "": there is none). ``rescaled``:
    False where a DICOM header lacks the rescale tags, so that the voxels may be stored values. What a
    scan is taken for is for :func:`.modality.identify` to say.
    """

    array: NDArray
    grid: Grid
    modality: Modality | None = None
    name: str = "volume"
    header: str = ""
    rescaled: bool = True

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape_zyx:
            raise InputError(f"The voxel array has shape {self.array.shape}, but its grid {self.grid.shape_zyx}; give them the same shape.")
        if self.modality is not None and self.modality not in get_args(Modality):
            raise InputError(f"Unknown modality '{self.modality}'; use one of {', '.join(get_args(Modality))}.")


def read_volume(path: str | Path, modality: Modality | None = None, series: str | None = None) -> Volume:
    """Read a NIfTI, NRRD or MetaImage file, or the DICOM series in a folder.

    Integer voxels keep their type; floating-point ones become float32, as do those a NIfTI header rescales. NaN and infinite voxels take
    the lowest finite value. ``modality`` overrides what a DICOM header says (other formats say nothing: None). ``series``: the
    SeriesInstanceUID, needed where a folder holds several.

    Raises InputError, naming the file, for everything that is no complete, single, scalar image with an invertible orientation.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist. Check the path.")
    if path.is_dir():
        found = read_series(path, series)
        name = found.description or path.resolve().name
        known = modality or DICOM_MODALITIES.get(found.modality)
        volume = _volume(found.array, found.affine, known, name, str(path))
        return replace(volume, header=found.modality, rescaled=found.rescaled)
    if series is not None:
        raise InputError(f"{path} is a file; series={series} applies to a folder of DICOM files only.")
    extension = _extension(path)
    name = path.name[: -len(extension)] or path.name
    if extension in NIFTI:
        array, affine = _read_nifti(path)
        return _volume(array, affine, modality, name, str(path))
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty. Copy or export it again.")
    try:
        image = sitk.ReadImage(str(path), imageIO=ITK_FORMATS[extension])
    except RuntimeError as error:
        if "determinant is 0" in str(error):
            raise InputError(f"{path}: the image directions are not invertible; its orientation is damaged. Export it again.") from error
        raise InputError(f"{path} cannot be read: it is damaged, incomplete or no {extension} image. Copy or export it again.") from error
    return _from_sitk(image, modality, name, str(path))


def from_array(array_zyx: ArrayLike, affine_ijk_to_lps: ArrayLike, modality: Modality | None = None, name: str = "volume") -> Volume:
    """A volume from voxels ``(Z, Y, X)`` or ``(Y, X)`` and the 4x4 matrix that takes an index (x, y, z, 1) to LPS millimetres.

    Voxel types and NaN are treated as in :func:`read_volume`, which see for errors too. The array is shared, not copied, where it can be.
    """
    return _volume(np.asarray(array_zyx), np.asarray(affine_ijk_to_lps, dtype=np.float64), modality, name, name)


def from_sitk(image: sitk.Image, modality: Modality | None = None, name: str = "volume") -> Volume:
    """A volume from a scalar SimpleITK image, 2-D (one slice), 3-D, or 4-D with a single time point; InputError for others."""
    return _from_sitk(image, modality, name, name)


def to_sitk(volume: Volume) -> sitk.Image:
    """The same voxels and geometry as a 3-D SimpleITK image; a sheared grid gives a direction matrix that is not orthogonal."""
    image = sitk.GetImageFromArray(_clean(volume.array, volume.name))
    volume.grid.lay(image)
    return image


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd`` with the full affine.

    The file appears complete or not at all. NIfTI stores the affine in float32 (sform); the others are exact. A sheared NIfTI gets no
    qform, so software that knows only orthogonal axes refuses it. Raises InputError for another extension and a failed write.
    """
    path = Path(path)
    extension = _extension(path)
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist. Create it, or write elsewhere.")
    try:
        with write_atomically(path) as staged:
            if extension in NIFTI:
                _write_nifti(volume, staged, extension == ".nii.gz")
            else:
                sitk.WriteImage(to_sitk(volume), str(staged), useCompression=extension in (".nrrd", ".mha"), imageIO=ITK_FORMATS[extension])
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the image library refused it"
        raise InputError(f"Cannot write {path}: {reason}. Check the free space and the permissions, or write elsewhere.") from error


def require_3d(volume: Volume) -> Volume:
    """The same volume; InputError where it has fewer than three voxels along an axis (a projection image or a single slice)."""
    if min(volume.grid.shape_zyx) < 3:
        z, y, x = volume.grid.shape_zyx
        raise InputError(f"{volume.name} has {x} x {y} x {z} voxels; a 3-D scan with at least 3 slices is needed. Load the whole series.")
    return volume


def _extension(path: Path) -> str:
    """The known extension, in lower case; InputError for any other."""
    for extension in EXTENSIONS:
        if path.name.lower().endswith(extension):
            return extension
    if path.suffix.lower() in (".dcm", ".ima"):
        raise InputError(f"{path} is a single DICOM file; give the folder that holds the series.")
    raise InputError(f"{path} has an unknown extension; use {', '.join(EXTENSIONS)} or a folder of DICOM files.")


def _volume(array: NDArray, affine: NDArray[np.float64], modality: Modality | None, name: str, source: str) -> Volume:
    """Clean voxels and checked geometry; errors name ``source``."""
    voxels = _clean(array, source)
    try:
        grid = Grid(cast("tuple[int, int, int]", voxels.shape), affine)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error
    return Volume(voxels, grid, modality, name)


def _clean(array: NDArray, source: str) -> NDArray:
    """Three axes, native byte order, an integer type or float32, finite."""
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise InputError(f"{source} has {array.ndim} axes {array.shape}; one 3-D image is needed. Extract one time point or channel.")
    if array.size == 0:
        raise InputError(f"{source} is empty: its shape is {array.shape}. Export it again.")
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind in "iu":
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if array.dtype.kind != "f":
        raise InputError(f"{source} has voxels of type {array.dtype}; real numbers are needed. Export a scalar image.")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(array)
    if finite.all():
        return array
    if not finite.any():
        raise InputError(f"{source} has no finite voxel (all are NaN or infinite). Export it again.")
    return np.where(finite, array, array[finite].min())


def _from_sitk(image: sitk.Image, modality: Modality | None, name: str, source: str) -> Volume:
    if image.GetNumberOfComponentsPerPixel() != 1:
        count = image.GetNumberOfComponentsPerPixel()
        raise InputError(f"{source} has {count} values per voxel (colour, vectors or time points); export one scalar image.")
    array, size = sitk.GetArrayFromImage(image), image.GetSize()
    dimension = image.GetDimension()
    if dimension > 3 and max(size[3:]) > 1:
        raise InputError(f"{source} is {dimension}-D with {size[3]} time points or volumes; extract one of them and give that.")
    try:
        affine = Grid.from_sitk(image).affine
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error
    return _volume(array.reshape(size[:3][::-1]), affine, modality, name, source)


def _read_nifti(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    """Rescaled voxels and affine. ITK is not asked: it refuses, or takes the qform of, an image with a sheared sform."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not zipped:
                return _parse_nifti(raw)
            with gzip.GzipFile(fileobj=raw) as stream:
                return _parse_nifti(cast("IO[bytes]", stream))
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged or incomplete: its compressed data end early or fail the check. Copy it again.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Check the permissions.") from error


def _parse_nifti(stream: IO[bytes]) -> tuple[NDArray, NDArray[np.float64]]:
    header = parse_header(stream.read(HEADER_BYTES))
    stream.read(header.offset - HEADER_BYTES)
    array = _read_voxels(stream, header)
    while stream.read(1 << 20):  # to the end, where gzip keeps its checksum
        pass
    if (header.slope, header.intercept) != (1.0, 0.0):
        wide = np.float64 if array.dtype.itemsize > 4 else np.float32
        array = np.multiply(array, wide(header.slope), dtype=wide) + wide(header.intercept)
    return array, header.affine


def _read_voxels(stream: IO[bytes], header: NiftiHeader) -> NDArray:
    try:
        array = np.empty(header.shape_zyx, header.dtype)
    except (MemoryError, ValueError) as error:
        raise InputError(f"its header announces voxels of shape {header.shape_zyx}, more than the memory holds. Is it damaged?") from error
    view = array.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view) and (count := stream.readinto(view[done:])):  # type: ignore[attr-defined]
        done += count
    if done < len(view):
        raise InputError(f"it is incomplete, its header announces {len(view)} bytes of voxels and {done} are there. Copy it again.")
    return array


def _write_nifti(volume: Volume, path: Path, zipped: bool) -> None:
    voxels = _clean(volume.array, volume.name)
    header = build_header(voxels.dtype, volume.grid)
    data = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data
    with path.open("wb") as raw:
        if not zipped:
            raw.write(header)
            raw.write(data)
            return
        with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as stream:
            stream.write(header)
            stream.write(data)
