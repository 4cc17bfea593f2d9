"""The canonical anatomy: organs lie where they belong and landmarks where they are named."""

from __future__ import annotations

import numpy as np
from phantom_probe import probe, standard_patient, torso_grid, values_at
from scipy import ndimage

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume
from UniversalAnatomicalEmbeddingLib.phantom.anatomy import LANDMARKS
from UniversalAnatomicalEmbeddingLib.phantom.patient import Patient, landmarks, render


class TestAnatomy:
    def test_landmarks_lie_on_the_tissue_they_name(self) -> None:
        values = dict(zip(LANDMARKS, probe(standard_patient(contrast=1.0), list(LANDMARKS.values())), strict=True))
        assert values["trachea_at_jugular_notch"] < -950
        assert max(values["right_main_bronchus_split"], values["left_main_bronchus_end"]) < -900
        assert -950 < values["carina"] < 50
        assert min(values["descending_aorta_at_carina"], values["pulmonary_bifurcation"]) > 250
        assert 0 < values["spinal_canal_at_carina"] < 60
        assert 60 < values["liver_dome"] < 180
        assert min(values["t10_vertebral_body"], values["l1_vertebral_body"]) > 100
        assert min(values["right_sternoclavicular"], values["left_sternoclavicular"], values["xiphoid_tip"]) > 150

    def test_edges_are_where_the_landmarks_say(self) -> None:
        patient = standard_patient(contrast=1.0)
        steps = {
            "carina": ((0, 0, 5), (0, 0, -7)), "right_lung_apex": ((0, 0, -8), (0, 0, 6)), "left_lung_apex": ((0, 0, -8), (0, 0, 6)),
            "jugular_notch": ((0, 0, 6), (0, -2, -8)), "heart_apex": ((8, -7, -7), (-14, 10, 10)), "liver_dome": ((0, 0, 8), (0, 0, -8)),
            "aortic_arch_top": ((0, 0, 3), (0, 0, -8)), "right_kidney_lower_pole": ((0, 0, -4), (0, 0, 8)),
            "left_kidney_lower_pole": ((0, 0, -4), (0, 0, 8)),
        }  # fmt: skip
        for name, (low, high) in steps.items():
            dark, bright = probe(patient, [tuple(np.add(LANDMARKS[name], step)) for step in (low, high)])
            assert bright - dark > 100, f"{name}: {dark:.0f} to {bright:.0f} HU"

    def test_left_is_left(self, scan: tuple[Patient, Volume]) -> None:
        patient, volume = scan
        places = {name: point[0] for name, point in landmarks(patient)}
        assert places["liver_dome"] < places["carina"] < places["heart_apex"]
        pairs = [("right" + name.removeprefix("left"), name) for name in LANDMARKS if name.startswith("left_")]
        assert all(places[right] < places[left] for right, left in pairs if right in LANDMARKS)
        liver = values_at(volume, patient.to_patient([(-70, 0, -150), (-60, 20, -140)]))
        assert ((liver > 60) & (liver < 180)).all()

    def test_left_lung_is_smaller(self) -> None:
        patient = standard_patient()
        grid = torso_grid(patient)
        volume = render(patient, grid, noise_seed=None)
        body = np.stack([ndimage.binary_fill_holes(part > -300) for part in volume.array])
        x = grid.index_to_world(np.argwhere((volume.array < -600) & body))[:, 0]
        litres = np.array([(x < 0).sum(), (x > 0).sum()]) * 64e-6
        assert litres[1] < 0.97 * litres[0]
        assert 3.5 < litres.sum() < 8

    def test_proportions_are_an_adults(self) -> None:
        chest = render(standard_patient(), torso_grid(standard_patient()), noise_seed=None)
        index = chest.grid.world_to_index([(0, 0, -60)])[0].round().astype(int)
        y, x = np.nonzero(chest.array[index[0]] > -300)
        assert 300 < 4 * np.ptp(x) < 380
        assert 200 < 4 * np.ptp(y) < 270

    def test_bones_hang_together(self) -> None:
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        affine[:3, 3] = (-170, -126, -200)
        bones = render(standard_patient(), Grid((130, 125, 171), affine), noise_seed=None).array > 80
        bones |= ndimage.binary_closing(bones)
        labels, _ = ndimage.label(bones, np.ones((3, 3, 3)))
        sizes = np.bincount(labels.ravel())[1:]
        assert sizes.max() > 0.8 * sizes.sum()
