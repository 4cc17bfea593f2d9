"""A worker client that answers registrations as the test writes."""

from __future__ import annotations

from typing import Any

import requires

requires.needs_mrml()


REPORT = {
    "stage": "rigid",
    "source": "embeddings",
    "inliers": 40,
    "pairs": 50,
    "fre_mm": 2.0,
    "expected_tre_mm": 1.25,
    "folding": 0.0,
    "refined_mm": None,
    "seconds": 3.0,
    "note": "",
}


class Client:
    """A worker whose answers the test writes."""

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
