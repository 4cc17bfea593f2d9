"""Checkpoint files as others publish them, small ones."""

from __future__ import annotations

from typing import Any

import pytest

from UniversalAnatomicalEmbeddingLib.models import published as module
from UniversalAnatomicalEmbeddingLib.models.published import Release, releases


def released(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    """Change what is known about a published model."""
    known = releases()
    known[name] = Release(**{**{k: getattr(known[name], k) for k in Release.__dataclass_fields__}, **changes})
    monkeypatch.setattr(module, "releases", lambda: known)
