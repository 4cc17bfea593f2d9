"""The mean of several models' weights."""

from __future__ import annotations

import pytest
import torch

from training.release.average import average
from UniversalAnatomicalEmbeddingLib.models.model import Model, ModelCard
from UniversalAnatomicalEmbeddingLib.networks.compact import Compact
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

TINY = {"widths": (8, 8, 8, 8), "blocks": (1, 1, 1), "fine_channels": 8, "coarse_channels": 8}
CALIBRATION = {"correct": [0.0] * 7, "present": [0.0] * 7, "absent_below": 0.5}


def tiny(name: str, seed: int, **changes: object) -> Model:
    torch.manual_seed(seed)
    return Model(Compact(**(TINY | changes)).eval(), ModelCard(name, name, "compact", ("ct",), (), "", "", calibration=CALIBRATION))


def test_every_number_is_the_weighted_mean_and_the_calibration_is_gone() -> None:
    a, b = tiny("a", 0), tiny("b", 1)
    before = [{k: v.clone() for k, v in m.network.state_dict().items()} for m in (a, b)]
    mean = average([a, b], [1.0, 3.0])
    for name, value in mean.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.25 * before[0][name] + 0.75 * before[1][name])
    assert (mean.card.id, mean.card.calibration) == ("b", None)


def test_what_has_no_mean_is_refused() -> None:
    with pytest.raises(InputError, match="different networks"):
        average([tiny("a", 0), tiny("b", 1, fine_channels=16)], [1.0, 1.0])
    with pytest.raises(InputError, match="3 shares for 2 models"):
        average([tiny("a", 0), tiny("b", 1)], [1.0, 1.0, 1.0])
    with pytest.raises(InputError, match="0 together"):
        average([tiny("a", 0), tiny("b", 1)], [0.0, 0.0])
