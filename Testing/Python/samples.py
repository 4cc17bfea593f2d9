"""Made-up grids, scans and networks that several tests share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.nn import functional as F

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.preprocess import Intensity
from UniversalAnatomicalEmbeddingLib.images.volume import Volume
from UniversalAnatomicalEmbeddingLib.models.model import Model, ModelCard
from UniversalAnatomicalEmbeddingLib.networks.compact import Compact
from UniversalAnatomicalEmbeddingLib.networks.embedder import Embedder

TINY = {"widths": [16, 16, 16, 16], "blocks": [1, 1, 1], "fine_channels": 16, "coarse_channels": 16}


def make_affine(
    angles: tuple[float, ...], spacing: tuple[float, ...], shear: tuple[float, ...] = (0, 0, 0), mirrored: bool = False
) -> np.ndarray:
    """Index (x, y, z, 1) to LPS: rotated, sheared (gantry tilt is one of the three), unequal spacing, first axis flipped where mirrored."""
    affine = np.eye(4)
    tilt = np.eye(3)
    tilt[np.triu_indices(3, 1)] = shear
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ tilt * spacing * [-1 if mirrored else 1, 1, 1]
    affine[:3, 3] = [-123.25, 45.5, -800.125]
    return affine


def affines(smallest_mm: float = 0.3, largest_mm: float = 8.0) -> st.SearchStrategy[np.ndarray]:
    """Every orientation, spacing and handedness that a scan may have."""
    angle, shear = st.floats(-180, 180), st.floats(-0.5, 0.5)
    spacing = st.tuples(*[st.floats(smallest_mm, largest_mm)] * 3)
    return st.builds(make_affine, st.tuples(angle, angle, angle), spacing, st.tuples(shear, shear, shear), st.booleans())


OBLIQUE = make_affine((25, -40, 70), (0.8, 1.3, 3.1), (0.1, -0.2, 0.3), True)


def to_world(affine: np.ndarray, index_zyx: np.ndarray) -> np.ndarray:
    """The definition, written without the package: the affine times (x, y, z, 1)."""
    return np.array([(affine @ [x, y, z, 1.0])[:3] for z, y, x in np.asarray(index_zyx, dtype=float).reshape(-1, 3)])


def tissue(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Noise that is soft tissue everywhere (about -100 to 200 HU), so that no part counts as air."""
    return np.random.default_rng(seed).normal(50, 40, shape).clip(-100, 200).astype(np.float32)


def tissue_volume(shape: tuple[int, int, int] = (32, 32, 32), seed: int = 0, name: str = "scan") -> Volume:
    """A CT of noise on 2 mm LPS voxels."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-31, 17, 401]
    return Volume(tissue(shape, seed), Grid(shape, affine), "ct", name)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and norms in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point() and tensor.ndim > 1:
            tensor.normal_(0.0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.3, 0.3, generator=generator)
            if name.endswith("weight"):
                tensor.add_(1)
    return network.eval().requires_grad_(False)


def tiny_model(modality: tuple[str, ...] = ("ct", "mr"), seed: int = 0) -> Model:
    """A narrow compact network with random weights, and its card; it sees soft tissue in high contrast."""
    intensity = Intensity(ct_knots=((-100, -2), (200, 2)))
    card = ModelCard("tiny", "Tiny", "compact", modality, ("chest",), "Apache-2.0", "none", network=TINY, intensity=intensity)
    return Model(randomised(Compact(**{k: tuple(v) if isinstance(v, list) else v for k, v in TINY.items()}), seed), card)


class Probe(Embedder):
    """Not a network but a measuring instrument: its descriptors are the points of a circle at the mean intensity of each cell (radians)."""

    fine_stride, coarse_stride, deep_stride, top_stride = (2, 2, 2), (4, 8, 8), (2, 2, 2), (2, 2, 2)
    align, multiple, halo = (4, 8, 8), (4, 8, 8), (4, 8, 8)

    def local(self, image: Tensor) -> dict[str, Tensor]:
        return {"deep": F.avg_pool3d(image, 2)}

    def context(self, deep: Tensor) -> dict[str, Tensor]:
        return {"coarse": circle(F.avg_pool3d(deep, (2, 4, 4))), "top": deep}

    def decode(self, local: dict[str, Tensor], top: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield "fine", circle(top)


def circle(angle: Tensor) -> Tensor:
    """Angles ``(B, 1, ...)`` to unit vectors ``(B, 2, ...)``."""
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def probe_model() -> Model:
    """The probe; HU / 100 are the radians it sees, between -2 and 2 (air: -2)."""
    card = ModelCard("probe", "Probe", "probe", ("ct",), (), "", "", intensity=Intensity(ct_knots=((-200, -2), (200, 2))))
    return Model(Probe().eval(), card)
