"""Image grids and the exact mapping between voxel index and patient space.

Conventions used by the whole package: a voxel index names the *centre* of a voxel, arrays are ``(Z, Y, X)``, points are float64
``(N, 3)`` LPS millimetres in the order x, y, z. The axis order flips here and nowhere else. What
others keep in RAS (NIfTI, old landmark files, MRML nodes) is turned to LPS with the pair below.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import SimpleITK as sitk

FloatArray = NDArray[np.float64]

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
"""4x4 matrix from RAS to LPS millimetres, and from LPS to RAS."""


def flipped(points: ArrayLike) -> FloatArray:
    """RAS millimetres (N, 3) to LPS, or LPS to RAS."""
    return np.asarray(points, dtype=np.float64).reshape(-1, 3) * FLIP.diagonal()[:3]


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular, possibly oblique or sheared, lattice of voxels in patient space.

    ``shape_zyx`` is the array shape; ``affine`` the 4x4 matrix that takes an index in the order (x, y, z, 1) to LPS millimetres.
    """

    shape_zyx: tuple[int, int, int]
    affine: FloatArray

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        shape = tuple(int(n) for n in self.shape_zyx)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], [0, 0, 0, 1]):
            raise ValueError("A grid needs a finite 4x4 index-to-LPS affine whose last row is 0 0 0 1.")
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"A grid needs three positive sizes (z, y, x), found {shape}.")
        columns = np.linalg.norm(affine[:3, :3], axis=0)
        if columns.min() == 0 or abs(np.linalg.det(affine[:3, :3] / columns)) < 1e-6:
            raise ValueError("The image directions are not invertible; its orientation information is damaged. Re-export the image.")
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape_zyx", shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self.shape_zyx == other.shape_zyx and np.array_equal(self.affine, other.affine)

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def from_sitk(cls, image: sitk.Image) -> Grid:
        """The grid of a SimpleITK image of 2 (one slice), 3 or more axes, of which the first three count.

        Raises ValueError as the constructor does.
        """
        axes = image.GetDimension()
        kept = min(axes, 3)
        columns = np.array(image.GetDirection()).reshape(axes, axes) * np.array(image.GetSpacing())
        affine = np.eye(4)
        affine[:kept, :kept] = columns[:kept, :kept]
        affine[:kept, 3] = image.GetOrigin()[:kept]
        x, y, z = (*image.GetSize()[:kept], 1)[:3]
        return cls((z, y, x), affine)

    def lay(self, image: sitk.Image) -> None:
        """Give a 3-D SimpleITK image, which has the same shape, this place in patient space."""
        image.SetSpacing(self.spacing_xyz.tolist())
        image.SetDirection(self.direction.ravel().tolist())
        image.SetOrigin(self.origin.tolist())

    @property
    def spacing_xyz(self) -> FloatArray:
        """Distance in mm between neighbouring voxels along the index axes x, y, z."""
        return np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))

    @property
    def spacing_zyx(self) -> FloatArray:
        """The same distances in the order of array axes."""
        return np.ascontiguousarray(self.spacing_xyz[::-1])

    @property
    def direction(self) -> FloatArray:
        """Unit vectors of the index axes x, y, z in LPS, the columns of (3, 3).

        They are not at right angles where the grid is sheared.
        """
        return self.affine[:3, :3] / self.spacing_xyz

    @property
    def origin(self) -> FloatArray:
        """LPS mm (3,) of the centre of the first voxel."""
        return self.affine[:3, 3]

    def index_to_world(self, index_zyx: ArrayLike) -> FloatArray:
        """Continuous indices ``(N, 3)`` in the order z, y, x to LPS millimetres ``(N, 3)``."""
        index = np.asarray(index_zyx, dtype=np.float64).reshape(-1, 3)
        return index[:, ::-1] @ self.affine[:3, :3].T + self.affine[:3, 3]

    def world_to_index(self, points_lps: ArrayLike) -> FloatArray:
        """LPS millimetres ``(N, 3)`` to continuous indices ``(N, 3)`` in the order z, y, x."""
        points = np.asarray(points_lps, dtype=np.float64).reshape(-1, 3)
        index_xyz = np.linalg.solve(self.affine[:3, :3], (points - self.affine[:3, 3]).T).T.astype(np.float64, copy=False)
        return index_xyz[:, ::-1]

    def contains(self, points_lps: ArrayLike) -> NDArray[np.bool_]:
        """Whether each point lies in the field of view, counted to the outer faces of the border voxels."""
        index = self.world_to_index(points_lps)
        inside = (index >= -0.5 - 1e-9) & (index <= np.array(self.shape_zyx) - 0.5 + 1e-9)
        return np.all(inside, axis=1)

    def outside_mm(self, points_lps: ArrayLike) -> FloatArray:
        """How far each point (N, 3) lies beyond the outer faces, in mm along the index axes combined; 0 inside."""
        index = self.world_to_index(points_lps)
        beyond = np.maximum(np.maximum(-0.5 - index, index - np.array(self.shape_zyx) + 0.5), 0.0)
        return np.sqrt(((beyond * self.spacing_zyx) ** 2).sum(axis=1))

    def inside_mm(self, points_lps: ArrayLike) -> FloatArray:
        """How far each point (N, 3) lies inside the nearest outer face, in mm along an index axis; 0 outside."""
        index = self.world_to_index(points_lps)
        depth = np.minimum(index + 0.5, np.array(self.shape_zyx) - 0.5 - index)
        return np.maximum((depth * self.spacing_zyx).min(axis=1), 0.0)

    def corners(self) -> FloatArray:
        """LPS positions ``(8, 3)`` of the outer corners of the field of view."""
        ends = [(-0.5, n - 0.5) for n in self.shape_zyx]
        return self.index_to_world(list(itertools.product(*ends)))

    def axis_aligned(self, spacing_mm: float) -> Grid:
        """The smallest LPS-oriented grid of cubic voxels that covers this field of view, first corners shared."""
        low, high = self.corners().min(axis=0), self.corners().max(axis=0)
        size_xyz = np.maximum(np.ceil((high - low) / spacing_mm - 1e-6).astype(int), 1)
        affine = np.diag([spacing_mm] * 3 + [1.0])
        affine[:3, 3] = low + spacing_mm / 2
        return Grid(tuple(size_xyz[::-1]), affine)

    def cropped(self, start_zyx: ArrayLike, shape_zyx: ArrayLike) -> Grid:
        """The sub-grid that begins at index ``start_zyx`` (which may be negative: a padded grid)."""
        affine = self.affine.copy()
        affine[:3, 3] = self.index_to_world(start_zyx)[0]
        return Grid(tuple(np.asarray(shape_zyx, dtype=int)), affine)

    def cells(self, stride_zyx: ArrayLike) -> Grid:
        """The grid of network cells; cell k covers voxels stride*k .. stride*k + stride - 1 and sits at their middle."""
        stride = np.asarray(stride_zyx, dtype=np.float64)
        affine = self.affine.copy()
        affine[:3, :3] = affine[:3, :3] * stride[::-1]
        affine[:3, 3] = self.index_to_world((stride - 1) / 2)[0]
        return Grid(tuple(np.ceil(np.array(self.shape_zyx) / stride).astype(int)), affine)
