"""The published SAM / UAE inference, stated from its description with plain torch and numpy calls, to be compared with.

Arrays and maps are ``(Z, Y, X)`` or ``(1, C, Z, Y, X)``; points and cells are whole numbers in the order x, y, z, as in the original.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
Triple = tuple[int, int, int]


# --- network --------------------------------------------------------------------------------------------------------------------------


def convolve(state: State, name: str, x: Tensor, stride: Triple = (1, 1, 1)) -> Tensor:
    """A convolution with "same" padding, and the batch norm after it where the checkpoint has one."""
    kernel = state[f"{name}.conv.weight"]
    padding = tuple(k // 2 for k in kernel.shape[2:])
    x = F.conv3d(x, kernel, state.get(f"{name}.conv.bias"), stride, padding)
    if f"{name}.bn.weight" not in state:
        return x
    mean, var, weight, bias = (state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5)


def stage(state: State, name: str, x: Tensor, stride: Triple) -> Tensor:
    """Two residual blocks; the first one strided, with a convolution on its skip connection."""
    inner = convolve(state, f"{name}.0.conv2", F.relu(convolve(state, f"{name}.0.conv1", x, stride)))
    x = F.relu(inner + convolve(state, f"{name}.0.downsample", x, stride))
    inner = convolve(state, f"{name}.1.conv2", F.relu(convolve(state, f"{name}.1.conv1", x)))
    return F.relu(inner + x)


def pyramid(state: State, name: str, levels: list[Tensor]) -> Tensor:
    """Laterals summed from the coarsest level down, by nearest neighbour, then one convolution on the finest."""
    merged = convolve(state, f"{name}.lateral_convs.{len(levels) - 1}", levels[-1])
    for i in range(len(levels) - 2, -1, -1):
        merged = convolve(state, f"{name}.lateral_convs.{i}", levels[i]) + F.interpolate(merged, size=levels[i].shape[2:], mode="nearest")
    return convolve(state, f"{name}.fpn_convs.0", merged)


def embed(state: State, image: Tensor) -> dict[str, Tensor]:
    """The maps "fine", "coarse" and, where the checkpoint has the head, "semantic" of an image ``(1, 1, Z, Y, X)``, unit length over channels."""
    x = F.relu(convolve(state, "backbone.conv1", image))
    c1 = F.max_pool3d(stage(state, "backbone.layer1", x, (1, 2, 2)), (2, 1, 1), (2, 1, 1))
    del x
    c2 = stage(state, "backbone.layer2", c1, (1, 2, 2))
    c3 = stage(state, "backbone.layer3", c2, (1, 2, 2))
    c4 = stage(state, "backbone.layer4", c3, (2, 2, 2))
    maps = {"fine": pyramid(state, "neck", [c1, c2, c3]), "coarse": pyramid(state, "read_out_head", [c4])}
    if any(key.startswith("semantic_head.") for key in state):
        maps["semantic"] = pyramid(state, "semantic_head", [c1, c2, c3])
    return {name: F.normalize(value, dim=1) for name, value in maps.items()}


# --- input ----------------------------------------------------------------------------------------------------------------------------


def resampled(array: NDArray, spacing_zyx: tuple[float, ...]) -> NDArray:
    """Linear interpolation to 2 mm voxels, outer corner kept, size rounded up, 0 beyond the outer faces of the scan."""
    for axis, spacing in enumerate(spacing_zyx):
        n = array.shape[axis]
        at = (np.arange(int(np.ceil(n * spacing / 2 - 1e-6))) + 0.5) * 2 / spacing - 0.5
        low = np.clip(np.floor(at).astype(int), 0, n - 1)
        high = np.minimum(low + 1, n - 1)
        weight = np.clip(at, 0, n - 1) - low
        shape = [-1 if a == axis else 1 for a in range(3)]
        weight = weight.reshape(shape)
        array = array.take(low, axis) * (1 - weight) + array.take(high, axis) * weight
        array = np.where((at < n - 0.5 - 1e-6).reshape(shape), array, 0)
    return array


def scaled_ct(hu: NDArray) -> NDArray:
    """-1024 .. 3071 HU to -50 .. 205."""
    return (np.clip(hu, -1024, 3071) + 1024) / 4095 * 255 - 50


def scaled_mr(image: NDArray) -> NDArray:
    """The 0.2 and 99.8 percentiles of the whole scan, cut to whole numbers, the upper at least 1, to -50 .. 205."""
    low, high = (int(p) for p in np.percentile(image, (0.2, 99.8)))
    high = max(high, 1)
    return (np.clip(image, low, high) - low) / (high - low) * 255 - 50


# --- matching -------------------------------------------------------------------------------------------------------------------------


def similarity(query: dict[str, Tensor], key: dict[str, Tensor], cell: NDArray) -> Tensor:
    """Mean cosine of the heads ``(Z, Y, X)`` of a cell of one scan with all cells of another; both coarse maps are enlarged first."""
    x, y, z = (int(c) for c in cell)
    total = torch.zeros(key["fine"].shape[2:])
    for name in key:
        here, there = query[name], key[name]
        if name == "coarse":
            here, there = enlarged(here, query["fine"]), enlarged(there, key["fine"])
        total += torch.einsum("c,czyx->zyx", here[0, :, z, y, x], there[0])
    return total / len(key)


def enlarged(coarse: Tensor, fine: Tensor) -> Tensor:
    """The coarse map on the fine cells, its vectors at unit length again."""
    return F.normalize(F.interpolate(coarse, fine.shape[2:], mode="trilinear", align_corners=False), dim=1)


def first_maximum(scores: Tensor) -> NDArray:
    """Its index x, y, z."""
    return np.array([int(i[0]) for i in torch.where(scores == scores.max())])[::-1]


def nearest_voxel(query: dict[str, Tensor], key: dict[str, Tensor], voxel: NDArray, ratio: NDArray, shape: Triple) -> tuple[NDArray, float]:
    """Best native voxel (x, y, z) and similarity for a native voxel; ``ratio`` spacing / 2 mm of the first scan, ``shape`` of the second."""
    cell = np.floor(voxel * ratio / 2).astype(int)
    scores = F.interpolate(similarity(query, key, cell)[None, None], shape, mode="trilinear", align_corners=False)[0, 0]
    return first_maximum(scores), float(scores.max())


def fixed_point(
    query: dict[str, Tensor], key: dict[str, Tensor], voxel: NDArray, ratios: tuple[NDArray, NDArray], shape: Triple, margin: int = 2
) -> tuple[NDArray, float]:
    """The structural inference of UAE in whole native voxels; ``ratios`` (x, y, z) of both scans, ``shape`` (z, y, x) of the second."""
    ratio1, ratio2 = ratios
    size = np.array(query["fine"].shape[2:])[::-1]
    centre = np.floor(np.round(voxel) * ratio1 * 0.5).astype(int)
    offsets = [(i, j, k) for i in range(-margin, margin + 1) for j in range(-margin, margin + 1) for k in range(-margin, margin + 1)]
    cells = np.unique(np.clip(centre + np.array(offsets), 0, size - 1), axis=0)
    for _ in range(2):
        target = [first_maximum(similarity(query, key, c)) for c in cells]
        images = np.round((np.array(target) * 2 + 0.5) / ratio2).astype(int)
        maps = [similarity(key, query, c) for c in np.floor(images * ratio2 * 0.5).astype(int)]
        anchors = np.round((np.array([first_maximum(m) for m in maps]) * 2 + 0.5) / ratio1).astype(int)
        scores = np.array([float(m.max()) for m in maps])
        cells = np.floor(anchors * ratio1 * 0.5).astype(int)
    kept = [i for i in range(len(anchors)) if np.linalg.norm((anchors[i] - voxel) * ratio1) < 100 and scores[i] > 0.8]
    pairs: dict[tuple, NDArray] = {}
    for i in kept:
        pairs.setdefault(tuple(images[i]), anchors[i])
    images, anchors = np.array(list(pairs)), np.array(list(pairs.values()))
    flat = len(set(images[:, 2])) == 1
    used = [0, 1] if flat else [0, 1, 2]
    linear = np.zeros((3, 3))
    for axis in used:
        linear[axis, used] = robust_fit(np.c_[anchors[:, used], np.ones(len(anchors))], images[:, axis])[:-1]
    if flat:
        linear[2, 2] = ratio1[2] / ratio2[2]
    carried = (images - (linear @ (anchors - voxel).T).T).astype(int)
    carried = np.clip(carried, 0, np.array(shape)[::-1] - 1)
    return carried.mean(axis=0).astype(int), float(scores[kept].mean())


def robust_fit(design: NDArray, values: NDArray) -> NDArray:
    """Huber regression (threshold 1.345, scale = median absolute residual / 0.6745), by reweighting until the deviance stands still."""
    weights, deviances = np.ones(len(values)), [np.inf]
    while True:
        root = np.sqrt(weights)
        coefficients = np.linalg.pinv(root[:, None] * design) @ (root * values)
        residual = values - design @ coefficients
        scale = np.median(np.abs(residual)) / 0.6744897501960817
        if scale == 0:
            return coefficients
        z = np.abs(residual / scale)
        deviances.append(np.where(z <= 1.345, z**2 / 2, 1.345 * z - 1.345**2 / 2).sum())
        if abs(deviances[-1] - deviances[-2]) <= 1e-8 or len(deviances) > 50:
            return coefficients
        weights = np.where(z <= 1.345, 1.0, 1.345 / np.maximum(z, 1.345))
