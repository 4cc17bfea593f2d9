"""Fixtures that several files of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def t() -> Iterator[Any]:
    """A scene with a template and two targets, and a workbench at it; needs MRML, which other tests of this folder do not."""
    from workbench_table import Table

    table = Table()
    yield table
    table.bench.close()
    assert table.errors == [], "errors in callbacks"
