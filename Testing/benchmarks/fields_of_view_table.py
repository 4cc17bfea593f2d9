"""The table of ``fields_of_view.py``: shares, verdicts and intervals of the cases measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from shown_scan import Mask

from UniversalAnatomicalEmbeddingLib.images import FloatArray

WITHIN_MM = 10.0
JUDGED_MM = 100.0
GOALS = {"warp": 3.0, "landmarks": 8.0, "absent": 2.0, "cut": 90.0}


@dataclass(frozen=True)
class Queries:
    """What was asked in one case: errors in mm and verdicts, and the same in the uncut scan."""

    mm: FloatArray
    absent: Mask
    uncut_mm: FloatArray
    uncut_absent: Mask
    present: Mask

    @classmethod
    def read(cls, rows: Sequence[dict[str, Any]]) -> Queries:
        """The queries of several rows together."""

        def column(name: str, kind: type) -> Any:
            return np.array([v for row in rows for v in row[name]], dtype=kind)

        errors = (column(name, float) for name in ("mm", "uncut_mm"))
        verdicts = (column(name, bool) for name in ("absent", "uncut_absent", "present"))
        (mm, uncut_mm), (absent, uncut_absent, present) = errors, verdicts
        return cls(mm, absent, uncut_mm, uncut_absent, present)

    def within(self) -> float | None:
        """Percentage of the present found within 10 mm."""
        return percent(((self.mm <= WITHIN_MM) & ~self.absent)[self.present])

    def within_uncut(self) -> float | None:
        """The same of the uncut scan."""
        return percent(((self.uncut_mm <= WITHIN_MM) & ~self.uncut_absent)[self.present])


def percent(hits: Mask) -> float | None:
    """100 times the mean; None of nothing."""
    return 100 * float(np.mean(hits)) if len(hits) else None


def table(rows: Sequence[dict[str, Any]], order: Sequence[str]) -> str:
    """One line a way, in this order, as Markdown."""
    head = (
        "way | shown mm (z, y, x) | warp: n, within 10 mm (uncut), median, absent "
        "| landmarks: n, within 10 mm (uncut) [interval of the loss], absent | cut away: n, absent "
        "| other visit: n, within 10 mm (uncut) | goals"
    )
    names = sorted({r["way"] for r in rows}, key=list(order).index)
    lines = [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    return "\n".join(lines + [line_of(n, [r for r in rows if r["way"] == n]) for n in names])


def line_of(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """The line of a way."""
    names = ("warp", "headneck", "landmarks", "visit")
    kinds = {kind: [r for r in rows if r["kind"] == kind] for kind in names}
    warp, plain, marks, visit = (Queries.read(kinds[kind]) for kind in names)
    known = warp if len(warp.mm) else plain
    extent = np.median([r["shown_mm"] for r in kinds["warp"]] or [[np.nan] * 3], axis=0)
    middle = np.median(known.mm) if len(known.mm) else np.nan
    low, high = interval(kinds["landmarks"])
    away = ~marks.present
    cells = [
        name,
        " x ".join(f"{v:.0f}" for v in extent),
        f"{len(known.mm)}, {compared(known)}, {middle:.1f} mm, {number(percent(known.absent))}",
        f"{marks.present.sum()}, {compared(marks)} [{low:.0f}, {high:.0f}], {number(percent(marks.absent[marks.present]))}",
        f"{away.sum()}, {number(percent(marks.absent[away]))}",
        f"{visit.present.sum()}, {compared(visit)}",
        verdict(extent, warp, marks),
    ]
    return "| " + " | ".join(cells) + " |"


def number(value: float | None) -> str:
    """A percentage, or a dash."""
    return "-" if value is None else f"{value:.1f} %"


def compared(queries: Queries) -> str:
    """The share found, with the uncut scan's in brackets."""
    return f"{number(queries.within())} ({number(queries.within_uncut())})"


def verdict(extent: FloatArray, warp: Queries, marks: Queries) -> str:
    """The goals that are missed; "met" where none is."""
    if not np.nanmax(extent, initial=0) >= JUDGED_MM:
        return "not judged"
    missed = []
    for name, queries in (("warp", warp), ("landmarks", marks)):
        share, whole = queries.within(), queries.within_uncut()
        if share is not None and whole is not None and whole - share > GOALS[name]:
            missed.append(f"{name} -{whole - share:.1f}")
        absent = percent(queries.absent[queries.present])
        if absent is not None and absent > GOALS["absent"]:
            missed.append(f"{name} absent {absent:.1f} %")
    cut = percent(marks.absent[~marks.present])
    if cut is not None and cut < GOALS["cut"]:
        missed.append(f"cut away {cut:.0f} %")
    return "missed: " + ", ".join(missed) if missed else "met"


def interval(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """95 % interval of the points lost in share within 10 mm, resampling the target patients."""
    counts = {}
    for patient in dict.fromkeys(r["patient"] for r in rows):
        q = Queries.read([r for r in rows if r["patient"] == patient])
        hit, whole = (((mm <= WITHIN_MM) & ~absent)[q.present].sum() for mm, absent in ((q.mm, q.absent), (q.uncut_mm, q.uncut_absent)))
        counts[patient] = (whole - hit, q.present.sum())
    if not sum(n for _, n in counts.values()):
        return np.nan, np.nan
    drawn = np.random.default_rng(0).integers(len(counts), size=(2000, len(counts)))
    lost, asked = np.array(list(counts.values()))[drawn].sum(axis=1).T
    low, high = np.percentile(100 * lost[asked > 0] / asked[asked > 0], [2.5, 97.5])
    return float(low), float(high)
