"""Observers on MRML objects, kept together so that all can be taken off again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Observers:
    """Calls ``callback()`` on events, by group (a node id), until the group is removed.

    Callbacks take no event data: only some point events carry an index, and VTK never runs a callback that asks an event for data it does
    not have. An error in a callback goes to ``report``, because VTK would only print it.
    """

    def __init__(self, report: Callable[[Exception], None]) -> None:
        self._report = report
        self._tags: dict[str, list[tuple[Any, int]]] = {}

    def add(self, group: str, target: Any, event: int | str, callback: Callable[[], None]) -> None:
        """Observe ``event`` of ``target``."""

        def called(_caller: Any, _event: str) -> None:
            try:
                callback()
            except Exception as error:
                self._report(error)

        self._tags.setdefault(group, []).append((target, target.AddObserver(event, called)))

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
