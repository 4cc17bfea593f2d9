"""The kept-alive process that does long jobs, what passes between it and its client, and the client
that never waits. ``python -m UniversalAnatomicalEmbeddingLib.worker`` runs it. Jobs are given
and answered in plain values; no node and no face is known here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.doors import open_door

if TYPE_CHECKING:
    from .client import Done, Event, Failed, Progress, WorkerClient
    from .desk import Desk

__all__, __getattr__ = open_door(__name__)
