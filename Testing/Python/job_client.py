"""A worker client that keeps the jobs it is given."""

from __future__ import annotations

from typing import Any


class Client:
    """A worker that answers what the test puts into ``events``."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.events: list[Any] = []
        self.cancelled: list[int] = []

    def submit(self, job: dict[str, Any]) -> int:
        self.jobs.append(job)
        return len(self.jobs)

    def poll(self) -> list[Any]:
        events, self.events = self.events, []
        return events

    def cancel(self, job: int) -> None:
        self.cancelled.append(job)
