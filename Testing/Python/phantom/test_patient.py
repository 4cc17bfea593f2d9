"""The procedural patients: exact correspondence, equal anatomy on every grid, landmarks on the tissue they name, laterality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from phantom_probe import TORSO, probe, standard_patient, torso_grid, values_at
from scipy.spatial.transform import Rotation

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume
from UniversalAnatomicalEmbeddingLib.phantom.anatomy import LANDMARKS
from UniversalAnatomicalEmbeddingLib.phantom.patient import Patient, canonical_coordinates, demo_pair, landmarks, make_patient, render
from UniversalAnatomicalEmbeddingLib.system.errors import InputError


class TestMap:
    @pytest.mark.parametrize("seed", range(6))
    def test_inverse_is_exact(self, seed: int) -> None:
        patient = make_patient(seed)
        points = np.random.default_rng(seed).uniform(TORSO[0] - 100, TORSO[1] + 100, (3000, 3))
        assert np.abs(patient.to_canonical(patient.to_patient(points)) - points).max() < 1e-6
        assert np.abs(patient.to_patient(patient.to_canonical(points)) - points).max() < 1e-6

    @pytest.mark.parametrize("seed", range(6))
    def test_does_not_fold_and_stays_a_plausible_size(self, seed: int) -> None:
        patient = make_patient(seed)
        points = np.random.default_rng(1).uniform(*TORSO, (2000, 3))
        columns = [(patient.to_patient(points + step) - patient.to_patient(points - step)) / 0.02 for step in 0.01 * np.eye(3)]
        volume_change = np.linalg.det(np.stack(columns, axis=-1))
        assert volume_change.min() > 0.3
        assert volume_change.max() < 3

    def test_refuses_a_displacement_that_could_fold(self) -> None:
        wave = np.array([[0.05, 0.0, 0.0]])
        with pytest.raises(InputError, match="could fold"):
            Patient(np.ones(3), np.eye(3), np.zeros(3), wave, np.array([[20.0, 0, 0]]), np.zeros(1))

    def test_patients_differ_by_more_than_pose(self) -> None:
        points = np.random.default_rng(2).uniform(*TORSO, (500, 3))
        a, b = (make_patient(seed).to_patient(points) for seed in (1, 2))
        design = np.c_[a, np.ones(len(a))]
        residual = b - design @ np.linalg.lstsq(design, b, rcond=None)[0]
        assert np.linalg.norm(residual, axis=1).mean() > 2

    def test_rendering_uses_the_same_map(self) -> None:
        patient = make_patient(4)
        affine = np.eye(4)
        affine[:3, :3] = Rotation.from_euler("xyz", (20, -15, 40), degrees=True).as_matrix() @ np.diag([5.0, 3.0, 7.0])
        affine[0, 2] += 1.5
        affine[:3, 3] = patient.to_patient([(-100, -200, -150)])[0]
        grid = Grid((40, 60, 50), affine)
        coordinates = np.stack(canonical_coordinates(patient, grid), axis=-1)
        index = np.random.default_rng(0).integers(0, grid.shape_zyx, (2000, 3))
        exact = patient.to_canonical(grid.index_to_world(index))
        assert np.abs(coordinates[tuple(index.T)] - exact).max() < 0.01


class TestRender:
    @pytest.mark.parametrize("modality", ["ct", "mr"])
    def test_another_grid_shows_the_same_at_the_same_place(self, modality: str) -> None:
        patient = make_patient(5)
        first = torso_grid(patient, 8.0)
        turned = first.affine.copy()
        turned[:3, 3] = first.index_to_world([(4, 2, first.shape_zyx[2] - 1)])[0]
        turned[:3, :3] = first.affine[:3, [1, 0, 2]] * np.array([0.5, -1, 1])
        second = Grid((20, first.shape_zyx[2], 40), turned)
        a, b = (render(patient, grid, modality, noise_seed=None, slice_samples=1) for grid in (first, second))
        same = b.array[:, ::-1, ::2].transpose(0, 2, 1)
        difference = np.abs(a.array[4:24, 2:22].astype(int) - same)
        assert difference.max() <= 3
        assert a.array.std() > 100

    def test_oblique_grid_shows_what_single_voxels_show(self) -> None:
        patient = replace(make_patient(6), contrast=1.0)
        affine = np.eye(4)
        affine[:3, :3] = Rotation.from_euler("xyz", (25, -20, 35), degrees=True).as_matrix() @ np.diag([5.0, 6.0, 7.0])
        affine[0, 2] += 1.5
        grid = Grid((44, 50, 60), affine)
        affine[:3, 3] = patient.to_patient([(0, 0, -60)])[0] - grid.index_to_world([(22, 25, 30)])[0]
        volume = render(patient, Grid(grid.shape_zyx, affine), noise_seed=None, slice_samples=1)
        inside = np.argwhere(volume.array > -950)
        index = inside[np.random.default_rng(0).choice(len(inside), 150, replace=False)]
        single = probe(patient, [tuple(p) for p in patient.to_canonical(volume.grid.index_to_world(index))])
        assert np.abs(volume.array[tuple(index.T)] - single).max() <= 4

    def test_slices_and_parts_of_a_scan_equal_the_whole(self, scan: tuple[Patient, Volume]) -> None:
        patient, whole = scan
        start, shape = (30, 10, 20), (3, 40, 50)
        part = render(patient, whole.grid.cropped(start, shape), noise_seed=None)
        expected = whole.array[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]
        assert np.abs(part.array.astype(int) - expected).max() <= 3

    def test_thick_slices_average(self) -> None:
        patient = standard_patient()
        affine = np.diag([2.0, 2.0, 8.0, 1.0])
        affine[:3, 3] = (-150, -100, 0)
        thin = np.diag([2.0, 2.0, 2.0, 1.0])
        thin[:3, 3] = (-150, -100, -3)
        thick = render(patient, Grid((2, 90, 150), affine), noise_seed=None).array.astype(float)
        fine = render(patient, Grid((8, 90, 150), thin), noise_seed=None).array.astype(float)
        assert np.abs(thick - fine.reshape(2, 4, 90, 150).mean(axis=1)).max() < 3

    def test_equal_seeds_give_equal_scans(self) -> None:
        grid = torso_grid(make_patient(8), 12.0)
        once, again, noisier = (render(make_patient(8), grid, noise_seed=seed).array for seed in (3, 3, 4))
        np.testing.assert_array_equal(once, again)
        assert once.dtype == np.int16
        assert 10 < (once.astype(int) - noisier).std() < 30
        assert np.abs(once.astype(int) - render(make_patient(9), grid, noise_seed=3).array).mean() > 50

    def test_mr_has_its_own_contrast(self) -> None:
        patient = standard_patient()
        fat, muscle, air, marrow = probe(patient, [(0, -96, -240), (24, 90, -60), (0, -22, 60), (0, 45, -126)], "mr")
        assert fat > marrow > muscle > air
        assert render(patient, torso_grid(patient, 16.0), "mr").modality == "mr"

    def test_refuses_other_modalities(self) -> None:
        with pytest.raises(InputError, match="xray"):
            render(make_patient(0), Grid((1, 1, 1), np.eye(4)), "xray")


class TestDemoPair:
    def test_absent_landmarks_lie_outside_the_target(self) -> None:
        pair = demo_pair(0, coarsening=3.0)
        present = [name for name, _ in pair.target_landmarks]
        assert {"left_kidney_lower_pole", "right_kidney_lower_pole"} <= set(pair.absent)
        assert sorted(present + pair.absent) == sorted(LANDMARKS)
        assert len(present) >= 14
        assert pair.target.grid.contains([point for _, point in pair.target_landmarks]).all()
        assert pair.template.grid.contains([point for _, point in pair.template_landmarks]).all()
        truth = dict(landmarks(make_patient(1001)))
        assert not pair.target.grid.contains([truth[name] for name in pair.absent]).any()

    def test_the_two_differ_in_size_place_and_contrast(self) -> None:
        pair = demo_pair(1, coarsening=3.0)
        names = [name for name, _ in pair.target_landmarks]
        there = np.array([point for _, point in pair.target_landmarks])
        here = np.array([dict(pair.template_landmarks)[name] for name in names])
        assert np.linalg.norm(there - here, axis=1).min() > 10
        shapes = [points - points.mean(axis=0) for points in (here, there)]
        assert np.abs(np.linalg.norm(shapes[0], axis=1) - np.linalg.norm(shapes[1], axis=1)).max() > 3
        aorta = [values_at(v, np.array([dict(p)["descending_aorta_at_carina"]]))[0] for v, p in (pair[:2], pair[2:4])]
        assert aorta[0] > aorta[1] + 100
