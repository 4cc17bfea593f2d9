"""Implicit shapes: signed distances (mm, negative inside, exact to first order at the surface) of capsules, ellipsoids and their unions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

Array = NDArray[np.floating]
Table = Sequence[Sequence[float] | NDArray[np.floating]] | NDArray[np.floating]
FAR = 1e3  # distance (mm) given to everything beyond a shape's box


class Part(Protocol):
    """A convex building block."""

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance (mm) at broadcastable canonical coordinates."""

    def hull(self) -> tuple[Array, float]:
        """Points ``(M, 3)`` and a radius (mm): the block lies within that radius of the points' convex hull."""


@dataclass(frozen=True, eq=False)
class Capsule:
    """A cone with round ends from ``start`` to ``end``; ``flat`` times thinner along the unit vector ``normal``."""

    start: Array
    end: Array
    radii: tuple[float, float]
    normal: Array | None = None
    flat: float = 1.0

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """See ``Part``."""
        axis = self.end - self.start
        scaled = axis / max(float(axis @ axis), 1e-9)
        dx, dy, dz = x - float(self.start[0]), y - float(self.start[1]), z - float(self.start[2])
        along = np.clip(dx * float(scaled[0]) + dy * float(scaled[1]) + dz * float(scaled[2]), 0, 1)
        dx, dy, dz = dx - along * float(axis[0]), dy - along * float(axis[1]), dz - along * float(axis[2])
        radius = self.radii[0] + along * (self.radii[1] - self.radii[0])
        square = dx * dx + dy * dy + dz * dz
        if self.normal is None:
            return np.sqrt(square) - radius
        across = (dx * float(self.normal[0]) + dy * float(self.normal[1]) + dz * float(self.normal[2])) ** 2
        length = np.sqrt(square + (self.flat**2 - 1) * across)
        return (length - radius) * length / np.sqrt(square + (self.flat**4 - 1) * across + 1e-6)

    def hull(self) -> tuple[Array, float]:
        """See ``Part``."""
        return np.stack([self.start, self.end]), max(self.radii)


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """An ellipsoid whose axes are the columns of ``axes``; a higher ``power`` squares it off along the third axis into a drum."""

    centre: Array
    radii: Array
    axes: Array = field(default_factory=lambda: np.eye(3))
    power: float = 2.0

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """See ``Part``."""
        offset = [v - float(c) for v, c in zip((x, y, z), self.centre, strict=True)]
        u, v, w = (
            sum(o * float(a / r) for o, a in zip(offset, axis, strict=True)) for axis, r in zip(self.axes.T, self.radii, strict=True)
        )
        a, b, c = (float(r) for r in self.radii)
        if self.power == 2.0:
            k = np.sqrt(u * u + v * v + w * w)
            return k * (k - 1) / np.sqrt((u / a) ** 2 + (v / b) ** 2 + (w / c) ** 2 + 1e-9)
        n, rho, height = self.power, np.sqrt(u * u + v * v) + 1e-6, np.abs(w)
        k = (rho**n + height**n) ** (1 / n)
        slope = (rho / k) ** (2 * n - 2) * ((u / a) ** 2 + (v / b) ** 2) / (rho * rho) + (height / k) ** (2 * n - 2) / (c * c)
        return (k - 1) / np.sqrt(slope + 1e-9)

    def hull(self) -> tuple[Array, float]:
        """See ``Part``."""
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
        return self.centre + (signs * self.radii) @ self.axes.T, 0.0


@dataclass(frozen=True)
class Structure:
    """Tissue painted over what was there before.

    The shape is the smooth union (``blend`` mm) of ``parts`` with the region where field ``base[0]`` is below ``base[1]``, cut to where
    each field in ``clip`` times its sign is below its limit. A ``rind`` names the material of the outer ``rind_mm``.
    """

    name: str
    material: str
    parts: Sequence[Part] = ()
    blend: float = 0.0
    base: tuple[str, float] | None = None
    clip: tuple[tuple[str, float, float], ...] = ()
    rind: str | None = None
    rind_mm: float = 0.0
    slope_y: float = 0.0


BELOW_DIAPHRAGM = (("cage", 1.0, -1.0), ("dome", 1.0, -3.0))


def smooth_min(a: Array, b: Array, width: float) -> Array:
    """Minimum of two distances whose crease is rounded over ``width`` mm (polynomial, never above the minimum)."""
    if width == 0:
        return np.minimum(a, b)
    crease = np.maximum(width - np.abs(a - b), 0)
    return np.minimum(a, b) - crease * crease * (0.25 / width)


