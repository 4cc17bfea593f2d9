"""Presenters with volumes, prepared and with a match."""

from __future__ import annotations

from UniversalAnatomicalEmbeddingLib.workbench.presenter import Presenter


def presenter(*volumes: str) -> Presenter:
    panel = Presenter()
    panel.set_volumes({v: v.upper() for v in volumes})
    return panel


def prepared(*volumes: str) -> Presenter:
    panel = presenter(*volumes)
    for volume in volumes:
        panel.readiness.ready(volume)
    return panel
