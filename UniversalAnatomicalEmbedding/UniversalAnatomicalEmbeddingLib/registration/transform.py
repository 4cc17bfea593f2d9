"""The map from fixed to moving points: a matrix and, where deformable, a displacement field; files, resampling, folding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ..images.grid import FloatArray, Grid
from ..images.hounsfield import AIR_HU
from ..images.modality import identify
from ..images.volume import Volume
from ..system.errors import InputError
from ..system.files import write_atomically

EXTENSIONS = (".h5", ".tfm", ".txt")
ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class Transform:
    """``T(x) = matrix (x + u(x))``: takes a point of the fixed scan to the same anatomy in the moving scan, both LPS mm.

    ``matrix`` (4, 4); ``displacement`` float64 ``(Z, Y, X, 3)``, vectors x, y, z in mm of fixed space on ``grid``, trilinear between its nodes,
    zero outside; None: no deformation. The same rule as an ITK composite transform, resampling transform of the fixed image.
    """

    matrix: FloatArray
    displacement: NDArray[np.float64] | None = None
    grid: Grid | None = None

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.array_equal(matrix[3], [0, 0, 0, 1]):
            raise ValueError("A transform needs a finite 4x4 matrix whose last row is 0 0 0 1.")
        if np.linalg.det(matrix[:3, :3]) <= 0:
            raise ValueError("The matrix mirrors or flattens space; a registration must do neither.")
        object.__setattr__(self, "matrix", matrix)
        if (self.displacement is None) != (self.grid is None):
            raise ValueError("A displacement field and its grid come together.")
        if self.displacement is not None and self.grid is not None and self.displacement.shape != (*self.grid.shape_zyx, 3):
            raise ValueError(f"The field has shape {self.displacement.shape}, its grid {self.grid.shape_zyx}.")

    def __call__(self, points_lps: ArrayLike) -> FloatArray:
        """Fixed points (N, 3) LPS mm to moving points (N, 3)."""
        points = np.asarray(points_lps, dtype=np.float64).reshape(-1, 3)
        if self.displacement is not None and self.grid is not None:
            points = points + _interpolated(self.displacement, self.grid, points)
        return points @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def inverse(self, points_lps: ArrayLike, iterations: int = 30) -> FloatArray:
        """Moving points (N, 3) to fixed points (N, 3); the deformation is inverted by fixed-point iteration."""
        points = np.asarray(points_lps, dtype=np.float64).reshape(-1, 3)
        start: FloatArray = np.linalg.solve(self.matrix[:3, :3], (points - self.matrix[:3, 3]).T).T.astype(np.float64, copy=False)
        found = start
        if self.displacement is not None and self.grid is not None:
            for _ in range(iterations):
                found = start - _interpolated(self.displacement, self.grid, found)
        return found

    def folding(self) -> float:
        """Share of the field's cells whose Jacobian determinant is not positive; 0 without a field."""
        if self.displacement is None or self.grid is None:
            return 0.0
        return float((jacobian(self.displacement, self.grid) <= 0).mean())

    def to_sitk(self) -> sitk.Transform:
        """The same map as a SimpleITK transform: affine, or composite of field and affine."""
        affine = sitk.AffineTransform(self.matrix[:3, :3].ravel().tolist(), self.matrix[:3, 3].tolist())
        if self.displacement is None or self.grid is None:
            return affine
        image = sitk.GetImageFromArray(self.displacement, isVector=True)
        self.grid.lay(image)
        return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(image)])  # the last is applied first

    def resample(self, moving: Volume, grid: Grid) -> Volume:
        """The moving scan on a grid of the fixed scan, linear, its voxel type kept; air (CT: -1024 HU, else the minimum) where it shows nothing."""
        moving = identify(moving).volume  # no padding is mixed into tissue
        outside = AIR_HU if moving.modality == "ct" else float(moving.array.min())
        source = moving.array.astype(np.float32, copy=False)
        result = np.empty(int(np.prod(grid.shape_zyx)), dtype=np.float32)
        for start in range(0, len(result), ROWS_AT_ONCE):
            numbers = np.arange(start, min(start + ROWS_AT_ONCE, len(result)))
            points = self(grid.index_to_world(np.stack(np.unravel_index(numbers, grid.shape_zyx), axis=1)))
            index = moving.grid.world_to_index(points)
            values = ndimage.map_coordinates(source, index.T, order=1, mode="nearest")
            values[~moving.grid.contains(points)] = outside
            result[numbers] = values
        if np.issubdtype(moving.array.dtype, np.integer):
            limits = np.iinfo(moving.array.dtype)
            result = np.rint(result).clip(limits.min, limits.max).astype(moving.array.dtype)
        return Volume(result.reshape(grid.shape_zyx), grid, moving.modality, moving.name)


