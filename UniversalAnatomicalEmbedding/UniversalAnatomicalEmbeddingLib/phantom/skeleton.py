"""The bony frame of the phantom: the wall of chest and abdomen as a field, spine, ribs, sternum, shoulder girdle; canonical LPS mm."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from .shapes import Array, Part, Structure, ball, both, frame, tube

CAGE_POWER = 2.3
CAGE_EGG = 0.08  # by how much the trunk is wider behind than in front of its middle
CAGE = np.array([  # inner chest and abdominal wall: z, half width, front y, back y
    (-400, 128, -92, 68), (-360, 128, -92, 66), (-300, 126, -95, 64), (-260, 126, -97, 66), (-220, 130, -100, 70), (-180, 136, -107, 75),
    (-150, 140, -110, 80), (-120, 143, -111, 85), (-90, 144, -107, 87), (-60, 143, -101, 86), (-30, 140, -95, 83), (0, 133, -86, 77),
    (30, 120, -74, 69), (50, 108, -61, 61), (70, 92, -44, 53), (85, 80, -32, 46), (100, 66, -20, 40), (130, 45, -12, 34),
    (200, 40, -10, 30),
], dtype=float).T  # fmt: skip
SPINE = np.array([  # centre of each vertebral body: z, y, half width, half depth
    (124, 2, 11, 9), (107, 4, 12, 9), (89, 9, 13, 10), (71, 18, 14, 10), (51, 27, 14, 11), (31, 34, 14, 12), (11, 39, 14, 13),
    (-11, 43, 14, 14), (-33, 46, 15, 14), (-55, 48, 15, 15), (-78, 48, 16, 15), (-102, 47, 16, 15), (-126, 45, 17, 15.5),
    (-151, 42, 18, 16), (-177, 38, 20, 16), (-207, 31, 21, 16.5), (-239, 24, 22, 17), (-272, 19, 23, 17.5), (-306, 17, 24, 18),
    (-340, 22, 25, 18),
], dtype=float)  # fmt: skip
FIRST_THORACIC, FIRST_LUMBAR = 3, 15


@lru_cache(maxsize=1)
def _cage_tables() -> tuple[Array, tuple[CubicSpline, ...]]:
    return CAGE[0], tuple(CubicSpline(CAGE[0], row) for row in (CAGE[1], (CAGE[2] + CAGE[3]) / 2, (CAGE[3] - CAGE[2]) / 2))


def cage_profile(z: Array | float) -> tuple[Array, Array, Array]:
    """Half width, centre y and half depth (mm) of the inner trunk wall at heights ``z``; any shape."""
    knots, splines = _cage_tables()
    fine, z = np.arange(knots[0], knots[-1] + 1, 2.0), np.asarray(z)
    width, centre, depth = (np.interp(z, fine, s(fine)).astype(z.dtype) for s in splines)
    return width, centre, depth


def cage_point(angle: ArrayLike, z: ArrayLike, out: float) -> Array:
    """Points ``(N, 3)`` ``out`` mm outside the inner trunk wall; ``angle`` runs from 0 (back) over pi/2 (patient's left) to pi (front)."""
    width, centre, depth = cage_profile(np.asarray(z, dtype=float))
    sine, cosine = np.sin(angle), np.cos(angle)
    u, v = (np.sign(s) * np.abs(s) ** (2 / CAGE_POWER) for s in (sine, cosine))
    return np.stack([(width + out) * (1 + CAGE_EGG * v) * u, centre + (depth + out) * v, np.asarray(z, dtype=float)], axis=1)


def cage_angle(x: float, z: float, out: float) -> float:
    """The angle of ``cage_point`` on the front of the trunk at lateral position ``x`` > 0."""
    angles = np.linspace(np.pi / 2, np.pi, 400)
    return float(np.interp(-x, -cage_point(angles, np.full(400, z), out)[:, 0], angles))


def cage_distance(x: Array, y: Array, z: Array) -> Array:
    """Signed distance (mm) to the inner wall of chest and abdomen."""
    width, centre, depth = cage_profile(z)
    v = (y - centre) / depth
    width = width * (1 + CAGE_EGG * np.clip(v, -1.5, 1.5))
    u, v = np.abs(x) / width + 1e-6, np.abs(v) + 1e-6
    up, vp = u**CAGE_POWER, v**CAGE_POWER
    level = (up + vp) ** (1 / CAGE_POWER)
    gradient = level ** (1 - CAGE_POWER) * np.sqrt((up / (u * width)) ** 2 + (vp / (v * depth)) ** 2)
    return (level - 1) / gradient


def spine_at(z: Array | float) -> Array:
    """Centre y, half width and half depth (3, N) of the vertebral column at heights ``z``."""
    order = SPINE[::-1]
    return np.stack([np.interp(np.asarray(z), order[:, 0], order[:, k]) for k in (1, 2, 3)])


def _spine() -> Iterator[Structure]:
    """Vertebrae with discs, arches, processes, and the canal with the cord; the top of the pelvis."""
    bodies, discs, arches = [], [], []
    for k, (z, y, wide, deep) in enumerate(SPINE):
        slope = np.gradient(SPINE[:, 1], SPINE[:, 0])[k]
        axes = frame((1, 0, 0), (0, 1, -slope))
        pitch = abs(np.gradient(SPINE[:, 0])[k])
        bodies.append(ball((0, y, z), (wide, deep, 0.40 * pitch), axes, 7.0))
        if k + 1 < len(SPINE):
            discs.append(ball((0, *((SPINE[k, 1::-1] + SPINE[k + 1, 1::-1]) / 2)), (wide - 1, deep - 1, 0.3 * pitch), axes, 7.0))
        arches += _arch(k, float(z), float(y + deep), float(pitch))
    crest = tube(((62, 66, -372), (92, 52, -336), (124, 12, -342), (122, -24, -364)), 7)
    pelvis = [*crest, *tube(((66, 62, -390), (116, -6, -376)), 36, 90, (0.6, 0.75, 0), 8), *tube(((38, 44, -366), (66, 66, -382)), 16)]
    yield Structure("discs", "disc", discs)
    yield Structure("vertebrae", "spongiosa", (*bodies, *arches), 2.5, rind="cortical", rind_mm=1.7)
    yield Structure("pelvis", "spongiosa", (*both(pelvis), *tube(((0, 30, -370), (0, 52, -420)), 26)), 6, rind="cortical", rind_mm=2)
    canal = [(0, y + deep + 8.5, z) for z, y, _, deep in SPINE]
    yield Structure("spinal_canal", "csf", tube(canal, 8.0, 20))
    yield Structure("spinal_cord", "cord", tube(canal[: FIRST_LUMBAR + 1], (5, 5, 5, *[4.5] * (FIRST_LUMBAR - 3), 2), 20))


def _arch(k: int, z: float, back: float, pitch: float) -> list[Part]:
    """Pedicles, laminae and processes of vertebra ``k`` whose body ends at y = ``back``."""
    thoracic = FIRST_THORACIC <= k < FIRST_LUMBAR
    s = 1.0 if thoracic else 1.12
    side = [
        *tube(((10.5 * s, back - 5, z + 3), (11.5 * s, back + 8, z + 2)), 4),
        *tube(((11.5 * s, back + 8, z), (0, back + 20, z - 6)), 4.2),
        *tube(((12.5 * s, back + 9, z + 0.52 * pitch), (12.5 * s, back + 10, z - 0.52 * pitch)), (4.2, 4.8)),
    ]
    tip, lower = ((0, back + 46, z - 20), 3.2) if thoracic else ((0, back + 44, z - 9), 3.6)
    spinous = tube(((0, back + 19, z - 5), tip), (7, 8), 60, (1, 0, 0), 8 / lower)
    if thoracic:
        side += tube(((12, back + 8, z + 2), (33 - 0.8 * (k - FIRST_THORACIC), back + 17, z + 4)), (5, 4.6))
    else:
        side += tube(((13, back + 5, z + 2), (24 if k < FIRST_THORACIC else 44, back + 4, z + 3)), (5, 3.6))
    return [*both(side), *spinous]


RIBS = (  # head z, drop of the bony rib, x where it ends in front (the last two: the share of half the way round)
    (78, 31, 34.0), (59, 54, 42.0), (39, 64, 50.0), (19, 76, 58.0), (-2, 86, 66.0), (-24, 94, 74.0), (-46, 100, 84.0), (-68, 103, 95.0),
    (-92, 96, 104.0), (-116, 86, 111.0), (-141, 62, 0.52), (-166, 36, 0.33),
)  # fmt: skip
STERNAL_Z = (47, 6, -17, -37, -55, -70, -82)
RIB_OUT = 4.6


def _rib(number: int) -> tuple[list[Part], tuple[float, float]]:
    """The left rib ``number`` (0..11) and the angle and height where its bone ends."""
    head, drop, end = RIBS[number]
    last = cage_angle(end, head - drop, RIB_OUT) if number < 10 else end * np.pi
    y, wide, deep = spine_at(head)
    first = 0.33
    share = np.linspace(0.06, 1, 20)
    z = head - drop * np.sin(share * np.pi / 2) ** 1.25
    shaft = cage_point(first + (last - first) * (share - 0.06) / 0.94, z, RIB_OUT)
    neck = np.array([(wide + 2, y + deep - 5, head), (wide + 16, max(y + deep + 9, shaft[0, 1] - 2.5), head - 1.5)])
    neck[1, 0] = min(neck[1, 0], shaft[0, 0] - 8)
    parts: list[Part] = [*tube(np.vstack([neck, shaft[1:2]]), 4.4)]
    for a, b in itertools.pairwise(shaft[1:]):
        width, centre, depth = (float(v) for v in cage_profile(a[2]))
        side, front = a[0] / width, (a[1] - centre) / depth
        outward = (abs(side) ** (CAGE_POWER - 2) * side / width, abs(front) ** (CAGE_POWER - 2) * front / depth, 0)
        parts += tube((a, b), 6.2, 60, outward, 1.8)
    return parts, (last, head - drop)


def _ribs() -> Iterator[Structure]:
    """Twelve pairs of ribs, costal cartilages and the sternum."""
    bones: list[Part] = []
    cartilage: list[Part] = []
    previous: list[Array] = []
    for number in range(12):
        parts, (angle, height) = _rib(number)
        bones += parts
        if number >= 10:
            continue
        if number < 7:
            goal = (cage_angle(19, STERNAL_Z[number], RIB_OUT), STERNAL_Z[number])
        else:
            goal = tuple(0.55 * np.array(previous[-1][0]) + 0.45 * np.array(previous[-1][1]))
        share = np.linspace(0, 1, 9)
        bend = -9 * np.sin(np.pi * share) * (number > 2)
        cartilage += tube(cage_point(angle + (goal[0] - angle) * share, height + (goal[1] - height) * share**1.3 + bend, RIB_OUT), 5.0)
        previous.append(np.array([(angle, height), goal]))
    front = np.array([0, -0.97, 0.24])
    sternum = [
        *both([*tube(((12, -77, 42), (20, -78, 46)), (13, 10), 30, front, 1.8)]),
        *tube(((0, -80, 36), (0, -90, 14)), (22, 17), 30, front, 2.7),
        *tube(((0, -93, 4), (0, -107, -40), (0, -115, -84)), (17, 18, 20), 30, front, 3),
        *tube(((0, -117, -100), (0, -116, -122)), (8, 5), 30, front, 2),
    ]
    yield Structure("cartilage", "cartilage", both(cartilage), 3)
    yield Structure("ribs", "spongiosa", both(bones), rind="cortical", rind_mm=1.5)
    yield Structure("sternum", "spongiosa", sternum, rind="cortical", rind_mm=1.2)


def shoulder_blade(radius: float, flat: float, shift: float) -> list[Part]:
    """A fan of flattened tubes along the left shoulder blade, ``shift`` mm in front of (negative: behind, muscle) its plate."""
    normal = np.array([0.68, 0.70, 0.22]) / np.linalg.norm([0.68, 0.70, 0.22])
    rays = (((150, 26, 58), (104, 78, 72)), ((148, 30, 48), (106, 84, 42)), ((148, 32, 38), (112, 88, 10)), ((148, 34, 30), (120, 88, -22)))
    return [p for a, b in rays for p in tube(np.array([a, b]) - shift * normal, (0.6 * radius, radius), 80, normal, flat)]


def _girdle() -> Iterator[Structure]:
    """Clavicles, shoulder blades and upper arms (raised)."""
    clavicle = tube(((25, -72, 59), (52, -80, 70), (92, -66, 80), (128, -32, 92), (150, -6, 98)), (9.5, 6.5, 6, 6, 5.5))
    blade: list[Part] = [
        *shoulder_blade(17, 8, 0),
        ball((143, 20, 60), (8, 14, 17)),
        *tube(((150, 27, 52), (136, 56, 8), (124, 84, -44)), (7, 5.5, 5.5)),
        *tube(((104, 82, 62), (130, 64, 84), (158, 20, 104)), (4, 5.5, 6)),
        *tube(((148, 8, 76), (134, -18, 72)), (6, 5)),
        *tube(((103, 78, 76), (110, 86, 20), (124, 86, -46)), 3.8),
    ]
    humerus: list[Part] = [ball((162, 7, 70), 22), *tube(((164, 5, 78), (174, 1, 112), (194, -8, 200)), (20, 12, 11))]
    yield Structure("shoulder_blades", "spongiosa", both(blade), 3, rind="cortical", rind_mm=1.6)
    yield Structure("humeri", "spongiosa", both(humerus), 6, rind="cortical", rind_mm=2.6)
    yield Structure("clavicles", "spongiosa", both(clavicle), 2, rind="cortical", rind_mm=1.9)


def skeleton() -> Iterator[Structure]:
    """Spine and pelvis, rib cage and shoulder girdle, in the order in which they are painted."""
    for build in (_spine, _ribs, _girdle):
        yield from build()
