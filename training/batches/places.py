"""Where the descriptors of one view pair are read: all that needs no network, so that the loader's processes can work it out ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..scans.labels import LabelTable
from ..scans.scan import Scan
from .augment import ViewParameters, to_patient
from .sampling import (
    Correspondences,
    all_cells,
    cells_near,
    corresponding_common,
    corresponding_points,
    labelled_cells,
    random_cells,
    scattered,
)
from .stream import PairParameters

Side = tuple[Scan, ViewParameters]


@dataclass(frozen=True)
class PlaceOptions:
    """How many places: ``points`` correspondences, ``cells`` random negatives (None: every cell of the fine map, whose ``stride`` is in voxels) and
    ``near`` ones within some ``near_reach`` voxels of the points. Common points of two patients may be wrong by ``slack_mm``, and two scans of one
    frame may be ``frame_slack_mm`` apart; the partner is sought at ``around`` places within that. ``per_structure`` labelled cells of each structure."""

    points: int
    cells: int | None
    near: int
    near_reach: float
    slack_mm: float
    frame_slack_mm: float
    around: int
    per_structure: int
    stride: tuple[int, int, int]


@dataclass(frozen=True)
class Places:
    """Places in the fixed and the moving view, as view indices (z, y, x).

    The first ``matched`` of ``index`` (2, P, 3) show the same anatomy, to within ``slack_mm``; the others are negatives. ``patient_mm`` (2, P, 3) is
    where they lie in the two patients. ``around`` (2, matched, K, 3) are places within the slack of each matched one (K is 0 without slack),
    ``labelled`` those of known structures in either view, in that order of what ``truth`` (N, ids + 1) int8 says of them (:meth:`LabelTable.truth`).
    """

    index: Tensor
    patient_mm: Tensor
    matched: int
    slack_mm: float
    around: Tensor
    labelled: tuple[Tensor, Tensor]
    truth: Tensor


@dataclass(frozen=True)
class Example:
    """What the loader hands to a training step of one pair."""

    pair: PairParameters
    places: Places


@dataclass(frozen=True)
class Chooser:
    """Pairs to examples, on the CPU. ``common``: see :class:`PairDataModule`; ``table`` None: no labels are needed."""

    scans: Sequence[Scan]
    common: Mapping[tuple[int, int], Tensor]
    table: LabelTable | None
    options: PlaceOptions

    def __call__(self, pair: PairParameters) -> Example:
        numbers = pair.fixed_scan, pair.moving_scan
        return Example(
            pair, choose_places(pair, self.scans[numbers[0]], self.scans[numbers[1]], self.options, self.table, self.common.get(numbers))
        )


@torch.autocast("cpu", enabled=False)  # rounded to bfloat16, places would be off by millimetres
def choose_places(
    pair: PairParameters, fixed: Scan, moving: Scan, o: PlaceOptions, table: LabelTable | None = None, common: Tensor | None = None
) -> Places:
    """The places of one pair, always the same ones for the same pair. ``common`` (N, 6): the common points of the scans, if they are of two patients."""
    g = Generator().manual_seed(pair.seed)
    sides: tuple[Side, Side] = (fixed, pair.fixed), (moving, pair.moving)
    between = fixed.frame != moving.frame
    if between:
        if common is None:
            raise ValueError(f"{fixed.name} and {moving.name} are of two patients; their common points are needed.")
        shown = corresponding_common(*sides, common, o.points, g)
    else:
        shown = corresponding_points(*sides, o.points, g)
    index = _with_negatives(shown, sides, o, g)
    registered = o.frame_slack_mm + fixed.slack_mm + moving.slack_mm if pair.fixed_scan != pair.moving_scan else 0.0
    slack = o.slack_mm if between else registered
    around = torch.empty(2, len(shown), 0, 3)
    if slack:
        near = [scattered(own, view, o.around, slack, g) for own, (_, view) in zip(shown, sides, strict=True)]
        around = torch.stack(near).unflatten(1, (len(shown), o.around))
    patient = torch.stack([to_patient(places, view) for places, (_, view) in zip(index, sides, strict=True)])
    labelled, truth = _labelled(sides, table, o, g)
    return Places(index, patient, len(shown), slack, around, labelled, truth)


def _with_negatives(shown: Correspondences, sides: tuple[Side, Side], o: PlaceOptions, g: Generator) -> Tensor:
    index = []
    for own, (_, view) in zip(shown, sides, strict=True):
        cells = _shuffled(all_cells(view, o.stride), g) if o.cells is None else random_cells(view, o.stride, o.cells, g)
        index.append(torch.cat([own, cells, cells_near(own, view, o.near, o.near_reach, g)]))
    rows = min(len(i) for i in index)
    return torch.stack([i[:rows] for i in index])


def _labelled(sides: tuple[Side, Side], table: LabelTable | None, o: PlaceOptions, g: Generator) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Labelled cells of both views and what they are; none without a table."""
    width = 0 if table is None else len(table) + 1
    places, truth = [torch.empty(0, 3)] * 2, [torch.empty(0, width, dtype=torch.int8)]
    for side, (scan, view) in enumerate(sides):
        if table is None or scan.labels is None:
            continue
        places[side], ids = labelled_cells(scan, view, o.stride, o.per_structure, g)
        known = scan.known
        if view.mirrored:
            swap = table.mirrored.long()
            ids, known = swap[ids], known[swap]
        truth.append(table.truth(ids, known))
    return (places[0], places[1]), torch.cat(truth)


def _shuffled(rows: Tensor, g: Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=g)]
