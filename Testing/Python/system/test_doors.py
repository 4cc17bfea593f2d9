"""Doors of rooms: what is listed is there when it is used, and nothing is loaded before."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOOR = """
from typing import TYPE_CHECKING
from UniversalAnatomicalEmbeddingLib.system.doors import open_door
if TYPE_CHECKING:
    from .deep.cellar import wine
    from .kitchen import bread, salt
__all__, __getattr__ = open_door(__name__)
"""


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package ``house`` with the files ``kitchen`` and ``deep/cellar``; forgotten after the test."""
    (tmp_path / "house" / "deep").mkdir(parents=True)
    (tmp_path / "house" / "__init__.py").write_text(DOOR)
    (tmp_path / "house" / "kitchen.py").write_text("bread, salt, secret = 1, 2, 3")
    (tmp_path / "house" / "deep" / "cellar.py").write_text("import no_such_package")
    for name in ("house", "house.kitchen", "house.deep", "house.deep.cellar"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("house")


def test_a_file_is_loaded_when_a_name_of_it_is_used(house: ModuleType) -> None:
    assert house.__all__ == ["wine", "bread", "salt"]
    assert "house.kitchen" not in sys.modules
    assert house.salt == 2
    assert "house.kitchen" in sys.modules


def test_what_is_not_listed_is_not_there(house: ModuleType) -> None:
    with pytest.raises(AttributeError, match="module 'house' has no attribute 'secret'"):
        _ = house.secret


def test_a_package_that_a_file_misses_is_named_when_the_name_is_used(house: ModuleType) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        _ = house.wine


def test_a_name_replaced_in_its_file_is_replaced_in_the_door(
    house: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert house.bread == 1
    monkeypatch.setattr("house.kitchen.bread", 5)
    assert house.bread == 5
