"""The canonical torso of the phantom: tissues, fields and structures in LPS millimetres with the carina at the origin.

Proportions are those of an adult lying on the back with raised arms. Everything here is fixed: patients differ by the map of
``patient.py``, so equal canonical points correspond.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline

from .shapes import (  # fmt: skip
    FAR,
    Array,
    Capsule,
    Part,
    Structure,
    Table,
    ball,
    both,
    branches,
    frame,
    scattered,
    smooth_min,
    tube,
    union_distance,
)
from .skeleton import SPINE, cage_distance, shoulder_blade, skeleton, spine_at


class Material(NamedTuple):
    """What a tissue looks like: HU, HU gained at full contrast, amplitude of its texture (HU), T1-weighted MR intensity."""

    hu: float
    enhancement: float
    texture: float
    mr: float


MATERIALS = {
    "air": Material(-1000, 0, 0, 10), "skin": Material(5, 10, 5, 380), "fat": Material(-104, 0, 9, 880),
    "muscle": Material(54, 10, 9, 330), "lung": Material(-850, 14, 22, 60), "fissure": Material(-740, 0, 0, 100),
    "blood": Material(43, 250, 3, 110), "myocardium": Material(48, 60, 6, 330), "liver": Material(58, 50, 6, 470),
    "hepatic_vein": Material(40, 115, 2, 200), "spleen": Material(47, 75, 5, 300), "kidney": Material(33, 147, 5, 350),
    "urine": Material(6, 0, 2, 150), "stomach": Material(22, 0, 12, 260), "wall": Material(44, 30, 5, 330),
    "bowel": Material(30, 20, 18, 400), "faeces": Material(-120, 0, 130, 420), "bile": Material(8, 0, 1, 140),
    "pancreas": Material(40, 50, 12, 500), "cortical": Material(760, 0, 60, 60), "spongiosa": Material(205, 0, 32, 560),
    "disc": Material(88, 0, 8, 240), "cartilage": Material(115, 0, 20, 300), "csf": Material(10, 0, 3, 130),
    "cord": Material(38, 0, 2, 360), "thyroid": Material(105, 60, 8, 420), "oesophagus": Material(38, 12, 5, 320),
    "gas": Material(-985, 0, 6, 12),
}  # fmt: skip
BELOW_DIAPHRAGM = (("cage", 1.0, -1.0), ("dome", 1.0, -3.0))
MEDIASTINUM_CREASE_MM = 4.0


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
    recess = -145 - 0.31 * y - 0.0011 * x * x - z
    distance = np.maximum(np.maximum(cage + 1.5, -dome), np.maximum(recess, np.where(w > 0, apex, -FAR)))
    return np.maximum(np.maximum(distance, -mediastinum), 2.0 - np.abs(x - 5))


def lung_at(points: Array) -> Array:
    """Signed distance (N,) in mm of canonical ``points`` (N, 3) to the lungs."""
    x, y, z = points.T
    return lung_distance(
        x, y, z, cage_distance(x, y, z), z - diaphragm_height(x, y), union_distance(mediastinum(), points, MEDIASTINUM_CREASE_MM)
    )


# Mediastinum: centre lines (x, y, z), radii in mm; used for the vessels themselves and for the envelope that parts the lungs.
TRACHEA: Table = ((0, -36, 130), (0, -30, 90), (0, -22, 58), (0, -8, 28), (0, 1, 11.5))
RIGHT_BRONCHUS: Table = ((0, 1, 11.5), (-9, 2, 3.5), (-24, 4, -6), (-36, 8, -22))
LEFT_BRONCHUS: Table = ((0, 1, 11.5), (11, 3, 2.5), (26, 6, -8), (42, 10, -17))
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
LEFT_VENTRICLE = np.array([43.0, -42.0, -86.0])


def heart_frame() -> Array:
    """Columns: long axis towards the apex, direction from the right to the left ventricle, and their normal."""
    return frame(HEART_AXIS, (0.72, 0.68, 0.1))


def heart_chambers(wall: float) -> dict[str, Part]:
    """The four chambers; ``wall`` mm are added to the radii."""
    axes = heart_frame()
    return {
        "left_ventricle": ball(LEFT_VENTRICLE, np.array([52, 36, 35]) + wall, axes),
        "right_ventricle": ball((14, -62, -85), np.array([50, 27, 39]) + wall, axes),
        "right_atrium": ball((-28, -32, -68), np.array([24, 28, 32]) + wall),
        "left_atrium": ball((4, -3, -58), np.array([33, 17, 21]) + wall),
    }


@lru_cache(maxsize=1)
def mediastinum() -> tuple[Part, ...]:
    """The envelope between the lungs, to be united with a crease of MEDIASTINUM_CREASE_MM."""
    column = [(0, y + 1, z) for z, y, _, _ in SPINE]
    back = [(0, y + 30, z) for z, y, _, _ in SPINE]
    return (
        *heart_chambers(4).values(), ball((34, -48, -110), (58, 44, 28)), *tube(AORTA[:-3], [r + 3 for r in AORTA_RADII[:-3]]),
        *tube(TRACHEA, 12), *tube(RIGHT_BRONCHUS[:3], 8), *tube(LEFT_BRONCHUS, 8), *tube(PULMONARY_TRUNK[:5], (20, 18, 16, 14, 11)),
        *tube(RIGHT_PULMONARY[:3], (15, 13, 11)), *tube(SVC, 13), *tube(IVC[:3], 14), *tube(OESOPHAGUS, 8), *tube(column, 19),
        *tube(back, 25), *tube(((8, 6, -58), (8, 4, -95), (4, 10, -150)), (30, 34, 34), normal=(1, 0, 0), flat=2.4),
        *tube(((0, -22, 42), (0, -22, 75), (0, -20, 112)), (26, 25, 34)),
        ball((0, -6, 28), (27, 44, 58)), ball((3, -8, -26), (32, 36, 34)), ball((4, -30, -56), (38, 36, 30)),
        *tube(((2, -68, 50), (5, -84, 5), (10, -98, -40), (16, -104, -85)), (24, 26, 30, 30), normal=(1, 0, 0), flat=3.0),
    )  # fmt: skip


def _trunk() -> Iterator[Structure]:
    """Outline, chest and abdominal wall, muscles outside the cage, the fat-filled cavity."""
    heights = (130, 100, 60, 0, -60, -120, -180, -240, -300, -380)
    beside_spine = [(24 + max(-z - 150, 0) / 14, float(spine_at(z)[0]) + 48, z) for z in heights]
    erector = tube(beside_spine, (14, 14, 15, 16, 17, 18, 21, 24, 25, 25))
    arm = tube(((150, 6, 62), (168, 2, 100), (190, -8, 190)), (42, 42, 39))
    lumps: list[Part] = [
        ball((122, 40, 26), (62, 48, 96)),
        ball((90, -62, 14), (66, 40, 66)),
        *arm,
        *tube(((50, 24, 88), (135, 14, 78)), (34, 38)),
        *tube(((52, -54, 46), (96, -48, 56), (150, -6, 72)), (38, 38, 42)),
        *tube(((40, 66, 40), (142, 40, 50)), (40, 42)),
    ]
    neck = tube(((0, 4, 70), (0, -4, 130), (0, -8, 260)), (50, 55, 56))
    yield Structure("body", "fat", (*both(lumps), *both(erector), *neck), 38, ("cage", 13.5), rind="skin", rind_mm=1.6)
    yield Structure("wall", "muscle", base=("cage", 11.0), clip=(("body", 1, -3),))
    chest = [
        *tube(((32, -100, -4), (88, -91, 14), (138, -52, 46), (166, -14, 74)), (32, 34, 22, 14), normal=(0.35, -1, 0), flat=3.2),
        *tube(((48, -114, -42), (96, -98, -22), (138, -56, 36)), (20, 26, 18), normal=(0.35, -1, 0), flat=3.4),
        *tube(((84, -80, -30), (112, -60, 34), (130, -18, 74)), (18, 16, 9), normal=(0.5, -0.8, 0.2), flat=2.4),
        *tube(((158, 0, -15), (160, 8, -60), (157, 10, -105)), (30, 32, 26), normal=(1, 0, 0), flat=6),
        *tube(((120, 84, -130), (150, 62, -70), (166, 46, -10), (164, 24, 52)), (26, 34, 32, 16), normal=(0.75, 0.65, 0), flat=3.4),
        *tube(((138, 58, -40), (152, 42, 0), (168, 22, 50)), (15, 17, 13)),
        *tube(((156, 6, 62), (172, 2, 104), (192, -8, 190)), (33, 34, 31)),
        *tube(((14, 102, 40), (62, 96, 60), (110, 72, 84), (140, 40, 98)), (26, 24, 18, 12), normal=(0.35, 0.9, 0.3), flat=3.6),
        *tube(((14, 92, 36), (60, 92, 20), (104, 86, -4)), (26, 26, 14), normal=(0.2, 1, 0), flat=4.2),
        *tube(((22, -52, 76), (34, -28, 110), (46, -6, 160)), (8, 9, 9)),
        *tube(((36, 12, 78), (28, 10, 110), (26, 10, 160)), (12, 13, 12)),
        *tube(((18, 50, 92), (22, 44, 130), (22, 40, 180)), (17, 20, 20)),
        *tube(((56, 42, 92), (46, 34, 130), (38, 30, 180)), 12),
        *tube(((30, -107, -110), (32, -107, -220), (32, -104, -400)), (26, 30, 30), normal=(0, 1, 0), flat=4.5),
        *erector,
    ]
    blades = [*shoulder_blade(42, 4.6, -12), *shoulder_blade(40, 4.2, 12)]
    yield Structure("muscles", "muscle", both([*chest, *blades]), clip=(("body", 1, -4),))
    yield Structure("cavity", "fat", base=("cage", 0.0))
    deep = [
        *tube(((24, 30, -195), (34, 30, -250), (46, 22, -310), (58, 8, -390)), (8, 16, 22, 24)),
        *tube(((62, 52, -195), (68, 54, -330)), (13, 20)),
        *tube(((10, 26, -118), (11, 22, -170), (10, 12, -215)), (7, 7, 4)),
    ]
    yield Structure("deep_muscles", "muscle", both([*deep, *erector]))
    yield Structure("diaphragm", "muscle", base=("dome_shell", 2.0), clip=(("cage", 1, 0),))


def _abdomen() -> Iterator[Structure]:
    """Organs below the diaphragm."""
    below = BELOW_DIAPHRAGM
    right, left, lower = ball((-72, 2, -152), (72, 92, 76)), ball((-2, -50, -142), (66, 48, 34)), ball((-84, 4, -196), (46, 66, 46))
    yield Structure("liver", "liver", (right, left, lower), 24, clip=below)
    grid = np.random.default_rng(5).uniform((-140, -85, -225), (40, 80, -110), (900, 3))
    inside = grid[np.maximum(union_distance((right, left, lower), grid), grid[:, 2] - diaphragm_height(grid[:, 0], grid[:, 1])) < -14]
    targets = scattered(inside, 26)
    hepatic, portal = branches((-24, -6, -118), targets[::2], 2.2), branches((-34, -12, -178), targets[1::2], 1.7)
    trunk = tube(((2, -24, -205), (-18, -18, -192), (-34, -12, -178)), 6.5)
    yield Structure("liver_veins", "hepatic_vein", (*hepatic, *portal, *trunk), clip=below)
    yield Structure("gallbladder", "bile", (ball((-46, -54, -206), (13, 22, 15), frame((1, 0, 0), (0, 0.8, 0.6))),), clip=below)
    spleen = ball((106, 40, -150), (24, 46, 46), frame((0.85, -0.5, 0.1), (0.5, 0.85, 0.15)))
    yield Structure("spleen", "spleen", (spleen,), clip=(("cage", 1, -3), below[1]))
    gut = tube(((56, 10, -134), (60, -6, -148), (54, -40, -180), (38, -62, -198), (4, -64, -206)), (30, 33, 28, 22, 15))
    yield Structure("stomach", "stomach", gut, 6, clip=below, rind="wall", rind_mm=4)
    bubble = tube(((70, -12, -146), (56, -48, -178), (40, -72, -196)), (22, 20, 12))
    yield Structure("stomach_air", "gas", bubble, 4, clip=(*below, ("level", 1, -22)))
    turned = {s: frame((1, -0.35 * s, 0.25 * s), (0.3 * s, 1, 0)) for s in (-1, 1)}
    kidneys = {s: ball((s * 57, 26, -216.5 + 5.5 * s), (26, 25, 53), axes) for s, axes in turned.items()}
    yield Structure("kidneys", "kidney", tuple(kidneys.values()), clip=below)
    for s, kidney in kidneys.items():
        c = kidney.centre
        fat = ball(c - (s * 17, 4, 0), (15, 11, 26))
        ureter = tube((c - (s * 10, 0, 0), c - (s * 30, 6, 6), c - (s * 26, 6, 60), (s * 38, 6, -360)), (6, 5, 2.5, 2))
        yield Structure("renal_sinus", "fat", (fat,), clip=below)
        yield Structure("renal_pelvis", "urine", ureter)
        yield Structure("renal_vessels", "blood", tube((c - (s * 24, 8, -4), (s * 8, -2, c[2] + 8)), 3.5))
    pancreas = tube(((-22, -32, -216), (-4, -36, -206), (34, -22, -196), (78, 10, -178)), (14, 10, 9, 8))
    yield Structure("pancreas", "pancreas", pancreas, 4, clip=below)
    yield from _bowel()


def _bowel() -> Iterator[Structure]:
    """Small bowel loops and the colon with its gas in front."""
    t = np.linspace(0, 1, 110)
    x, y, z = 74 * np.sin(15.3 * np.pi * t), 25 * np.sin(11.3 * np.pi * t + 1) - 48, 13 * np.cos(23 * np.pi * t) - 236 - 125 * t
    yield Structure("small_bowel", "bowel", tube(np.stack([x, y, z], axis=1), 11.5), clip=(("cage", 1, -4),), rind="wall", rind_mm=2)
    colon: Table = (
        (-98, 10, -360), (-100, 8, -300), (-98, -2, -244), (-84, -40, -236), (-46, -80, -240), (0, -86, -250), (46, -80, -236),
        (84, -42, -200), (100, 0, -196), (104, 18, -240), (102, 16, -300), (98, 10, -360),
    )  # fmt: skip
    radii = (21, 21, 20, 18, 16, 15, 15, 15, 15, 14, 13, 13)
    yield Structure("colon", "faeces", tube(colon, radii), clip=(("cage", 1, -4), BELOW_DIAPHRAGM[1]), rind="wall", rind_mm=2.5)
    yield Structure("colon_gas", "gas", tube(colon, [r - 4 for r in radii])[::2], clip=(("cage", 1, -9), ("level", 1, -48)))


def _lungs() -> Iterator[Structure]:
    """Parenchyma, fissures and the vessel trees."""
    yield Structure("lungs", "lung", base=("lung", 0.0), slope_y=0.35)
    oblique = [p for s in (-1, 1) for p in tube(((s * 80, 62, 34 - 4 * s), (s * 80, -82, -122)), 74, 300, (0, -0.735, 0.68), 90)]
    minor = tube(((-60, -80, -34), (-110, -30, -38)), 52, 300, (0, 0, 1), 75)
    yield Structure("fissures", "fissure", (*oblique, *minor), clip=(("lung", 1, -1),))
    rng = np.random.default_rng(11)
    for side, artery, vein in ((-1, (-40, -9, -26), (-34, 0, -52)), (1, (50, 14, -16), (38, 2, -50))):
        cloud = rng.uniform((10, -110, -175), (145, 90, 98), (9000, 3)) * (side, 1, 1)
        cloud = cloud[lung_at(cloud) < -5]
        yield Structure("pulmonary_arteries", "blood", branches(artery, scattered(cloud, 14.5), 1.05))
        yield Structure("pulmonary_veins", "blood", branches(vein, scattered(cloud[::-1], 19), 1.0))
        start = (RIGHT_BRONCHUS if side < 0 else LEFT_BRONCHUS)[-1]
        airways = branches(start, scattered(cloud[500:][lung_at(cloud[500:]) < -18], 34), 1.4, 2.3)
        walls = [Capsule(p.start, p.end, (p.radii[0] + 1.1, p.radii[1] + 0.9)) for p in airways]
        yield Structure("bronchi", "cartilage", walls)
        yield Structure("bronchial_air", "gas", airways)


def _heart() -> Iterator[Structure]:
    """Pericardial fat is what the cavity left; here muscle and blood."""
    axes, inner, outer = heart_frame(), heart_chambers(0), heart_chambers(2.5)
    yield Structure("heart_walls", "myocardium", [outer[name] for name in ("right_ventricle", "right_atrium", "left_atrium")], 6)
    yield Structure("right_heart", "blood", (inner["right_ventricle"], inner["right_atrium"]), 4)
    veins = (*tube(((28, -2, -52), (40, 3, -50)), 7), *tube(((-22, -2, -54), (-36, 0, -52)), 7))
    yield Structure("left_atrium", "blood", (inner["left_atrium"], *veins), 6)
    yield Structure("left_ventricle", "myocardium", (inner["left_ventricle"],))
    chamber, outflow = ball(LEFT_VENTRICLE - 8 * axes[:, 0], (43, 23, 22), axes), tube(((4, -30, -66), (22, -36, -76)), 13)
    yield Structure("left_chamber", "blood", (chamber, *outflow), 6)
    papillary = [LEFT_VENTRICLE + np.array([(22, 0, s), (4, 0, 0.8 * s)]) @ axes.T for s in (-9, 9)]
    yield Structure("papillary_muscles", "myocardium", [p for ends in papillary for p in tube(ends, 4)])


def _great_vessels() -> Iterator[Structure]:
    """Aorta with its branches, pulmonary trunk, caval veins and their tributaries, oesophagus, thyroid."""
    arteries = [
        *tube(AORTA, AORTA_RADII, 8),
        *tube(((0, -36, 36), (-8, -30, 56), (-17, -24, 74)), (7, 6.5, 6)),
        *tube(((-17, -24, 74), (-20, -20, 100), (-24, -8, 160)), 4),
        *tube(((-17, -24, 74), (-36, -20, 88), (-64, -24, 90), (-110, -22, 76)), (5, 5, 4.5, 4)),
        *tube(((11, -22, 40), (16, -20, 70), (22, -8, 160)), (4.5, 4, 4)),
        *tube(((20, -4, 40), (25, -4, 74), (40, -10, 92), (66, -22, 92), (112, -20, 76)), (6, 5.5, 5, 4.5, 4)),
        *tube(((4, -8, -150), (4, -26, -162)), 4),
        *tube(((4, -4, -186), (4, -20, -196), (6, -24, -260)), (4, 4, 3)),
        *both(tube(((3, -10, -298), (22, -4, -330), (48, 6, -380)), (6.5, 6, 5))),
    ]
    veins = [
        *tube(SVC, (10, 10, 10, 11)),
        *tube(((-24, -36, 42), (-6, -50, 50), (16, -52, 58), (34, -36, 72)), (8, 6, 6, 7)),
        *tube(((-24, -36, 42), (-32, -34, 72)), 7.5),
        *both(tube(((33, -36, 72), (60, -40, 84), (112, -28, 74)), (6, 5.5, 4.5))),
        *both(tube(((33, -36, 72), (30, -20, 160)), 6)),
        *tube(IVC, (14, 13, 12, 11, 11, 10)),
        *tube(((-25, -28, 8), (-22, -4, 13), (-8, 18, 4), (-7, 24, -60), (-6, 22, -150)), (4, 4, 4, 3.5, 3)),
        *both(tube(((-15, -2, -298), (-36, 12, -340), (-54, 12, -380)), (7, 6.5, 6))),
    ]
    yield Structure("oesophagus", "oesophagus", tube(OESOPHAGUS, 7.5))
    yield Structure("oesophageal_air", "gas", tube(OESOPHAGUS[1:5], (1.5, 2, 1.2, 0.4)))
    pulmonary = (*tube(PULMONARY_TRUNK, (14, 14, 13, 11, 9.5, 8), 8), *tube(RIGHT_PULMONARY, (12, 10.5, 9.5, 8), 8))
    yield Structure("pulmonary_trunk", "blood", pulmonary)
    yield Structure("veins", "blood", veins)
    yield Structure("arteries", "blood", arteries)
    yield Structure("thyroid", "thyroid", both([ball((19, -36, 104), (9, 11, 22))]))


def _airway() -> Iterator[Structure]:
    """Trachea and main bronchi: wall and lumen."""
    for name, material, wall in (("airway_wall", "oesophagus", 1.6), ("airway", "gas", 0.0)):
        right = tube(RIGHT_BRONCHUS, np.array([7.5, 7.2, 6.6, 5.0]) + wall, 6)
        left = tube(LEFT_BRONCHUS, np.array([7.2, 6.5, 5.8, 4.8]) + wall, 6)
        yield Structure(name, material, (*tube(TRACHEA, 8.8 + wall, 8), *right, *left), 3)


@lru_cache(maxsize=1)
def anatomy() -> tuple[Structure, ...]:
    """All structures in the order in which they are painted."""
    return tuple(s for build in (_trunk, _abdomen, _lungs, _heart, _great_vessels, _airway, skeleton) for s in build())


def _at(table: Table, z: float) -> float:
    """The y of a centre line at height ``z``."""
    points = np.array(sorted(table, key=lambda p: p[2]))
    return float(CubicSpline(points[:, 2], points[:, 1])(z))


LANDMARKS: dict[str, tuple[float, float, float]] = {
    "carina": (0, 2, 0),
    "jugular_notch": (0, -75, 55.5),
    "trachea_at_jugular_notch": (0, _at(TRACHEA, 55.5), 55.5),
    "right_lung_apex": (-50, 8, 95.5),
    "left_lung_apex": (50, 8, 95.5),
    "right_sternoclavicular": (-22, -74, 54),
    "left_sternoclavicular": (22, -74, 54),
    "right_main_bronchus_split": (-24, 4, -6),
    "left_main_bronchus_end": (42, 10, -17),
    "descending_aorta_at_carina": (27, 23, 0),
    "spinal_canal_at_carina": (0, float(spine_at(0.0)[[0, 2]].sum()) + 8.5, 0),
    "aortic_arch_top": (12.5, -17.5, 47.5),
    "pulmonary_bifurcation": (22, -31, -18),
    "heart_apex": tuple(LEFT_VENTRICLE + 52 * heart_frame()[:, 0]),
    "xiphoid_tip": (0, -116, -126),
    "liver_dome": (-66, -8, -102),
    "t10_vertebral_body": (0, 45, -126),
    "l1_vertebral_body": (0, 31, -207),
    "right_kidney_lower_pole": (-65.8, 23.4, -274),
    "left_kidney_lower_pole": (65.8, 23.4, -263),
}