def tube(
    points: Table, radii: float | Sequence[float] | Array, step: float = 12.0, normal: ArrayLike | None = None, flat: float = 1.0
) -> list[Capsule]:
    """Capsules along a smooth curve through ``points`` (N, 3); ``radii``: one, or one per point; ``normal`` is made
    perpendicular to the curve."""
    knots = np.asarray(points, dtype=float)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    at = np.linspace(0, length[-1], max(int(np.ceil(length[-1] / step)), 1) + 1)
    curve = CubicSpline(length, knots)(at) if len(knots) > 2 else knots[0] + np.outer(at / length[-1], knots[1] - knots[0])
    sizes = np.interp(at, length, np.broadcast_to(radii, len(knots)))
    ends = zip(curve, curve[1:], sizes, sizes[1:], strict=False)
    return [Capsule(a, b, (float(r), float(s)), None if normal is None else frame(b - a, normal)[:, 1], flat) for a, b, r, s in ends]


def ball(centre: ArrayLike, radii: ArrayLike, axes: Array | None = None, power: float = 2.0) -> Ellipsoid:
    """An ellipsoid from plain numbers (mm)."""
    sizes = np.broadcast_to(np.asarray(radii, dtype=float), 3)
    return Ellipsoid(np.asarray(centre, dtype=float), sizes, np.eye(3) if axes is None else axes, power)


def frame(first: ArrayLike, second: ArrayLike) -> Array:
    """Rotation matrix whose first column points along ``first`` and whose second is as close to ``second`` as it can be."""
    a = np.asarray(first, dtype=float) / np.linalg.norm(first)
    b = np.asarray(second, dtype=float) - a * (a @ np.asarray(second, dtype=float))
    b = b / np.linalg.norm(b)
    return np.stack([a, b, np.cross(a, b)], axis=1)


def both(parts: Sequence[Part]) -> list[Part]:
    """The parts and their mirror images in the sagittal plane."""
    flip = np.array([-1.0, 1.0, 1.0])
    mirrored: list[Part] = []
    for part in parts:
        if isinstance(part, Capsule):
            normal = None if part.normal is None else part.normal * flip
            mirrored.append(Capsule(part.start * flip, part.end * flip, part.radii, normal, part.flat))
        elif isinstance(part, Ellipsoid):
            mirrored.append(Ellipsoid(part.centre * flip, part.radii, part.axes * flip[:, None], part.power))
    return [*parts, *mirrored]


def union_distance(parts: Sequence[Part], points: Array, blend: float = 0.0) -> Array:
    """Signed distance (N,) in mm of canonical ``points`` (N, 3) to the union of ``parts``."""
    result = np.full(len(points), FAR)
    for part in parts:
        result = smooth_min(result, part.distance(*points.T), blend)
    return result


def branches(start: ArrayLike, targets: Array, tip_mm: float, exponent: float = 2.6) -> list[Capsule]:
    """A tapering tree of tubes from ``start`` to every one of the ``targets`` (N, 3), N > 0.

    At each fork the targets are divided across their longest extent; radii follow Murray's law, ``tip_mm`` for a single target.
    """
    point = np.asarray(start, dtype=float)
    width = tip_mm * len(targets) ** (1 / exponent)
    if len(targets) == 1:
        return [Capsule(point, targets[0], (width, 0.6 * width))]
    centred = targets - targets.mean(axis=0)
    order = np.argsort(centred @ np.linalg.svd(centred, full_matrices=False)[2][0])
    parts: list[Capsule] = []
    for group in (targets[order[: len(order) // 2]], targets[order[len(order) // 2 :]]):
        centre = group.mean(axis=0)
        fork = point + (0.38 if len(group) > 1 else 1.0) * (centre - point)
        if len(group) > 1:
            parts.append(
                Capsule(point, fork, (min(width, tip_mm * (len(group) * 1.3) ** (1 / exponent)), tip_mm * len(group) ** (1 / exponent)))
            )
        parts += branches(fork if len(group) > 1 else point, group, tip_mm, exponent)
    return parts


def scattered(candidates: Array, apart_mm: float) -> Array:
    """The candidates (N, 3) that are at least ``apart_mm`` from all accepted before them, in order."""
    chosen = np.empty((0, 3))
    for point in candidates:
        if not len(chosen) or ((chosen - point) ** 2).sum(axis=1).min() > apart_mm**2:
            chosen = np.vstack([chosen, point])
    return chosen
