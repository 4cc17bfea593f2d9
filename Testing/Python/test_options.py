"""Settings are checked when they are made, and the sentence says what there is."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any, get_args

import pytest

from UniversalAnatomicalEmbeddingLib.options import MatchOptions, Method, RegisterOptions, Stage
from UniversalAnatomicalEmbeddingLib.system.errors import InputError


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        (MatchOptions, {"method": "best"}, ("best", *get_args(Method))),
        (RegisterOptions, {"stage": "elastic"}, ("elastic", *get_args(Stage))),
        (RegisterOptions, {"keypoints": 49}, ("49", "50", "20000")),
        (RegisterOptions, {"keypoints": 20_001}, ("20001", "20000")),
        (RegisterOptions, {"field_mm": 1.9}, ("1.9", "2 to 50 mm")),
        (RegisterOptions, {"field_mm": 50.5}, ("50.5", "2 to 50 mm")),
    ],
)
def test_what_cannot_be_asked_for(kind: Any, wrong: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        kind(**wrong)
    assert [word for word in words if word not in str(caught.value)] == []


def test_every_method_and_stage_and_the_limits_themselves_are_taken() -> None:
    assert [MatchOptions(method=method).method for method in get_args(Method)] == list(get_args(Method))
    assert [RegisterOptions(stage=stage).stage for stage in get_args(Stage)] == list(get_args(Stage))
    for keypoints, field_mm in ((50, 2.0), (20_000, 50.0)):
        RegisterOptions(keypoints=keypoints, field_mm=field_mm)


def test_settings_do_not_change_after_they_were_checked() -> None:
    with pytest.raises(FrozenInstanceError):
        RegisterOptions().stage = "elastic"  # type: ignore[misc,assignment]
