"""Observers on MRML objects, kept together so that all can be taken off again."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any


class Observers:
    """Calls ``callback()`` on events, by group (a node id), until the group is removed.

    Callbacks take no event data: only some point events carry an index, and VTK never runs a callback that asks an event for data it does
    not have. An error in a callback goes to ``report``, because VTK would only print it.
    """

    def __init__(self, report: Callable[[Exception], None]) -> None:
        self.report = report
        self._tags: dict[str, list[tuple[Any, int]]] = {}

    def add(self, group: str, target: Any, event: int | str, callback: Callable[[], None]) -> None:
        """Observe ``event`` of ``target``."""
        self._tags.setdefault(group, []).append((target, target.AddObserver(event, _Called(self, callback))))

    def __contains__(self, group: str) -> bool:
        return group in self._tags

    def remove(self, group: str) -> None:
        """Stop observing everything of a group."""
        for target, tag in self._tags.pop(group, []):
            target.RemoveObserver(tag)

    def clear(self) -> None:
        """Stop observing."""
        for group in list(self._tags):
            self.remove(group)


class _Called:
    """What VTK calls. A scene that nobody holds any more still tells its end while Python takes both apart: then nothing may happen, and
    neither a function nor a partial would survive being called then."""

    __slots__ = ("callback", "observers")

    def __init__(self, observers: Observers, callback: Callable[[], None]) -> None:
        self.observers = weakref.ref(observers)
        self.callback = callback

    def __call__(self, _caller: Any, _event: str) -> None:
        reference, callback = getattr(self, "observers", None), getattr(self, "callback", None)
        observers = None if reference is None else reference()
        if observers is None or callback is None:
            return
        try:
            callback()
        except Exception as error:
            observers.report(error)
