"""What the page shows, as plain values: made anew from the presenter after every change, sent where it differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from UniversalAnatomicalEmbeddingLib.landmarks import Cell
from UniversalAnatomicalEmbeddingLib.workbench import Gate, Presenter

GATES = ("place", "match", "search", "overlay", "accept", "reject", "delete", "export")
SHORTCUTS = (
    ("P", "place landmarks: click in the template"),
    ("Esc", "stop placing"),
    ("N, B", "next, previous landmark"),
    ("A, R", "accept, reject the selected match"),
    ("Delete", "delete the landmark everywhere"),
    ("Ctrl+Z, Ctrl+Shift+Z", "undo, redo"),
    ("M", "match all landmarks again"),
    ("C, then Shift+move", "live cursor: the other scans follow the mouse"),
    ("S", "similarity of every place to the selected landmark"),
    ("W", "window and level by dragging"),
    ("O", "open scans"),
    ("0", "show all scans whole"),
    ("Wheel", "through the slices"),
    ("Right-drag", "zoom"),
    ("Middle-drag", "pan"),
    ("Drag a point", "template: match again; other scans: correct the match"),
    ("?", "this list"),
)
WORDS = {
    "found": "found",
    "uncertain": "unsure",
    "absent": "absent",
    "accepted": "ok",
    "corrected": "moved",
    "rejected": "no",
    "failed": "failed",
    "waiting": "…",
}
FIRST: dict[str, Any] = {
    "dialog": "",
    "renaming": None,
    "rename_to": "",
    "placing": False,
    "windowing": False,
    "cursor_on": False,
    "overlay_on": False,
    "opening": "",
    "uploading": "",
    "message": None,
    "shortcuts": [list(line) for line in SHORTCUTS],
}


def letter(number: int) -> str:
    """A, B, ... Z, AA, AB, ...: how a scan is called on the page."""
    return (letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def page(presenter: Presenter) -> dict[str, Any]:
    """Everything that follows from the presenter."""
    letters = {volume: letter(number) for number, volume in enumerate(presenter.volumes)}
    gates = {name: _gate(getattr(presenter, f"can_{name}")) for name in GATES}
    gates["undo"] = {"enabled": presenter.history.can_undo, "reason": ""}
    gates["redo"] = {"enabled": presenter.history.can_redo, "reason": ""}
    button = presenter.prepare_button
    return {
        "gates": gates,
        "prepare": {"text": button.text, "enabled": button.enabled, "action": button.action},
        "hint": presenter.next_step,
        "table": table(presenter, letters),
    }


def rows(presenter: Presenter, views: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per scan. ``views``: by volume id what only the views know (their tags, modality, presets, the one chosen)."""
    shown = []
    for number, (volume, name) in enumerate(presenter.volumes.items()):
        status = presenter.readiness.status(volume)
        role = "template" if volume == presenter.template else "target" if volume in presenter.targets else "off"
        absent = [r.label for r in presenter.table.landmarks if volume != presenter.template and r.cell(volume).status == "absent"]
        shown.append(
            {
                "id": volume,
                "letter": letter(number),
                "name": name,
                "role": role,
                "state": status.state,
                "text": status.text,
                "reason": status.reason or status.step,
                "fraction": round(status.fraction, 2),
                "absent": absent,
                "match": _selected(presenter, volume),
                **views[volume],
            }
        )
    return shown


def table(presenter: Presenter, letters: Mapping[str, str]) -> dict[str, Any]:
    """Landmarks against targets."""
    targets = presenter.targets
    return {
        "selected": presenter.selected,
        "columns": [{"id": v, "letter": letters[v], "name": presenter.volumes[v]} for v in targets],
        "landmarks": [
            {
                "key": row.key,
                "label": row.label,
                "cells": [
                    {
                        "volume": v,
                        "selected": row.key == presenter.selected and v == presenter.selected_volume,
                        **_cell(row.cell(v)),
                    }
                    for v in targets
                ],
            }
            for row in presenter.table.landmarks
        ],
    }


def steps(path: str) -> list[dict[str, str]]:
    """The folders on the way to a path below the root, for the line above the listing."""
    parts = [part for part in path.split("/") if part]
    return [{"name": part, "path": "/".join(parts[: n + 1])} for n, part in enumerate(parts)]


def _selected(presenter: Presenter, volume: str) -> dict[str, str] | None:
    """The selected landmark's match in a target, for the line above its views; the absent have a chip of their own."""
    if presenter.selected is None or volume not in presenter.targets:
        return None
    row = presenter.table.row(presenter.selected)
    return None if row.cell(volume).status == "absent" else {"label": row.label, **_cell(row.cell(volume))}


def _cell(cell: Cell) -> dict[str, str]:
    """Short text (the number where there is one), status as the style, all of it on hovering."""
    number = (
        "" if cell.confidence is None or cell.status in ("absent", "waiting", "failed", "rejected") else f"{100 * cell.confidence:.0f} %"
    )
    return {"status": cell.status, "text": number or WORDS[cell.status], "title": "; ".join(filter(None, (cell.text, cell.note)))}


def _gate(gate: Gate) -> dict[str, Any]:
    return {"enabled": gate.enabled, "reason": gate.reason}
