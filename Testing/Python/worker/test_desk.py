"""Each answer of the worker reaches who asked."""

from __future__ import annotations

from job_client import Client

from UniversalAnatomicalEmbeddingLib.worker.client import Done, Failed, Progress
from UniversalAnatomicalEmbeddingLib.worker.desk import Desk


def test_every_listener_hears_of_its_own_job_only() -> None:
    client, heard = Client(), []
    desk = Desk(client)
    desk.submit({"job": "a"}, lambda e: heard.append(("a", e)))
    desk.submit({"job": "b"}, lambda e: heard.append(("b", e)))
    client.events = [Progress(2, 0.5, "", None), Done(1, {}), Failed(2, "no"), Done(2, {}), Done(99, {})]
    assert desk.busy and desk.poll() is False
    assert [(who, type(e).__name__) for who, e in heard] == [("b", "Progress"), ("a", "Done"), ("b", "Failed")], "one end each"
