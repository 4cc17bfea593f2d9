"""The canonical torso of the phantom: tissues, fields and structures in LPS millimetres with the carina at the origin.

Proportions are those of an adult lying on the back with raised arms. Everything here is fixed: patients differ by the map of
``phantom.py``, so equal canonical points correspond.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from .phantom_shapes import FAR, Array, Capsule, Part, Table, ball, both, branches, frame, scattered, smooth_min, tube, union_distance


class Material(NamedTuple):
    """What a tissue looks like: HU, HU gained at full contrast, amplitude of its texture (HU), T1-weighted MR intensity."""

    hu: float
    enhancement: float
    texture: float
    mr: float


MATERIALS = {
    "air": Material(-1000, 0, 0, 10), "skin": Material(5, 10, 5, 380), "fat": Material(-104, 0, 9, 880), "muscle": Material(54, 10, 9, 330),
    "lung": Material(-850, 14, 32, 60), "fissure": Material(-740, 0, 0, 100), "blood": Material(43, 210, 3, 110),
    "myocardium": Material(48, 60, 6, 330), "liver": Material(58, 50, 6, 470), "hepatic_vein": Material(40, 115, 2, 200),
    "spleen": Material(47, 75, 5, 300), "kidney": Material(33, 147, 5, 350), "urine": Material(6, 0, 2, 150), "stomach": Material(22, 0, 12, 260),
    "wall": Material(44, 30, 5, 330), "bowel": Material(30, 20, 18, 400), "faeces": Material(-120, 0, 130, 420), "bile": Material(8, 0, 1, 140),
    "pancreas": Material(40, 50, 12, 500), "cortical": Material(760, 0, 60, 60), "spongiosa": Material(205, 0, 32, 560),
    "disc": Material(88, 0, 8, 240), "cartilage": Material(115, 0, 20, 300), "csf": Material(10, 0, 3, 130), "cord": Material(38, 0, 2, 360),
    "thyroid": Material(105, 60, 8, 420), "oesophagus": Material(38, 12, 5, 320), "gas": Material(-985, 0, 6, 12),
}  # fmt: skip


@dataclass(frozen=True)
class Structure:
    """Tissue painted over what was there before.

    The shape is the smooth union (``blend`` mm) of ``parts`` with the region where field ``base[0]`` is below ``base[1]``, cut to where
    each field in ``clip`` times its sign is below its limit. A ``rind`` names the material of the outer ``rind_mm``.
    """

    name: str
    material: str
    parts: tuple[Part, ...] = ()
    blend: float = 0.0
    base: tuple[str, float] | None = None
    clip: tuple[tuple[str, float, float], ...] = ()
    rind: str | None = None
    rind_mm: float = 0.0
    slope_y: float = 0.0


BELOW_DIAPHRAGM = (("cage", 1.0, -1.0), ("dome", 1.0, -3.0))
CAGE_POWER = 2.3
CAGE_EGG = 0.08  # by how much the trunk is wider behind than in front of its middle
CAGE = np.array([  # inner chest and abdominal wall: z, half width, front y, back y
    (-400, 128, -92, 68), (-360, 128, -92, 66), (-300, 126, -95, 64), (-260, 126, -97, 66), (-220, 130, -100, 70), (-180, 136, -107, 75),
    (-150, 140, -110, 80), (-120, 143, -111, 85), (-90, 144, -107, 87), (-60, 143, -101, 86), (-30, 140, -95, 83), (0, 133, -86, 77),
    (30, 120, -74, 69), (50, 108, -61, 61), (70, 92, -44, 53), (85, 80, -32, 46), (100, 66, -20, 40), (130, 45, -12, 34), (200, 40, -10, 30),
], dtype=float).T  # fmt: skip
SPINE = np.array([  # centre of each vertebral body: z, y, half width, half depth
    (124, 2, 11, 9), (107, 4, 12, 9), (89, 9, 13, 10), (71, 18, 14, 10), (51, 27, 14, 11), (31, 34, 14, 12), (11, 39, 14, 13),
    (-11, 43, 14, 14), (-33, 46, 15, 14), (-55, 48, 15, 15), (-78, 48, 16, 15), (-102, 47, 16, 15), (-126, 45, 17, 15.5), (-151, 42, 18, 16),
    (-177, 38, 20, 16), (-207, 31, 21, 16.5), (-239, 24, 22, 17), (-272, 19, 23, 17.5), (-306, 17, 24, 18), (-340, 22, 25, 18),
], dtype=float)  # fmt: skip
FIRST_THORACIC, FIRST_LUMBAR = 3, 15
MEDIASTINUM_CREASE_MM = 4.0


@lru_cache(maxsize=1)
def _cage_tables() -> tuple[Array, tuple[CubicSpline, ...]]:
    return CAGE[0], tuple(CubicSpline(CAGE[0], row) for row in (CAGE[1], (CAGE[2] + CAGE[3]) / 2, (CAGE[3] - CAGE[2]) / 2))


def cage_profile(z: ArrayLike) -> tuple[Array, Array, Array]:
    """Half width, centre y and half depth (mm) of the inner trunk wall at heights ``z``; any shape."""
    knots, splines = _cage_tables()
    fine = np.arange(knots[0], knots[-1] + 1, 2.0)
    return tuple(np.interp(z, fine, s(fine)).astype(np.asarray(z).dtype) for s in splines)  # type: ignore[return-value]


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


def diaphragm_height(x: Array, y: Array) -> Array:
    """Height z (mm) of the diaphragm: a high right dome, a lower left one and the plateau under the heart."""
    height: Array | None = None
    for top, cx, cy, rx, ry in ((-99.0, -66.0, -8.0, 92.0, 101.0), (-112.0, 70.0, -4.0, 88.0, 99.0), (-121.0, 6.0, -34.0, 76.0, 70.0)):
        square = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2
        dome = top - 78 * square * (0.3 + 0.7 * np.minimum(square, 1.5) ** 2)
        height = dome if height is None else -smooth_min(-height, -dome, 18.0)
    assert height is not None
    return height


def lung_distance(x: Array, y: Array, z: Array, cage: Array, dome: Array, mediastinum: Array) -> Array:
    """Signed distance (mm) to both lungs: the cage above the diaphragm, down to the pleural recess, without the mediastinum."""
    u, v, w = (np.abs(x) - 50) / 66, (y - 8) / 86, np.maximum(z - 34, 0) / 62
    u, v = u * u, v * v
    apex = (np.sqrt(np.sqrt(u * u + v * v) + w * w) - 1) * 55
    recess = -150 - 0.24 * y - z
    distance = np.maximum(np.maximum(cage + 1.5, -dome), np.maximum(recess, np.where(w > 0, apex, -FAR)))
    return np.maximum(np.maximum(distance, -mediastinum), 2.0 - np.abs(x - 5))


def lung_at(points: Array) -> Array:
    """Signed distance (N,) in mm of canonical ``points`` (N, 3) to the lungs."""
    x, y, z = points.T
    return lung_distance(x, y, z, cage_distance(x, y, z), z - diaphragm_height(x, y), union_distance(mediastinum(), points, MEDIASTINUM_CREASE_MM))


def spine_at(z: ArrayLike) -> Array:
    """Centre y, half width and half depth (3, N) of the vertebral column at heights ``z``."""
    order = SPINE[::-1]
    return np.stack([np.interp(z, order[:, 0], order[:, k]) for k in (1, 2, 3)])


# Mediastinum: centre lines (x, y, z), radii in mm; used for the vessels themselves and for the envelope that parts the lungs.
TRACHEA: Table = ((0, -36, 130), (0, -30, 90), (0, -22, 58), (0, -8, 25), (0, 1, 8))
RIGHT_BRONCHUS: Table = ((0, 1, 8), (-9, 2, 0), (-24, 4, -9), (-36, 8, -24))
LEFT_BRONCHUS: Table = ((0, 1, 8), (11, 3, -1), (26, 6, -11), (42, 10, -19))
AORTA: Table = (
    (4, -30, -66), (-3, -40, -48), (-9, -46, -25), (-9, -46, 0), (-5, -42, 20), (7, -27, 33), (18, -8, 33), (25, 10, 22), (27, 22, 4),
    (27, 29, -25), (27, 33, -60), (23, 31, -95), (14, 24, -125), (7, 16, -155), (4, 6, -190), (3, -2, -225), (3, -9, -265), (3, -10, -300),
)  # fmt: skip
AORTA_RADII = (15, 16, 15.5, 15, 14.5, 13.5, 13, 12.5, 12, 12, 11.5, 11, 10.5, 10, 9.5, 9, 8.5, 8.5)
PULMONARY_TRUNK: Table = ((17, -58, -52), (22, -47, -34), (23, -32, -17), (30, -16, -10), (42, 2, -9), (50, 14, -16))
RIGHT_PULMONARY: Table = ((22, -30, -18), (6, -22, -22), (-14, -16, -23), (-38, -10, -26))
SVC: Table = ((-24, -36, 42), (-25, -34, 10), (-25, -31, -20), (-24, -28, -48))
IVC: Table = ((-24, -24, -84), (-25, -16, -104), (-24, 2, -140), (-21, 6, -180), (-18, 4, -225), (-15, -2, -300))
OESOPHAGUS: Table = ((3, -10, 110), (3, -2, 75), (5, 10, 30), (6, 17, 0), (7, 20, -40), (10, 18, -80), (20, 8, -110), (32, 2, -124))
HEART_AXIS = np.array([0.70, -0.48, -0.53])
LEFT_VENTRICLE = np.array([34.0, -42.0, -88.0])


def heart_frame() -> Array:
    """Columns: long axis towards the apex, direction from the right to the left ventricle, and their normal."""
    return frame(HEART_AXIS, (0.72, 0.68, 0.1))


def heart_chambers(wall: float) -> dict[str, Part]:
    """The four chambers; ``wall`` mm are added to the radii."""
    axes = heart_frame()
    return {
        "left_ventricle": ball(LEFT_VENTRICLE, np.array([46, 29, 29]) + wall, axes),
        "right_ventricle": ball((8, -62, -88), np.array([43, 20, 33]) + wall, axes),
        "right_atrium": ball((-27, -32, -68), np.array([21, 25, 30]) + wall),
        "left_atrium": ball((4, -3, -58), np.array([33, 17, 21]) + wall),
    }


@lru_cache(maxsize=1)
def mediastinum() -> tuple[Part, ...]:
    """The envelope between the lungs, to be united with a crease of MEDIASTINUM_CREASE_MM."""
    column = [(0, y + 1, z) for z, y, _, _ in SPINE]
    back = [(0, y + 30, z) for z, y, _, _ in SPINE]
    return (
        *heart_chambers(4).values(), ball((22, -42, -116), (48, 36, 20)), *tube(AORTA[:-3], [r + 3 for r in AORTA_RADII[:-3]]),
        *tube(TRACHEA, 12), *tube(RIGHT_BRONCHUS[:3], 8), *tube(LEFT_BRONCHUS, 8), *tube(PULMONARY_TRUNK[:5], (20, 18, 16, 14, 11)),
        *tube(RIGHT_PULMONARY[:3], (15, 13, 11)), *tube(SVC, 13), *tube(IVC[:3], 14), *tube(OESOPHAGUS, 8), *tube(column, 19),
        *tube(back, 25), *tube(((8, 6, -58), (8, 4, -95), (4, 10, -150)), (30, 34, 34), normal=(1, 0, 0), flat=2.4),
        *tube(((0, -22, 42), (0, -22, 75), (0, -20, 112)), (26, 25, 34)),
        *tube(((2, -68, 50), (5, -84, 5), (10, -98, -40), (16, -104, -85)), (20, 20, 26, 28), normal=(1, 0, 0), flat=3.5),
    )  # fmt: skip


def _trunk(structures: list[Structure]) -> None:
    """Outline, chest and abdominal wall, muscles outside the cage, the fat-filled cavity."""
    erector = tube([(24 + max(-z - 150, 0) / 14, float(spine_at(z)[0]) + 48, z) for z in (130, 100, 60, 0, -60, -120, -180, -240, -300, -380)],
                   (14, 14, 15, 16, 17, 18, 21, 24, 25, 25))  # fmt: skip
    arm = tube(((150, 6, 62), (168, 2, 100), (190, -8, 190)), (42, 42, 39))
    lumps = [ball((122, 40, 26), (62, 48, 96)), ball((90, -62, 14), (66, 40, 66)), *arm, *tube(((50, 24, 88), (135, 14, 78)), (34, 38))]
    neck = tube(((0, 4, 70), (0, -4, 130), (0, -8, 260)), (50, 55, 56))
    structures.append(Structure("body", "fat", (*both(lumps), *both(erector), *neck), 38, ("cage", 15.0), rind="skin", rind_mm=1.6))
    structures.append(Structure("wall", "muscle", base=("cage", 11.0), clip=(("body", 1, -3),)))
    chest = [
        *tube(((32, -100, -4), (88, -91, 14), (138, -52, 46), (166, -14, 74)), (32, 34, 22, 14), normal=(0.35, -1, 0), flat=3.2),
        *tube(((48, -114, -42), (96, -98, -22), (138, -56, 36)), (20, 26, 18), normal=(0.35, -1, 0), flat=3.4),
        *tube(((84, -80, -30), (112, -60, 34), (130, -18, 74)), (18, 16, 9), normal=(0.5, -0.8, 0.2), flat=2.4),
        *tube(((158, 0, -15), (160, 8, -60), (157, 10, -105)), (30, 32, 26), normal=(1, 0, 0), flat=6),
        *tube(((120, 84, -130), (150, 62, -70), (166, 46, -10), (164, 24, 52)), (26, 34, 32, 16), normal=(0.75, 0.65, 0), flat=3.4),
        *tube(((138, 58, -40), (152, 42, 0), (168, 22, 50)), (15, 17, 13)),
        *tube(((156, 6, 62), (172, 2, 104), (192, -8, 190)), (33, 34, 31)),
        *tube(((14, 102, 40), (62, 96, 60), (110, 72, 84), (140, 40, 98)), (26, 24, 18, 12), normal=(0.35, 0.9, 0.3), flat=3.6),
        *tube(((22, -52, 76), (34, -28, 110), (46, -6, 160)), (8, 9, 9)), *tube(((36, 12, 78), (28, 10, 110), (26, 10, 160)), (12, 13, 12)),
        *tube(((18, 50, 92), (22, 44, 130), (22, 40, 180)), (17, 20, 20)), *tube(((56, 42, 92), (46, 34, 130), (38, 30, 180)), 12),
        *tube(((30, -107, -110), (32, -107, -220), (32, -104, -400)), (26, 30, 30), normal=(0, 1, 0), flat=4.5), *erector,
    ]
    blades = [*_blade(34, 5.2, -9), *_blade(32, 4.4, 11)]
    structures.append(Structure("muscles", "muscle", tuple(both([*chest, *blades])), clip=(("body", 1, -4),)))
    structures.append(Structure("cavity", "fat", base=("cage", 0.0)))
    deep = [
        *tube(((24, 30, -195), (34, 30, -250), (46, 22, -310), (58, 8, -390)), (8, 16, 22, 24)), *tube(((62, 52, -195), (68, 54, -330)), (13, 20)),
        *tube(((10, 26, -118), (11, 22, -170), (10, 12, -215)), (7, 7, 4)),
    ]
    structures.append(Structure("deep_muscles", "muscle", tuple(both([*deep, *erector]))))
    structures.append(Structure("diaphragm", "muscle", base=("dome_shell", 2.0), clip=(("cage", 1, 0),)))


def _blade(radius: float, flat: float, shift: float) -> list[Part]:
    """A fan of flattened tubes along the left shoulder blade, ``shift`` mm in front of (negative: behind, muscle) its plate."""
    normal = np.array([0.68, 0.70, 0.22]) / np.linalg.norm([0.68, 0.70, 0.22])
    rays = (((150, 26, 58), (104, 78, 72)), ((148, 30, 48), (106, 84, 42)), ((148, 32, 38), (112, 88, 10)), ((148, 34, 30), (120, 88, -22)))
    return [p for a, b in rays for p in tube(np.array([a, b]) - shift * normal, (0.6 * radius, radius), 80, normal, flat)]


def _abdomen(structures: list[Structure]) -> None:
    """Organs below the diaphragm."""
    add, below = structures.append, BELOW_DIAPHRAGM
    right, left, lower = ball((-72, 2, -152), (72, 92, 76)), ball((-2, -50, -142), (66, 48, 34)), ball((-84, 4, -196), (46, 66, 46))
    add(Structure("liver", "liver", (right, left, lower), 24, clip=below))
    grid = np.random.default_rng(5).uniform((-140, -85, -225), (40, 80, -110), (900, 3))
    inside = grid[np.maximum(union_distance((right, left, lower), grid), grid[:, 2] - diaphragm_height(grid[:, 0], grid[:, 1])) < -14]
    targets = scattered(inside, 26)
    portal = tube(((2, -24, -205), (-18, -18, -192), (-34, -12, -178)), 6.5)
    add(Structure("liver_veins", "hepatic_vein", (*branches((-24, -6, -118), targets[::2], 1.5), *branches((-34, -12, -178), targets[1::2], 1.2), *portal),
                  clip=below))  # fmt: skip
    add(Structure("gallbladder", "bile", (ball((-46, -54, -206), (13, 22, 15), frame((1, 0, 0), (0, 0.8, 0.6))),), clip=below))
    add(Structure("spleen", "spleen", (ball((106, 40, -150), (24, 46, 46), frame((0.85, -0.5, 0.1), (0.5, 0.85, 0.15))),), clip=(("cage", 1, -3), below[1])))
    gut = (*tube(((56, 10, -134), (60, -6, -148), (54, -40, -180), (38, -62, -198), (4, -64, -206)), (30, 33, 28, 22, 15)),)
    add(Structure("stomach", "stomach", gut, 6, clip=below, rind="wall", rind_mm=4))
    add(Structure("stomach_air", "gas", tuple(tube(((70, -12, -146), (56, -48, -178), (40, -72, -196)), (22, 20, 12))), 4,
                  clip=(*below, ("level", 1, -22))))  # fmt: skip
    kidneys = {s: ball((s * 57, 26, -222 if s < 0 else -211), (26, 25, 53), frame((1, -0.35 * s, 0.25 * s), (0.3 * s, 1, 0))) for s in (-1, 1)}
    add(Structure("kidneys", "kidney", tuple(kidneys.values()), clip=below))
    for s, kidney in kidneys.items():
        c = kidney.centre
        sinus = (ball(c - (s * 17, 4, 0), (15, 11, 26)), *tube((c - (s * 10, 0, 0), c - (s * 30, 6, 6), c - (s * 26, 6, 60), (s * 38, 6, -360)), (6, 5, 2.5, 2)))
        add(Structure("renal_sinus", "fat", sinus[:1], clip=below))
        add(Structure("renal_pelvis", "urine", sinus[1:]))
        add(Structure("renal_vessels", "blood", tuple(tube((c - (s * 24, 8, -4), (s * 8, -2, c[2] + 8)), 3.5))))
    add(Structure("pancreas", "pancreas", tuple(tube(((-22, -32, -216), (-4, -36, -206), (34, -22, -196), (78, 10, -178)), (14, 10, 9, 8))), 4, clip=below))
    _bowel(structures)


def _bowel(structures: list[Structure]) -> None:
    """Small bowel loops and the colon with its gas in front."""
    t = np.linspace(0, 1, 46)
    loops = np.stack([72 * np.sin(9.3 * np.pi * t), -46 + 26 * np.sin(5.1 * np.pi * t + 1), -232 - 120 * t + 14 * np.cos(13 * np.pi * t)], axis=1)
    structures.append(Structure("small_bowel", "bowel", tuple(tube(loops, 12.5)), 2, clip=(("cage", 1, -4),), rind="wall", rind_mm=2))
    colon: Table = (
        (-98, 10, -360), (-100, 8, -300), (-98, -2, -244), (-84, -40, -236), (-46, -80, -240), (0, -86, -250), (46, -80, -236), (84, -42, -200),
        (100, 0, -196), (104, 18, -240), (102, 16, -300), (98, 10, -360),
    )  # fmt: skip
    radii = (21, 21, 20, 18, 16, 15, 15, 15, 15, 14, 13, 13)
    structures.append(Structure("colon", "faeces", tuple(tube(colon, radii)), clip=(("cage", 1, -4), BELOW_DIAPHRAGM[1]), rind="wall", rind_mm=2.5))
    lumen = tuple(tube(colon, [r - 4 for r in radii]))
    structures.append(Structure("colon_gas", "gas", tuple(p for p in lumen[::2]), clip=(("cage", 1, -9), ("level", 1, -48))))


def _lungs(structures: list[Structure]) -> None:
    """Parenchyma, fissures and the vessel trees."""
    structures.append(Structure("lungs", "lung", base=("lung", 0.0), slope_y=0.35))
    fissures = [Capsule(np.array((s * 80, 62, 34 - 4 * s)), np.array((s * 80, -82, -122.0)), (74, 74), frame((0, 0.68, 0.735), (0, -0.735, 0.68))[:, 1], 90)
                for s in (-1.0, 1.0)]  # fmt: skip
    minor = Capsule(np.array((-60.0, -80, -34)), np.array((-110.0, -30, -38)), (52, 52), np.array([0, 0, 1.0]), 75)
    structures.append(Structure("fissures", "fissure", (*fissures, minor), clip=(("lung", 1, -1),)))
    rng = np.random.default_rng(11)
    for side, artery, vein in ((-1, (-40, -9, -26), (-34, 0, -52)), (1, (50, 14, -16), (38, 2, -50))):
        cloud = rng.uniform((10, -110, -175), (145, 90, 98), (9000, 3)) * (side, 1, 1)
        cloud = cloud[lung_at(cloud) < -5]
        structures.append(Structure("pulmonary_arteries", "blood", tuple(branches(artery, scattered(cloud, 17), 0.95))))
        structures.append(Structure("pulmonary_veins", "blood", tuple(branches(vein, scattered(cloud[::-1], 21), 0.9))))
        start = (RIGHT_BRONCHUS if side < 0 else LEFT_BRONCHUS)[-1]
        airways = branches(start, scattered(cloud[500:][lung_at(cloud[500:]) < -18], 44), 1.5, 2.3)
        structures.append(Structure("bronchi", "cartilage", tuple(Capsule(p.start, p.end, (p.radii[0] + 1.1, p.radii[1] + 0.9)) for p in airways)))
        structures.append(Structure("bronchial_air", "gas", tuple(airways)))


def _heart(structures: list[Structure]) -> None:
    """Pericardial fat is what the cavity left; here muscle and blood."""
    add, axes, inner = structures.append, heart_frame(), heart_chambers(0)
    outer = heart_chambers(2.5)
    add(Structure("heart_walls", "myocardium", tuple(outer[name] for name in ("right_ventricle", "right_atrium", "left_atrium")), 6))
    add(Structure("right_heart", "blood", (inner["right_ventricle"], inner["right_atrium"]), 4))
    add(Structure("left_atrium", "blood", (inner["left_atrium"], *tube(((28, -2, -52), (40, 3, -50)), 7), *tube(((-22, -2, -54), (-36, 0, -52)), 7)), 6))
    add(Structure("left_ventricle", "myocardium", (inner["left_ventricle"],)))
    add(Structure("left_chamber", "blood", (ball(LEFT_VENTRICLE - 8 * axes[:, 0], (38, 18, 18), axes), *tube(((4, -30, -66), (22, -36, -76)), 13)), 6))
    add(Structure("papillary_muscles", "myocardium", tuple(
        p for o in (-9, 9) for p in tube((LEFT_VENTRICLE + 22 * axes[:, 0] + o * axes[:, 2], LEFT_VENTRICLE + 4 * axes[:, 0] + 0.8 * o * axes[:, 2]), 4))))


def _great_vessels(structures: list[Structure]) -> None:
    """Aorta with its branches, pulmonary trunk, caval veins and their tributaries, oesophagus, thyroid."""
    arteries = [
        *tube(AORTA, AORTA_RADII, 8), *tube(((0, -36, 36), (-8, -30, 56), (-17, -24, 74)), (7, 6.5, 6)), *tube(((-17, -24, 74), (-20, -20, 100), (-24, -8, 160)), 4),
        *tube(((-17, -24, 74), (-36, -20, 88), (-64, -24, 90), (-110, -22, 76)), (5, 5, 4.5, 4)), *tube(((11, -22, 40), (16, -20, 70), (22, -8, 160)), (4.5, 4, 4)),
        *tube(((20, -4, 40), (25, -4, 74), (40, -10, 92), (66, -22, 92), (112, -20, 76)), (6, 5.5, 5, 4.5, 4)), *tube(((4, -8, -150), (4, -26, -162)), 4),
        *tube(((4, -4, -186), (4, -20, -196), (6, -24, -260)), (4, 4, 3)), *both(tube(((3, -10, -298), (22, -4, -330), (48, 6, -380)), (6.5, 6, 5))),
    ]
    veins = [
        *tube(SVC, (10, 10, 10, 11)), *tube(((-24, -36, 42), (-6, -50, 50), (16, -52, 58), (34, -36, 72)), (8, 6, 6, 7)), *tube(((-24, -36, 42), (-32, -34, 72)), 7.5),
        *both(tube(((33, -36, 72), (60, -40, 84), (112, -28, 74)), (6, 5.5, 4.5))), *both(tube(((33, -36, 72), (30, -20, 160)), 6)),
        *tube(IVC, (14, 13, 12, 11, 11, 10)), *tube(((-25, -28, 8), (-22, -4, 13), (-8, 18, 4), (-7, 24, -60), (-6, 22, -150)), (4, 4, 4, 3.5, 3)),
        *both(tube(((-15, -2, -298), (-36, 12, -340), (-54, 12, -380)), (7, 6.5, 6))),
    ]
    structures.append(Structure("oesophagus", "oesophagus", tuple(tube(OESOPHAGUS, 7.5))))
    structures.append(Structure("oesophageal_air", "gas", tuple(tube(OESOPHAGUS[1:5], (1.5, 2, 1.2, 0.4)))))
    structures.append(Structure("pulmonary_trunk", "blood", (*tube(PULMONARY_TRUNK, (14, 14, 13, 11, 9.5, 8), 8), *tube(RIGHT_PULMONARY, (12, 10.5, 9.5, 8), 8))))
    structures.append(Structure("veins", "blood", tuple(veins)))
    structures.append(Structure("arteries", "blood", tuple(arteries)))
    structures.append(Structure("thyroid", "thyroid", tuple(both([ball((19, -36, 104), (9, 11, 22))]))))


def _airway(structures: list[Structure]) -> None:
    """Trachea and main bronchi: wall and lumen."""
    for name, material, wall in (("airway_wall", "oesophagus", 1.6), ("airway", "gas", 0.0)):
        parts = (*tube(TRACHEA, 8.8 + wall, 8), *tube(RIGHT_BRONCHUS, (7.5 + wall, 7.2 + wall, 6.6 + wall, 5.0 + wall), 6),
                 *tube(LEFT_BRONCHUS, (7.2 + wall, 6.5 + wall, 5.8 + wall, 4.8 + wall), 6))  # fmt: skip
        structures.append(Structure(name, material, parts, 3))


def _spine(structures: list[Structure]) -> None:
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
    pelvis = [*tube(((62, 66, -372), (92, 52, -336), (124, 12, -342), (122, -24, -364)), 7), Capsule(np.array((66.0, 62, -390)), np.array((116.0, -6, -376)), (36, 36),
              frame((0.6, 0.75, 0), (-0.75, 0.6, 0))[:, 0], 8), *tube(((38, 44, -366), (66, 66, -382)), (16, 16))]  # fmt: skip
    structures.append(Structure("discs", "disc", tuple(discs)))
    structures.append(Structure("vertebrae", "spongiosa", (*bodies, *arches), 2.5, rind="cortical", rind_mm=1.7))
    structures.append(Structure("pelvis", "spongiosa", (*both(pelvis), *tube(((0, 30, -370), (0, 52, -420)), 26)), 6, rind="cortical", rind_mm=2))
    canal = [(0, y + deep + 8.5, z) for z, y, _, deep in SPINE]
    structures.append(Structure("spinal_canal", "csf", tuple(tube(canal, 8.0, 20))))
    structures.append(Structure("spinal_cord", "cord", tuple(tube(canal[: FIRST_LUMBAR + 1], (5, 5, 5, *[4.5] * (FIRST_LUMBAR - 3), 2), 20))))


def _arch(k: int, z: float, back: float, pitch: float) -> list[Part]:
    """Pedicles, laminae and processes of vertebra ``k`` whose body ends at y = ``back``."""
    thoracic = FIRST_THORACIC <= k < FIRST_LUMBAR
    s = 1.0 if thoracic else 1.12
    side = [
        *tube(((10.5 * s, back - 5, z + 3), (11.5 * s, back + 8, z + 2)), 4), *tube(((11.5 * s, back + 8, z), (0, back + 20, z - 6)), 4.2),
        *tube(((12.5 * s, back + 9, z + 0.52 * pitch), (12.5 * s, back + 10, z - 0.52 * pitch)), (4.2, 4.8)),
    ]
    tip, lower = ((0, back + 46, z - 20), 3.2) if thoracic else ((0, back + 44, z - 9), 3.6)
    spinous = tube(((0, back + 19, z - 5), tip), (7, 8), 60, (1, 0, 0), 8 / lower)
    if thoracic:
        side += tube(((12, back + 8, z + 2), (33 - 0.8 * (k - FIRST_THORACIC), back + 17, z + 4)), (5, 4.6))
    else:
        side += tube(((13, back + 5, z + 2), (24 if k < FIRST_THORACIC else 44, back + 4, z + 3)), (5, 3.6))
    return [*both(side), *spinous]


RIBS = (  # head z, drop of the bony rib, x where it ends in front (None: free end after this share of the way round)
    (78, 31, 34.0), (59, 54, 42.0), (39, 64, 50.0), (19, 76, 58.0), (-2, 86, 66.0), (-24, 94, 74.0), (-46, 100, 84.0), (-68, 103, 95.0),
    (-92, 96, 104.0), (-116, 86, 111.0), (-141, 62, 0.52), (-166, 36, 0.33),
)  # fmt: skip
STERNAL_Z = (47, 6, -17, -37, -55, -70, -82)
RIB_OUT = 4.6


def _rib(number: int) -> tuple[list[Part], tuple[float, float]]:
    """The left rib ``number`` (0..11) and the angle and height where its bone ends."""
    head, drop, end = RIBS[number]
    last = cage_angle(end, head - drop, RIB_OUT) if end > 1 else end * np.pi
    y, wide, deep = spine_at(head)
    first = 0.33
    share = np.linspace(0.06, 1, 20)
    z = head - drop * np.sin(share * np.pi / 2) ** 1.25
    shaft = cage_point(first + (last - first) * (share - 0.06) / 0.94, z, RIB_OUT)
    neck = np.array([(wide + 2, y + deep - 5, head), (wide + 16, max(y + deep + 9, shaft[0, 1] - 2.5), head - 1.5)])
    neck[1, 0] = min(neck[1, 0], shaft[0, 0] - 8)
    parts = tube(np.vstack([neck, shaft[1:2]]), 4.4)
    for a, b in zip(shaft[1:], shaft[2:], strict=False):
        width, centre, depth = cage_profile(np.array([a[2]]))
        out = np.array([np.sign(a[0]) * (abs(a[0]) / width[0]) ** 1.5 / width[0], np.sign(a[1] - centre[0]) * (abs(a[1] - centre[0]) / depth[0]) ** 1.5 / depth[0], 0])
        parts.append(Capsule(a, b, (6.2, 6.2), out / np.linalg.norm(out), 1.8))
    return parts, (last, head - drop)


def _ribs(structures: list[Structure]) -> None:
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
    front = np.array([0, -0.94, -0.34])
    sternum = [
        *both([*tube(((12, -77, 42), (20, -78, 46)), (13, 10), 30, front, 1.8)]), *tube(((0, -80, 36), (0, -90, 14)), (22, 17), 30, front, 2.7),
        *tube(((0, -93, 4), (0, -107, -40), (0, -115, -84)), (17, 18, 20), 30, front, 3), *tube(((0, -117, -100), (0, -116, -122)), (8, 5), 30, front, 2),
    ]
    structures.append(Structure("cartilage", "cartilage", tuple(both(cartilage)), 3))
    structures.append(Structure("ribs", "spongiosa", tuple(both(bones)), rind="cortical", rind_mm=1.5))
    structures.append(Structure("sternum", "spongiosa", tuple(sternum), rind="cortical", rind_mm=1.2))


def _girdle(structures: list[Structure]) -> None:
    """Clavicles, shoulder blades and upper arms (raised)."""
    clavicle = tube(((25, -72, 59), (52, -80, 70), (92, -66, 80), (128, -32, 92), (150, -6, 98)), (9.5, 6.5, 6, 6, 5.5), normal=None)
    blade = [*_blade(17, 8, 0), *tube(((150, 27, 52), (136, 56, 8), (124, 84, -44)), (7, 5.5, 5.5)), *tube(((104, 82, 62), (130, 64, 84), (158, 20, 104)), (4, 5.5, 6)),
             ball((143, 20, 60), (8, 14, 17)), *tube(((148, 8, 76), (134, -18, 72)), (6, 5)), *tube(((103, 78, 76), (110, 86, 20), (124, 86, -46)), 3.8)]  # fmt: skip
    humerus = [ball((162, 7, 70), 22), *tube(((164, 5, 78), (174, 1, 112), (194, -8, 200)), (20, 12, 11))]
    structures.append(Structure("shoulder_blades", "spongiosa", tuple(both(blade)), 3, rind="cortical", rind_mm=1.6))
    structures.append(Structure("humeri", "spongiosa", tuple(both(humerus)), 6, rind="cortical", rind_mm=2.6))
    structures.append(Structure("clavicles", "spongiosa", tuple(both(clavicle)), 2, rind="cortical", rind_mm=1.9))


@lru_cache(maxsize=1)
def anatomy() -> tuple[Structure, ...]:
    """All structures in the order in which they are painted."""
    structures: list[Structure] = []
    for build in (_trunk, _abdomen, _lungs, _heart, _great_vessels, _airway, _spine, _ribs, _girdle):
        build(structures)
    return tuple(structures)


LANDMARKS: dict[str, tuple[float, float, float]] = {"carina": (0, 0, 0)}
