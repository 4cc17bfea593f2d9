"""Tissue by rule, on a phantom whose anatomy is known: sides, gas, contrast agent, and nothing where no rule can be sure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.scans.tissue import LABELS, tissue_labels
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.phantom.patient import Patient, canonical_coordinates, landmarks, make_patient, render

SPACING = 3.0
LEFT, RIGHT, AIRWAY, BONE, FAT, MUSCLE = (next(k for k, v in LABELS.items() if v == n) for n in LABELS.values())


class Trunk:
    """A patient without contrast agent from the neck to the kidneys, its labels, and the canonical x, y, z (mm) of every voxel."""

    def __init__(self) -> None:
        self.patient: Patient = replace(make_patient(3), contrast=0.0)
        corners = self.patient.to_patient([(x, y, z) for x in (-190, 190) for y in (-135, 125) for z in (-250, 130)])
        affine = np.diag([SPACING] * 3 + [1.0])
        affine[:3, 3] = corners.min(axis=0)
        self.grid = Grid(tuple(np.ceil(np.ptp(corners, axis=0) / SPACING).astype(int)[::-1]), affine)
        self.hu = render(self.patient, self.grid).array.astype(np.float32)
        self.x, self.y, self.z = canonical_coordinates(self.patient, self.grid)
        self.labels = tissue_labels(self.hu, SPACING)

    def ball(self, centre: tuple[float, float, float], radius: float) -> np.ndarray:
        return (self.x - centre[0]) ** 2 + (self.y - centre[1]) ** 2 + (self.z - centre[2]) ** 2 < radius**2

    def relabelled(self, where: np.ndarray, hu: float) -> np.ndarray:
        """Labels of the patient with something else somewhere."""
        noise = np.random.default_rng(0).normal(0, 12, self.hu.shape).astype(np.float32)
        return tissue_labels(np.where(where, hu + noise, self.hu), SPACING)


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    return Trunk()


def test_lungs_are_found_whole_and_on_their_sides(trunk: Trunk) -> None:
    lung = (trunk.hu > -950) & (trunk.hu < -750) & (trunk.z > -90) & (trunk.z < 60) & (np.abs(trunk.x) < 120) & (np.abs(trunk.y) < 70)
    assert np.isin(trunk.labels[lung], (LEFT, RIGHT)).mean() > 0.9
    assert (trunk.x[trunk.labels == LEFT] > 0).mean() > 0.99
    assert (trunk.x[trunk.labels == RIGHT] < 0).mean() > 0.99
    assert trunk.z[np.isin(trunk.labels, (LEFT, RIGHT))].min() > -200, "no bowel gas"


def test_the_mirror_image_has_its_lungs_exchanged(trunk: Trunk) -> None:
    mirrored = tissue_labels(np.ascontiguousarray(trunk.hu[:, :, ::-1]), SPACING)[:, :, ::-1]
    for label, other in ((LEFT, RIGHT), (RIGHT, LEFT)):
        assert (mirrored[trunk.labels == label] == other).mean() > 0.97


def test_landmarks_lie_in_the_tissue_they_belong_to(trunk: Trunk) -> None:
    index = {n: tuple(np.rint(trunk.grid.world_to_index([p])[0]).astype(int)) for n, p in landmarks(trunk.patient)}
    assert trunk.labels[index["trachea_at_jugular_notch"]] == AIRWAY
    assert trunk.labels[index["right_main_bronchus_split"]] in (AIRWAY, 0)
    for name in ("heart_apex", "pulmonary_bifurcation", "liver_dome", "spinal_canal_at_carina", "descending_aorta_at_carina"):
        assert trunk.labels[index[name]] in (0, FAT), name


def test_organs_are_not_called_muscle_but_the_wall_is(trunk: Trunk) -> None:
    for name, organ in {"liver": (-75, 0, -160), "heart": (15, -40, -60)}.items():
        assert not np.isin(trunk.labels[trunk.ball(organ, 25)], (MUSCLE, BONE)).any(), name
    muscle = trunk.labels == MUSCLE
    assert muscle.sum() * SPACING**3 > 200_000
    assert trunk.hu[muscle].min() > 10
    assert trunk.hu[muscle].max() < 110


def test_fat_and_bone_have_their_density_and_cover_most_of_it(trunk: Trunk) -> None:
    fat, bone = trunk.labels == FAT, trunk.labels == BONE
    assert trunk.hu[fat].max() < -40
    assert trunk.hu[bone].min() > 220
    assert bone[trunk.hu > 500].mean() > 0.9
    assert (fat.sum() * SPACING**3) > 1e6


def test_gas_in_the_stomach_is_no_lung(trunk: Trunk) -> None:
    gas = trunk.ball((60, -40, -165), 45)
    labels = trunk.relabelled(gas, -985.0)
    assert gas.sum() * SPACING**3 > 300_000, "larger than the smallest lung"
    assert not np.isin(labels[gas], (LEFT, RIGHT)).any()
    for label in (LEFT, RIGHT):
        assert (labels[trunk.labels == label] == label).mean() > 0.95


def test_contrast_agent_is_no_bone_and_bone_stays(trunk: Trunk) -> None:
    heart = trunk.ball((15, -40, -60), 28)
    labels = trunk.relabelled(heart, 380.0)
    assert (labels[heart] == BONE).mean() < 0.05
    bone = trunk.labels == BONE
    far = bone & ~trunk.ball((15, -40, -60), 60)
    assert (labels[far] == BONE).mean() > 0.98


def test_brain_in_a_skull_is_not_muscle() -> None:
    z, y, x = np.mgrid[-40:40, -40:40, -40:40] * 2.0
    radius = np.sqrt(x**2 + y**2 + z**2)
    hu = np.select([radius < 60, radius < 66, radius < 72], [35.0, 900.0, 50.0], -1000.0).astype(np.float32)
    hu += np.random.default_rng(0).normal(0, 5, hu.shape).astype(np.float32)
    labels = tissue_labels(hu)
    assert not (labels[radius < 58] == MUSCLE).any()
    assert (labels[(radius > 61) & (radius < 65)] == BONE).mean() > 0.95


def test_a_part_without_lungs_has_neither_lungs_nor_airway(trunk: Trunk) -> None:
    low = int(np.argmax(trunk.z[:, 40, 60] > -170))
    assert not np.isin(tissue_labels(trunk.hu[:low], SPACING), (LEFT, RIGHT, AIRWAY)).any()
    assert not tissue_labels(np.full((20, 30, 30), -1000, np.float32)).any()
