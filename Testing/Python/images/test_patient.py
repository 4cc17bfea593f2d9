"""How bright an MR's patient is: not moved by what is not the patient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from UniversalAnatomicalEmbeddingLib.images.patient import believable, patient_limit
from UniversalAnatomicalEmbeddingLib.images.preprocess import Intensity, mr_limits
from UniversalAnatomicalEmbeddingLib.models.model import ModelCard

OLD = Intensity(mr_rule="percentiles")


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """A head-like MR: noisy air, tissue of several intensities, a bright rim of fat."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (60, 64, 56)), indexing="ij")
    r = np.sqrt(z**2 + y**2 + x**2)
    image = np.abs(rng.normal(0, 5, r.shape))
    tissue = 300 + 100 * ndimage.gaussian_filter(rng.normal(0, 1, r.shape), 3) * 12
    image = np.where(r < 0.85, tissue, image)
    return np.where((r >= 0.75) & (r < 0.85), 600.0, image).astype(np.float32)


def hot(image: np.ndarray, share: float = 0.05, times: float = 10.0) -> np.ndarray:
    changed = image.copy()
    changed[np.random.default_rng(1).choice(len(image), max(1, round(share * len(image))), replace=False)] *= times
    return changed


def coil(image: np.ndarray) -> np.ndarray:
    """Six times as bright beside an endorectal coil."""
    at = np.array(image.shape) * [0.5, 0.7, 0.5]
    squared = sum((g - a) ** 2 for g, a in zip(np.indices(image.shape), at, strict=True))
    return (image * (1 + 5 * np.exp(-squared / (2 * 8.0**2)))).astype(np.float32)


def bias(image: np.ndarray) -> np.ndarray:
    """A receive field of 1:10 from one end to the other, 1 in the middle."""
    return (image * 10 ** np.linspace(-0.5, 0.5, len(image))[:, None, None]).astype(np.float32)


CHANGES = {
    "half": (lambda a: a[: len(a) // 2], 1.15),
    "middle": (lambda a: a[10:-10, 10:-10, 10:-10], 1.5),
    "air": (lambda a: np.pad(a, [(0, 0), (32, 32), (32, 32)]), 1.15),
    "hot slices": (hot, 1.15),
    "spikes": (
        lambda a: np.where(np.random.default_rng(2).random(a.shape) < 1e-3, 3e4, a).astype(np.float32),
        1.05,
    ),
    "coil": (coil, 1.4),
    "bias": (bias, 1.7),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_scale_of_new_models_follows_the_patient(head: np.ndarray, name: str) -> None:
    change, factor = CHANGES[name]
    before, after = patient_limit(head), patient_limit(change(head))
    assert before is not None and after is not None
    assert 1 / factor < after / before < factor
    assert mr_limits(head, Intensity())[1] == before


@pytest.mark.parametrize("name", ["hot slices", "coil", "bias"])
def test_the_rule_before_was_moved_more(head: np.ndarray, name: str) -> None:
    """By percentiles, nothing corrected: the numbers that make the new rule worth having."""
    change, _ = CHANGES[name]
    compat = replace(OLD, mr_whole=True)  # nothing is put right there
    assert mr_limits(change(head), compat)[1] > 1.7 * mr_limits(head, compat)[1]


def test_hot_slices_do_not_spoil_the_scale_of_a_model_of_the_old_rule(head: np.ndarray) -> None:
    ordinary = mr_limits(head, OLD)[1]
    assert 0.5 * ordinary < mr_limits(hot(head), OLD)[1] < 1.2 * ordinary
    assert mr_limits(hot(head), replace(OLD, mr_whole=True))[1] > 5 * ordinary


def test_limits_that_can_be_are_kept_to_the_bit(head: np.ndarray) -> None:
    foreground = head[head > head.mean()]
    assert mr_limits(head, OLD) == (
        float(np.percentile(head, 0.5)),
        float(np.percentile(foreground, 99.0)),
    )
    assert believable(head, 900.0) == 900.0


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_an_image_without_contrast_has_no_patient(value: float) -> None:
    assert patient_limit(np.full((9, 9, 9), value, np.float32)) is None
    assert believable(np.full((9, 9, 9), value, np.float32), 5.0) == 5.0


def test_a_card_from_before_the_choice_keeps_its_rule() -> None:
    card = ModelCard("old", "", "compact", ("mr",), (), "", "")
    text = card.to_json().replace(',\n  "mr_rule": "patient"', "")
    assert "mr_rule" not in text
    assert ModelCard.from_json(text).intensity.mr_rule == "percentiles"
    assert ModelCard.from_json(card.to_json()).intensity.mr_rule == "patient"


def test_no_ordinary_scan_is_taken_for_spoiled(thin_scans: dict[str, np.ndarray]) -> None:
    """The limits of every training and development MR by the old rules are kept."""
    images = {n: a.astype(np.float32) for n, a in thin_scans.items() if n.startswith("mr/")}
    assert len(images) > 100
    for name, image in images.items():
        bright = float(np.percentile(image[image > image.mean()], 99.0))
        assert mr_limits(image, OLD)[1] == bright, name
        assert believable(image, float(np.percentile(image, 99.8))) == np.percentile(image, 99.8), name


def test_hot_slices_never_spoil_a_real_scan(thin_scans: dict[str, np.ndarray]) -> None:
    """One slice in twenty ten times too bright; at worst the scale is twice what it was (two of a
    prostate's few slices), mostly the same."""
    images = [a.astype(np.float32) for n, a in thin_scans.items() if n.startswith("mr/")][::4]
    factors = [mr_limits(hot(a), OLD)[1] / mr_limits(a, OLD)[1] for a in images]
    assert min(factors) > 0.4 and max(factors) < 4
    assert 0.8 < np.median(factors) < 1.2
