"""One kind of exception for what a person can mend."""

from __future__ import annotations

import pytest

from UniversalAnatomicalEmbeddingLib.registration import NoCommonAnatomy
from UniversalAnatomicalEmbeddingLib.system.errors import InputError
from UniversalAnatomicalEmbeddingLib.system.progress import Cancelled


def test_a_caller_of_the_library_catches_it_as_a_wrong_value_too() -> None:
    with pytest.raises(ValueError, match="Give a CT or MR scan"):
        raise InputError("Give a CT or MR scan.")


def test_special_mistakes_are_mistakes_and_stopping_is_none() -> None:
    assert issubclass(NoCommonAnatomy, InputError)
    assert not issubclass(Cancelled, InputError)
