"""Position of a similarity peak between cells."""

from __future__ import annotations

import torch
from torch import Tensor

_NEIGHBOURS = torch.stack(torch.meshgrid(*[torch.tensor([-1, 0, 1])] * 3, indexing="ij"), -1).reshape(27, 3)


def neighbourhood() -> Tensor:
    """Offsets (27, 3) (z, y, x) of a cell's 3x3x3 surroundings, in the order :func:`peak_offset` expects."""
    return _NEIGHBOURS


def peak_offset(scores: Tensor) -> Tensor:
    """Offset (Q, 3) (z, y, x) in cells, each within half a cell, of the peak of a quadratic fitted to the 3x3x3 scores (Q, 27).

    Least squares over all 27 values; a fit that has no proper maximum falls back to the axis-wise parabola.
    """
    d = _NEIGHBOURS.to(scores)
    z, y, x = d.unbind(1)
    design = torch.stack([torch.ones_like(z), z, y, x, z * z, y * y, x * x, z * y, z * x, y * x], dim=1)
    c = scores @ torch.linalg.pinv(design).T
    gradient = c[:, 1:4]
    hessian = torch.stack(
        [
            torch.stack([2 * c[:, 4], c[:, 7], c[:, 8]], -1),
            torch.stack([c[:, 7], 2 * c[:, 5], c[:, 9]], -1),
            torch.stack([c[:, 8], c[:, 9], 2 * c[:, 6]], -1),
        ],
        dim=1,
    )
    proper = (torch.linalg.eigvalsh(hessian) < -1e-6).all(1)
    safe = torch.where(proper[:, None, None], hessian, -torch.eye(3).to(scores))
    offset = -torch.linalg.solve(safe, gradient[..., None])[..., 0]
    curvature = torch.diagonal(hessian, dim1=1, dim2=2)
    axis_wise = torch.where(curvature < -1e-6, -gradient / curvature.clamp(max=-1e-6), torch.zeros_like(gradient))
    return torch.where(proper[:, None], offset, axis_wise).clamp(-0.5, 0.5)
