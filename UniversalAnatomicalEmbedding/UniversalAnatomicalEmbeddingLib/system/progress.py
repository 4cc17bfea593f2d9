"""Progress and cancelling: one protocol for the command line, the worker and every face."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

Progress = Callable[[float, str], None]
"""Called with the fraction done (0..1) and a short text."""


class Cancelled(Exception):
    """Raised inside a long function after its cancel event was set."""


def silent(fraction: float, text: str) -> None:
    """The progress function that shows nothing."""


def check(cancel: Event | None) -> None:
    """Raise :class:`Cancelled` when ``cancel`` is set."""
    if cancel is not None and cancel.is_set():
        raise Cancelled("Stopped on request.")


def part(progress: Progress, start: float, stop: float) -> Progress:
    """The progress function of a step that takes the share ``start`` to ``stop`` of the whole."""
    return lambda fraction, text: progress(start + (stop - start) * fraction, text)
