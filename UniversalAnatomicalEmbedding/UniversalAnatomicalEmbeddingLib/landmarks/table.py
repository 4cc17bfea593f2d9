"""Landmarks of a template against target volumes: one frozen table, changed by making the next one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from ..system.errors import InputError
from ..system.language import tr as _
from .points import Position

CellStatus = Literal["waiting", "found", "uncertain", "absent", "failed", "accepted", "corrected", "rejected"]
DECIDED: frozenset[CellStatus] = frozenset({"accepted", "corrected", "rejected"})
"""A person's verdicts; matching again leaves them alone."""


@dataclass(frozen=True)
class Cell:
    """One landmark in one target.

    ``position_lps`` (x, y, z) in mm in the frame of the target's point list, None where there is no point (waiting, absent, failed).
    ``confidence``: the model's probability of an error under 10 mm (None: not matched, or not calibrated), kept as it was when a person
    corrects the point. ``note``: why it failed, or what the matcher remarked.
    """

    status: CellStatus = "waiting"
    position_lps: Position | None = None
    confidence: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.status not in get_args(CellStatus):
            sentence = _("Unknown match status '{status}'; use one of {known}.")
            raise InputError(sentence.format(status=self.status, known=", ".join(get_args(CellStatus))))

    @property
    def text(self) -> str:
        """What the table shows: "0.87 found", "0.31 uncertain", "absent", "corrected" ..."""
        word = _word(self.status)
        return word if self.confidence is None or self.status == "absent" else f"{self.confidence:.2f} {word}"


@dataclass(frozen=True)
class Landmark:
    """A row: the point of the template and its match in each volume.

    ``key`` names it for good (labels may repeat and change). ``position_lps`` in mm in the frame of the template's point list; None: named, not
    yet placed. ``cells`` by volume id; a volume without an entry is waiting.
    """

    key: int
    label: str
    position_lps: Position | None = None
    cells: Mapping[str, Cell] = field(default_factory=dict)

    def cell(self, volume: str) -> Cell:
        """The match in a volume."""
        return self.cells.get(volume, Cell())

    def with_cell(self, volume: str, cell: Cell) -> Landmark:
        """The same landmark with one match replaced."""
        return replace(self, cells={**self.cells, volume: cell})


