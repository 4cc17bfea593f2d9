"""Hands jobs to the worker and its answers to whoever asked; a face calls :meth:`Desk.poll` from a timer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .client import Event, Progress


class Client(Protocol):
    """What a :class:`.client.WorkerClient` does here."""

    def submit(self, job: dict[str, Any]) -> int:
        """Queue a job; returns its number."""

    def poll(self) -> Sequence[Event]:
        """What has happened since the last call."""

    def cancel(self, job: int) -> None:
        """Stop a job."""


class Desk:
    """The jobs under way. ``listener(event)`` of a job gets its Progress events and at last one Done, Failed or Cancelled."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._listeners: dict[int, Callable[[Event], None]] = {}

    def submit(self, job: dict[str, Any], listener: Callable[[Event], None]) -> int:
        """Queue a job; returns its number."""
        number = self.client.submit(job)
        self._listeners[number] = listener
        return number

    def cancel(self, job: int) -> None:
        """Stop a job; its Cancelled follows."""
        self.client.cancel(job)

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return bool(self._listeners)

    def poll(self) -> bool:
        """Deliver what the worker has said since the last call; returns whether jobs are still under way."""
        for event in self.client.poll():
            listener = self._listeners.get(event.job) if isinstance(event, Progress) else self._listeners.pop(event.job, None)
            if listener is not None:
                listener(event)
        return self.busy