def jacobian(displacement: NDArray, grid: Grid) -> NDArray[np.float64]:
    """Determinant ``(Z, Y, X)`` of the gradient of ``x + u(x)``, central differences (one-sided at the border)."""
    steps = grid.affine[:3, :3]
    gradients = [np.gradient(displacement, axis=axis) if n > 1 else np.zeros_like(displacement) for axis, n in enumerate(grid.shape_zyx)]
    per_index = np.stack(gradients[::-1], axis=-1)  # (..., vector component, index axis x y z)
    return np.linalg.det(np.eye(3) + per_index @ np.linalg.inv(steps))


def _interpolated(displacement: NDArray, grid: Grid, points: FloatArray) -> FloatArray:
    """Trilinear displacement (N, 3) at points; zero outside the grid's outer faces, as in ITK."""
    index = grid.world_to_index(points)
    found = np.stack([ndimage.map_coordinates(displacement[..., c], index.T, order=1, mode="nearest") for c in range(3)], axis=1)
    found[~grid.contains(points)] = 0.0
    return found


def write_transform(transform: Transform, path: str | Path) -> None:
    """Write an ITK transform file, ``.h5``, ``.tfm`` or ``.txt``; it maps fixed to moving points. Complete or not at all."""
    path = Path(path)
    _check_extension(path)
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist. Create it, or write elsewhere.")
    with write_atomically(path) as staged:
        try:
            sitk.WriteTransform(transform.to_sitk(), str(staged))
        except RuntimeError as error:
            raise InputError(f"Cannot write {path}. Check the free space and the permissions, or write elsewhere.") from error


def read_transform(path: str | Path) -> Transform:
    """Read a file that :func:`write_transform` wrote, or any ITK file of an affine map optionally after a displacement field."""
    path = Path(path)
    _check_extension(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist. Check the path.")
    try:
        stored = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} is no readable ITK transform. Write it again.") from error
    parts = _parts(stored)
    fields = [p for p in parts if p.GetName() == "DisplacementFieldTransform"]
    linear = [p for p in parts if p not in fields]
    if len(fields) > 1 or (fields and parts[-1] is not fields[0]) or not all(p.IsLinear() for p in linear):
        raise InputError(f"{path} holds other parts than affine maps after one displacement field; convert it in 3D Slicer first.")
    matrix = np.eye(4)
    for part in linear:
        matrix = matrix @ _matrix(part)
    if not fields:
        return Transform(matrix)
    image = sitk.DisplacementFieldTransform(fields[0]).GetDisplacementField()
    return Transform(matrix, sitk.GetArrayFromImage(image).astype(np.float64), Grid.from_sitk(image))


def _parts(stored: sitk.Transform) -> list[sitk.Transform]:
    if stored.GetName() != "CompositeTransform":
        return [stored.Downcast()]
    composite = sitk.CompositeTransform(stored)
    return [p for n in range(composite.GetNumberOfTransforms()) for p in _parts(composite.GetNthTransform(n))]


def _matrix(part: sitk.Transform) -> FloatArray:
    """A linear ITK transform as (4, 4), read off where it puts the origin and the unit vectors."""
    origin = np.array(part.TransformPoint([0.0, 0.0, 0.0]))
    matrix = np.eye(4)
    matrix[:3, 3] = origin
    matrix[:3, :3] = np.stack([np.array(part.TransformPoint(unit)) - origin for unit in np.eye(3).tolist()], axis=1)
    return matrix


def _check_extension(path: Path) -> None:
    if path.suffix.lower() not in EXTENSIONS:
        raise InputError(f"{path} has an unknown extension; a transform file ends with {', '.join(EXTENSIONS)}.")
