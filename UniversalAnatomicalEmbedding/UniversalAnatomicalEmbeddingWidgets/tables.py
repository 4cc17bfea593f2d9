"""What both tables of the panel share: filling cells without telling anybody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import qt

from UniversalAnatomicalEmbeddingLib.workbench import Gate

COLOURS = {
    "found": (70, 190, 90, 70),
    "accepted": (70, 190, 90, 140),
    "corrected": (70, 140, 220, 120),
    "uncertain": (255, 180, 0, 110),
    "absent": (128, 128, 128, 90),
    "rejected": (128, 128, 128, 50),
    "failed": (210, 70, 60, 110),
    "stale": (255, 180, 0, 110),
    "ready": (70, 190, 90, 70),
}


@contextmanager
def silenced(widget: Any) -> Iterator[None]:
    """Changes made inside are not reported by the widget's signals."""
    before = widget.blockSignals(True)
    try:
        yield
    finally:
        widget.blockSignals(before)


def resize(table: Any, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Give a table its headers; existing cells stay."""
    table.setColumnCount(len(columns))
    table.setRowCount(len(rows))
    table.setHorizontalHeaderLabels(list(columns))
    table.setVerticalHeaderLabels(list(rows))


def put(table: Any, row: int, column: int, text: str, status: str = "", tip: str = "", checked: bool | None = None) -> None:
    """Write a cell: text, colour of a status, tool tip, and a check box where ``checked`` is not None."""
    item = table.item(row, column)
    if item is None:
        item = qt.QTableWidgetItem()
        table.setItem(row, column, item)
    item.setText(text)
    item.setToolTip(tip)
    item.setBackground(qt.QBrush(qt.QColor(*COLOURS[status])) if status in COLOURS else qt.QBrush())
    flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
    if checked is None:
        item.setFlags(flags)
        item.setData(qt.Qt.CheckStateRole, None)
    else:
        item.setFlags(flags | qt.Qt.ItemIsUserCheckable)
        item.setCheckState(qt.Qt.Checked if checked else qt.Qt.Unchecked)


def enable(widget: Any, gate: Gate) -> None:
    """Enable a button, or say why not below the tool tip that the .ui file gives it."""
    if widget.property("tip") is None:
        widget.setProperty("tip", widget.property("toolTip"))
    tip = widget.property("tip")
    widget.setEnabled(gate.enabled)
    widget.setToolTip(tip if gate.enabled else f"{tip}\n{gate.reason}")
