"""Long work beside the page: one thread for embedding and registration, one for matching, so that neither holds up a click."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, TypeVar

T = TypeVar("T")


class Jobs:
    """Runs functions in kept threads and brings their answers back to the page's thread (where alone the MRML scene may be touched).

    Threads are kept because a GPU library keeps its plans per thread.
    """

    def __init__(self) -> None:
        self._heavy = ThreadPoolExecutor(1, "heavy")
        self._light = ThreadPoolExecutor(1, "light")
        self.cancel = Event()

    async def heavy(self, function: Callable[..., T], *arguments: Any) -> T:
        """Embedding, registering, reading: one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._heavy, function, *arguments)

    async def light(self, function: Callable[..., T], *arguments: Any) -> T:
        """Matching."""
        return await asyncio.get_running_loop().run_in_executor(self._light, function, *arguments)

    def close(self) -> None:
        """Stop what runs, wait for nothing that has not begun."""
        self.cancel.set()
        self._heavy.shutdown(wait=True, cancel_futures=True)
        self._light.shutdown(wait=True, cancel_futures=True)


class Pace:
    """The time that is left of a job, judged from its own speed so far."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()

    def left(self, done: float) -> float | None:
        """Seconds until the whole is done when the fraction ``done`` is; None while that cannot be said."""
        return (self._clock() - self._began) * (1 - done) / done if done > 0.05 else None


def on_loop(loop: asyncio.AbstractEventLoop, function: Callable[..., None]) -> Callable[..., None]:
    """``function`` as it may be called from another thread: it runs later, on the page's."""
    return lambda *arguments: loop.call_soon_threadsafe(function, *arguments) and None
