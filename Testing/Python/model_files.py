"""Model files that must be refused, and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from UniversalAnatomicalEmbeddingLib.models.model import load_model
from UniversalAnatomicalEmbeddingLib.system.errors import InputError


def refused(model: str | Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(model)
    for word in words:
        assert word in str(caught.value)
