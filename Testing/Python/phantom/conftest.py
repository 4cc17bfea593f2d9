"""Fixtures that several files of this folder share."""

from __future__ import annotations

from dataclasses import replace

import pytest
from phantom_probe import torso_grid

from UniversalAnatomicalEmbeddingLib.images.volume import Volume
from UniversalAnatomicalEmbeddingLib.phantom.patient import Patient, make_patient, render


@pytest.fixture(scope="module")
def scan() -> tuple[Patient, Volume]:
    """One patient with contrast agent, noise-free, 4 mm."""
    patient = replace(make_patient(5), contrast=1.0)
    return patient, render(patient, torso_grid(patient), noise_seed=None)
