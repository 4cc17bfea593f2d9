"""What the panel shows, without a panel."""

from __future__ import annotations

import pytest
from panels import prepared, presenter

from UniversalAnatomicalEmbeddingLib.landmarks.table import Cell, CellStatus, LandmarkTable
from UniversalAnatomicalEmbeddingLib.system.errors import InputError
from UniversalAnatomicalEmbeddingLib.workbench.presenter import Presenter

HERE = (1.0, 2.0, 3.0)


def with_cell(panel: Presenter, status: CellStatus) -> Presenter:
    table = LandmarkTable().placed(1, "carina", HERE)
    panel.commit(LandmarkTable((table.row(1).with_cell("b", Cell(status, None if status in ("absent", "waiting", "failed") else HERE)),)))
    panel.select(1, "b")
    return panel


# --- volumes --------------------------------------------------------------------------------------------------------------------------


def test_the_first_volume_is_the_template_and_all_others_are_targets() -> None:
    panel = presenter("a", "b", "c")
    assert (panel.template, panel.targets) == ("a", ("b", "c"))
    panel.check_target("b", False)
    assert panel.targets == ("c",) and panel.candidates == ("b", "c")
    panel.set_volumes({"a": "A", "b": "B", "c": "C", "d": "D"})
    assert panel.targets == ("c", "d"), "a new volume is ticked, an unticked one stays so"
    panel.set_template("c")
    assert panel.targets == ("a", "d")
    with pytest.raises(InputError, match="no volume 'z'"):
        panel.set_template("z")


def test_a_deleted_volume_is_forgotten() -> None:
    panel = prepared("a", "b", "c")
    with_cell(panel, "found")
    panel.set_volumes({"b": "B", "c": "C"})
    assert panel.template == "b" and panel.targets == ("c",) and panel.selected_volume is None
    panel.set_volumes({"a": "A", "b": "B", "c": "C"})
    assert panel.readiness.status("a").state == "not prepared"


# --- the big button -------------------------------------------------------------------------------------------------------------------


def test_the_button_says_what_is_missing() -> None:
    panel = presenter()
    assert panel.prepare_button.text == "Load a template and a target volume" and not panel.prepare_button.enabled
    panel = presenter("a")
    assert panel.prepare_button.text == "Load another volume as the target"
    panel = presenter("a", "b", "c")
    assert (panel.prepare_button.text, panel.prepare_button.action) == ("Prepare 3 volumes", "prepare")
    panel.set_missing("Needed first: torch.")
    assert (panel.prepare_button.action, panel.prepare_button.enabled) == ("install", True)
    assert panel.next_step == "Needed first: torch."
    panel.set_missing("")
    panel.check_target("b", False)
    panel.check_target("c", False)
    assert panel.prepare_button.text == "Tick a target volume"


def test_the_button_becomes_cancel_and_back() -> None:
    panel = presenter("a", "b")
    panel.readiness.preparing(["a", "b"])
    assert (panel.prepare_button.text, panel.prepare_button.action, panel.prepare_button.enabled) == ("Cancel", "cancel", True)
    panel.readiness.ready("a")
    panel.readiness.cancel_requested()
    assert (panel.prepare_button.text, panel.prepare_button.enabled) == ("Cancelling...", False)
    panel.readiness.stopped()
    assert panel.prepare_button.text == "Prepare 1 volume"
    panel.readiness.ready("b")
    assert (panel.prepare_button.text, panel.prepare_button.enabled) == ("All volumes are prepared", False)


# --- landmarks ------------------------------------------------------------------------------------------------------------------------


def test_gates_say_why_not() -> None:
    assert presenter().can_place.reason == "Choose a template volume first."
    panel = presenter("a", "b")
    assert panel.can_place.enabled
    assert panel.can_match.reason.startswith("Place a landmark")
    assert panel.can_export.reason == "There is no landmark to export."
    assert panel.can_overlay.reason == panel.can_delete.reason == "Select a landmark first."
    panel.commit(LandmarkTable().placed(1, "carina", HERE))
    assert panel.can_match.reason == "Prepare the template A first."
    panel.readiness.ready("a")
    assert panel.can_match.reason == panel.can_overlay.reason == "Prepare a target volume first."
    panel.readiness.ready("b")
    assert panel.can_match.enabled and panel.can_overlay.enabled and panel.can_export.enabled and panel.can_delete.enabled
    assert panel.can_accept.reason == panel.can_reject.reason == panel.can_correct.reason == "Select a match in the table first."
    assert panel.can_import.enabled
    panel.set_missing("torch")
    assert panel.can_match.reason == panel.can_import.reason == "torch"


