"""Registration results as MRML transforms, and one volume resampled to another through whatever transforms the scene has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..images.grid import FLIP, FloatArray, Grid, flipped
from . import frames, volumes

if TYPE_CHECKING:
    from ..registration.transform import Transform

Node = Any
MOST_VOXELS = 8_000_000


def between_frames(transform: Transform, fixed_pose: FloatArray, moving_pose: FloatArray) -> Transform:
    """A transform between two scans as :func:`.mrml.volume_from_node` gave them, as one between the own frames of their nodes (LPS mm)."""
    matrix = np.linalg.inv(moving_pose) @ transform.matrix @ fixed_pose
    if transform.displacement is None or transform.grid is None:
        return replace(transform, matrix=matrix)
    back = np.linalg.inv(fixed_pose)
    grid = Grid(transform.grid.shape_zyx, back @ transform.grid.affine)
    return replace(transform, matrix=matrix, displacement=transform.displacement @ back[:3, :3].T, grid=grid)


def write_transform_node(node: Node, transform: Transform) -> None:
    """Make a transform node map its parent (where the fixed points are) to a moving volume's own frame: its TransformFromParent.

    A volume put under the node then lies where the fixed points are.
    """
    import vtk

    matrix = frames._vtk(FLIP @ transform.matrix @ FLIP)
    if transform.displacement is None or transform.grid is None:
        node.SetMatrixTransformFromParent(matrix)
        return
    whole = vtk.vtkGeneralTransform()
    whole.PostMultiply()
    whole.Concatenate(_field(transform.displacement, transform.grid))
    whole.Concatenate(matrix)
    node.SetAndObserveTransformFromParent(whole)


def _field(displacement: NDArray, grid: Grid) -> Any:
    import slicer
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    image = vtk.vtkImageData()
    image.SetDimensions(grid.shape_zyx[::-1])
    image.SetSpacing(grid.spacing_xyz.tolist())
    image.SetOrigin(flipped(grid.origin)[0].tolist())
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(flipped(displacement.reshape(-1, 3))), deep=True))
    direction = np.eye(4)
    direction[:3, :3] = FLIP[:3, :3] @ grid.direction
    field = slicer.vtkOrientedGridTransform()
    field.SetGridDirectionMatrix(frames._vtk(direction))
    field.SetDisplacementGridData(image)
    return field


def resampled(moving: Node, fixed: Node) -> tuple[NDArray, NDArray, FloatArray]:
    """(values of ``moving``, values of ``fixed``, index-to-RAS matrix) on a grid of ``fixed`` (thinned out where it is large).

    The moving volume is taken where the scene shows it now; its lowest value stands where it shows nothing.
    """
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    dimensions = np.array(fixed.GetImageData().GetDimensions())
    step = max(1, int(np.ceil((dimensions.prod() / MOST_VOXELS) ** (1 / 3))))
    size = -(-dimensions // step)
    index_to_ras = volumes._ijk_to_ras(fixed) @ np.diag([step, step, step, 1.0])
    whole = vtk.vtkGeneralTransform()
    whole.PostMultiply()
    whole.Concatenate(frames._vtk(index_to_ras))
    for node, direction in ((fixed, "GetTransformToWorld"), (moving, "GetTransformFromWorld")):
        if node.GetParentTransformNode() is not None:
            part = vtk.vtkGeneralTransform()
            getattr(node.GetParentTransformNode(), direction)(part)
            whole.Concatenate(part)
    whole.Concatenate(frames._vtk(np.linalg.inv(volumes._ijk_to_ras(moving))))
    slice_ = vtk.vtkImageReslice()
    slice_.SetInputData(moving.GetImageData())
    slice_.SetResliceTransform(whole)
    slice_.SetInterpolationModeToLinear()
    slice_.SetOutputOrigin(0, 0, 0)
    slice_.SetOutputSpacing(1, 1, 1)
    slice_.SetOutputExtent(0, int(size[0]) - 1, 0, int(size[1]) - 1, 0, int(size[2]) - 1)
    slice_.SetBackgroundLevel(moving.GetImageData().GetScalarRange()[0])
    slice_.Update()
    found = vtk_to_numpy(slice_.GetOutput().GetPointData().GetScalars()).reshape(size[::-1]).astype(np.float32)
    shown = vtk_to_numpy(fixed.GetImageData().GetPointData().GetScalars()).reshape(dimensions[::-1])[::step, ::step, ::step]
    return found, shown.astype(np.float32), index_to_ras
