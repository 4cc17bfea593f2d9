"""The landmark table and its history."""

from __future__ import annotations

import pytest

from UniversalAnatomicalEmbeddingLib.landmarks.table import Cell, CellStatus, History, LandmarkTable
from UniversalAnatomicalEmbeddingLib.system.errors import InputError

HERE, THERE = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)
FOUND = Cell("found", HERE, 0.8)


def one(cell: Cell | None = None) -> LandmarkTable:
    table = LandmarkTable().placed(7, "carina", HERE)
    return table if cell is None else LandmarkTable((table.row(7).with_cell("v", cell),))


def test_a_new_landmark_waits_in_every_volume() -> None:
    table = one()
    assert table.row(7).cell("any").status == "waiting"
    assert table.to_match("any") == (7,)


def test_a_landmark_without_position_is_not_matched() -> None:
    assert LandmarkTable().placed(1, "to be placed", None).to_match("v") == ()


def test_moving_makes_every_match_but_a_correction_wait() -> None:
    row = one().row(7)
    for status in ("found", "uncertain", "absent", "failed", "accepted", "rejected", "corrected"):
        row = row.with_cell(status, Cell(status, HERE))
    moved = LandmarkTable((row,)).placed(7, "carina", THERE).row(7)
    assert moved.position_lps == THERE
    assert {v: moved.cell(v).status for v in row.cells if moved.cell(v).status != "waiting"} == {"corrected": "corrected"}


def test_renaming_keeps_the_matches() -> None:
    table = one(FOUND).placed(7, "tracheal bifurcation", HERE)
    assert table.row(7).label == "tracheal bifurcation"
    assert table.row(7).cell("v") == FOUND


@pytest.mark.parametrize("status", ["accepted", "corrected", "rejected"])
def test_matching_never_overwrites_a_person(status: CellStatus) -> None:
    decided = Cell(status, HERE, 0.4)
    table = one(decided)
    assert table.matched(7, "v", Cell("found", THERE, 0.9)).row(7).cell("v") == decided
    assert table.to_match("v", again=True) == ()


@pytest.mark.parametrize("status", ["found", "uncertain", "absent", "failed"])
def test_matching_again_replaces_the_models_answers(status: CellStatus) -> None:
    table = one(Cell(status, None, 0.1))
    assert table.to_match("v") == ()
    assert table.to_match("v", again=True) == (7,)
    assert table.matched(7, "v", FOUND).row(7).cell("v") == FOUND


def test_a_correction_keeps_the_models_confidence() -> None:
    assert one(FOUND).corrected(7, "v", THERE).row(7).cell("v") == Cell("corrected", THERE, 0.8)


def test_accepting() -> None:
    assert one(FOUND).accepted(7, "v").row(7).cell("v") == Cell("accepted", HERE, 0.8)
    assert one(Cell("absent", None, 0.1)).accepted(7, "v").row(7).cell("v") == Cell("accepted", None, 0.1)
    assert one(Cell("corrected", THERE)).accepted(7, "v").row(7).cell("v").status == "corrected"
    with pytest.raises(InputError, match="nothing to accept"):
        one().accepted(7, "v")


def test_rejecting_keeps_the_point() -> None:
    assert one(FOUND).rejected(7, "v").row(7).cell("v") == Cell("rejected", HERE, 0.8)
    with pytest.raises(InputError, match="nothing to reject"):
        one(Cell("absent")).rejected(7, "v")


def test_clearing_and_deleting() -> None:
    table = one(Cell("corrected", THERE)).placed(8, "apex", THERE)
    assert table.cleared(7, "v").to_match("v") == (7, 8)
    assert table.deleted(7).keys == (8,)
    assert table.without_volume("v").row(7).cells == {}
    with pytest.raises(InputError, match="no landmark number 9"):
        table.deleted(9)


def test_cell_text_and_unknown_status() -> None:
    assert [c.text for c in (FOUND, Cell("absent", None, 0.1), Cell())] == ["0.80 found", "absent", "waiting"]
    with pytest.raises(InputError, match="Unknown match status"):
        Cell("maybe")  # type: ignore[arg-type]


def test_a_match_is_undone_with_the_step_that_caused_it() -> None:
    history = History()
    history.commit(one())
    history.amend(one(FOUND))
    assert history.can_undo and not history.can_redo
    history.undo()
    assert history.present == LandmarkTable()
    history.redo()
    assert history.present == one(FOUND)


def test_a_new_step_forgets_what_was_undone_and_no_change_is_no_step() -> None:
    history = History()
    history.commit(one())
    history.undo()
    history.commit(LandmarkTable())
    assert history.can_redo and not history.can_undo
    history.commit(one().placed(8, "apex", THERE))
    assert not history.can_redo
    history.undo()
    history.undo()
    history.redo()
    history.redo()
    assert history.present.keys == (7, 8)