@pytest.mark.parametrize(
    ("status", "accept", "reject"),
    [
        ("waiting", False, False),
        ("failed", False, False),
        ("found", True, True),
        ("uncertain", True, True),
        ("absent", True, False),
        ("accepted", False, True),
        ("corrected", False, True),
        ("rejected", True, False),
    ],
)
def test_what_can_be_decided(status: CellStatus, accept: bool, reject: bool) -> None:
    panel = with_cell(prepared("a", "b"), status)
    assert (panel.can_accept.enabled, panel.can_reject.enabled) == (accept, reject)
    assert panel.can_accept.enabled or panel.can_accept.reason


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("waiting", "Press Match all"),
        ("uncertain", "Uncertain matches: 1. Look"),
        ("failed", "Failed matches: 1. The table"),
        ("found", "Review the matches"),
        ("accepted", "All matches are settled"),
    ],
)
def test_what_next(status: CellStatus, words: str) -> None:
    assert with_cell(prepared("a", "b"), status).next_step.startswith(words)


def test_what_next_before_there_are_matches() -> None:
    panel = presenter("a", "b")
    assert panel.next_step.startswith("Press Prepare")
    panel.readiness.preparing(["a", "b"])
    panel.readiness.ready("a")
    assert panel.next_step == "Preparing: 1 of 2 volumes are ready. Landmarks can be placed meanwhile."
    panel.readiness.ready("b")
    assert panel.next_step.startswith("Press Place landmark")


def test_stepping_goes_round() -> None:
    panel = prepared("a", "b")
    assert panel.step(1) is None
    panel.commit(LandmarkTable().placed(1, "x", HERE).placed(2, "y", HERE))
    panel.select(None)
    assert [panel.step(1), panel.step(1), panel.step(1), panel.step(-1)] == [1, 2, 1, 2]


def test_stepping_goes_forwards_or_backwards_and_begins_at_either_end() -> None:
    panel = prepared("a", "b")
    panel.commit(LandmarkTable().placed(1, "x", HERE).placed(2, "y", HERE).placed(3, "z", HERE))
    panel.select(None)
    assert [panel.step(1), panel.step(1), panel.step(-1)] == [1, 2, 1]
    panel.select(None)
    assert [panel.step(-1), panel.step(-1)] == [3, 2]
    panel.select(2, "b")
    panel.step(1)
    assert panel.selected_volume == "b", "the same column"


def test_only_matches_in_targets_can_be_selected() -> None:
    panel = prepared("a", "b", "c")
    with_cell(panel, "found")
    panel.select(1, "a")
    assert panel.selected_volume is None and panel.selected_cell is None, "the template"
    panel.check_target("c", False)
    panel.select(1, "c")
    assert panel.selected_volume is None, "not ticked"
    panel.select(1, "b")
    panel.set_template("c")
    assert panel.selected_volume == "b"
    panel.set_template("b")
    assert panel.selected_volume is None and panel.selected_cell is None


def test_one_usable_target_and_a_moved_template_are_enough_to_search() -> None:
    panel = presenter("a", "b", "c")
    for volume in ("a", "c"):
        panel.readiness.ready(volume)
    assert panel.can_search.enabled
    panel.readiness.stale("a", "was moved", usable=True)
    assert panel.can_search.enabled
    panel.readiness.stale("a", "was changed", usable=False)
    assert panel.can_search.reason == "Prepare the template A first."


def test_a_volume_that_was_unticked_and_closed_comes_back_ticked() -> None:
    panel = presenter("a", "b", "c")
    panel.check_target("b", False)
    panel.set_volumes({"a": "A", "c": "C"})
    panel.set_volumes({"a": "A", "b": "B", "c": "C"})
    assert panel.targets == ("b", "c")


def test_the_selection_survives_or_moves_to_what_is_left() -> None:
    panel = prepared("a", "b")
    panel.commit(LandmarkTable().placed(1, "x", HERE).placed(2, "y", HERE))
    panel.select(2, "b")
    assert panel.selected_cell == Cell()
    panel.commit(panel.table.deleted(2))
    assert panel.selected == 1
    panel.undo()
    assert panel.table.keys == (1, 2)
    panel.redo()
    assert panel.table.keys == (1,)
    panel.commit(LandmarkTable().placed(7, "x", HERE).placed(8, "y", HERE))
    assert panel.selected == 8, "the last one"
    panel.restart(LandmarkTable())
    assert panel.selected is None and not panel.history.can_undo


def test_listeners_hear_every_change() -> None:
    panel, heard = presenter("a", "b"), []
    panel.on_change(lambda: heard.append(panel.next_step))
    panel.readiness.ready("a")
    panel.readiness.ready("a")
    assert len(heard) == 1, "nothing changed the second time"
    panel.commit(LandmarkTable().placed(1, "x", HERE))
    panel.select(1)
    assert len(heard) == 3
