"""One version everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import UniversalAnatomicalEmbeddingLib
from UniversalAnatomicalEmbeddingLib.system.version import VERSION

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_package_and_pip_have_the_same_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    attribute = project["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attribute == "UniversalAnatomicalEmbeddingLib.system.version.VERSION"
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    assert UniversalAnatomicalEmbeddingLib.__version__ == VERSION
