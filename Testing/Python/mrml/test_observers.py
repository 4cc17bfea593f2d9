"""Observers of a scene's objects are called until their group goes, and their errors are told."""

from __future__ import annotations

import gc
from typing import Any

import requires

requires.needs_mrml()

from UniversalAnatomicalEmbeddingLib.mrml.observers import Observers  # noqa: E402


def test_a_group_hears_until_it_is_removed(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "n")
    heard: list[str] = []
    observers = Observers(lambda error: heard.append(f"error {error}"))
    observers.add("a", node, "ModifiedEvent", lambda: heard.append("a"))
    observers.add("b", node, "ModifiedEvent", lambda: heard.append("b"))
    node.Modified()
    observers.remove("a")
    assert "a" not in observers and "b" in observers
    node.Modified()
    observers.clear()
    node.Modified()
    observers.remove("never added")
    assert sorted(heard[:2]) == ["a", "b"] and heard[2:] == ["b"]


def test_an_error_is_reported_and_spoils_no_other_callback(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "n")
    errors: list[Exception] = []
    heard: list[int] = []

    def fail() -> None:
        raise RuntimeError("in a callback")

    observers = Observers(errors.append)
    observers.add("a", node, "ModifiedEvent", fail)
    observers.add("a", node, "ModifiedEvent", lambda: heard.append(1))
    node.Modified()
    assert [str(e) for e in errors] == ["in a callback"] and heard == [1]


def test_nothing_happens_after_the_observers_are_gone(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "n")
    heard: list[int] = []
    observers = Observers(lambda error: None)
    observers.add("a", node, "ModifiedEvent", lambda: heard.append(1))
    del observers
    gc.collect()
    node.Modified()
    assert heard == []