@dataclass(frozen=True)
class LandmarkTable:
    """Rows in the order of the template's point list. Every method returns a new table."""

    landmarks: tuple[Landmark, ...] = ()

    def __len__(self) -> int:
        return len(self.landmarks)

    @property
    def keys(self) -> tuple[int, ...]:
        """Keys of the rows, in order."""
        return tuple(landmark.key for landmark in self.landmarks)

    def row(self, key: int) -> Landmark:
        """The landmark of a key; InputError where there is none."""
        for landmark in self.landmarks:
            if landmark.key == key:
                return landmark
        raise InputError(_("There is no landmark number {key}. It may have been deleted.").format(key=key))

    def placed(self, key: int, label: str, position_lps: Position | None) -> LandmarkTable:
        """A landmark added at the end, or, where the key exists, renamed and moved. Moving makes every match but a correction wait again."""
        if key not in self.keys:
            return LandmarkTable((*self.landmarks, Landmark(key, label, position_lps)))
        old = self.row(key)
        cells = old.cells if position_lps == old.position_lps else {v: c for v, c in old.cells.items() if c.status == "corrected"}
        return self._with(replace(old, label=label, position_lps=position_lps, cells=cells))

    def deleted(self, key: int) -> LandmarkTable:
        """Without a landmark."""
        self.row(key)
        return LandmarkTable(tuple(landmark for landmark in self.landmarks if landmark.key != key))

    def matched(self, key: int, volume: str, match: Cell) -> LandmarkTable:
        """With the matcher's answer, unless a person has decided on that match."""
        row = self.row(key)
        return self if row.cell(volume).status in DECIDED else self._with(row.with_cell(volume, match))

    def corrected(self, key: int, volume: str, position_lps: Position) -> LandmarkTable:
        """With a match that a person has put somewhere; the model's confidence stays on record."""
        row = self.row(key)
        return self._with(row.with_cell(volume, replace(row.cell(volume), status="corrected", position_lps=position_lps, note="")))

    def accepted(self, key: int, volume: str) -> LandmarkTable:
        """With a match confirmed: a proposal, a rejected one after all, or that the anatomy is absent. A correction stays one.

        InputError where there is nothing to confirm.
        """
        row = self.row(key)
        cell = row.cell(volume)
        if cell.status in ("waiting", "failed"):
            raise InputError(_("{label} has no match in this volume yet, so there is nothing to accept.").format(label=row.label))
        return self if cell.status == "corrected" else self._with(row.with_cell(volume, replace(cell, status="accepted")))

    def rejected(self, key: int, volume: str) -> LandmarkTable:
        """With a match marked wrong; its point is hidden, not lost. InputError where there is no point."""
        row = self.row(key)
        cell = row.cell(volume)
        if cell.position_lps is None:
            raise InputError(_("{label} has no point in this volume, so there is nothing to reject.").format(label=row.label))
        return self._with(row.with_cell(volume, replace(cell, status="rejected")))

    def cleared(self, key: int, volume: str) -> LandmarkTable:
        """With a match forgotten, a person's verdict too, so that it is matched again."""
        row = self.row(key)
        return self._with(replace(row, cells={v: c for v, c in row.cells.items() if v != volume}))

    def without_volume(self, volume: str) -> LandmarkTable:
        """With all matches in a volume forgotten."""
        rows = (replace(r, cells={v: c for v, c in r.cells.items() if v != volume}) for r in self.landmarks)
        return LandmarkTable(tuple(rows))

    def to_match(self, volume: str, again: bool = False) -> tuple[int, ...]:
        """Keys of the placed landmarks that wait (or, with ``again``, that no person has decided on) in a volume."""
        open_ = DECIDED if again else DECIDED | {"found", "uncertain", "absent", "failed"}
        return tuple(r.key for r in self.landmarks if r.position_lps is not None and r.cell(volume).status not in open_)

    def _with(self, changed: Landmark) -> LandmarkTable:
        return LandmarkTable(tuple(changed if row.key == changed.key else row for row in self.landmarks))


def _word(status: CellStatus) -> str:
    words: dict[CellStatus, str] = {
        "waiting": _("waiting"),
        "found": _("found"),
        "uncertain": _("uncertain"),
        "absent": _("absent"),
        "failed": _("failed"),
        "accepted": _("accepted"),
        "corrected": _("corrected"),
        "rejected": _("rejected"),
    }
    return words[status]


class History:
    """The present table, the ones before and the ones undone.

    A step is everything between two calls of :meth:`commit`: what a person did and the matches that followed from it.
    """

    def __init__(self, table: LandmarkTable | None = None) -> None:
        self.present = table or LandmarkTable()
        self._past: list[LandmarkTable] = []
        self._future: list[LandmarkTable] = []

    def commit(self, table: LandmarkTable) -> None:
        """A person's step: it can be undone, and what was undone before is forgotten. A table equal to the present one is no step."""
        if table != self.present:
            self._past.append(self.present)
            self._future.clear()
            self.present = table

    def amend(self, table: LandmarkTable) -> None:
        """A consequence of the last step, undone together with it."""
        self.present = table

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        """Whether there is an undone step."""
        return bool(self._future)

    def undo(self) -> None:
        """Take the last step back; nothing happens where there is none."""
        if self._past:
            self._future.append(self.present)
            self.present = self._past.pop()

    def redo(self) -> None:
        """Do the step last undone again; nothing happens where there is none."""
        if self._future:
            self._past.append(self.present)
            self.present = self._future.pop()
