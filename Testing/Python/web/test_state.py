"""What the page shows, made from the presenter alone."""

from __future__ import annotations

import json

import pytest

from UniversalAnatomicalEmbeddingLib.landmarks.table import Cell, LandmarkTable
from UniversalAnatomicalEmbeddingLib.workbench.presenter import Presenter
from UniversalAnatomicalEmbeddingWeb import state

VIEWS = {v: {"views": [f"{v}axial"], "modality": "CT", "presets": ["Lung"], "preset": "Lung"} for v in "xyz"}


@pytest.fixture
def panel() -> Presenter:
    """Template x, targets y (ready) and z (being prepared), one landmark found in y and absent in z."""
    panel = Presenter()
    panel.set_volumes({"x": "first", "y": "second", "z": "third"})
    for volume in "xy":
        panel.readiness.ready(volume)
    panel.readiness.preparing(["z"])
    panel.readiness.progress("z", 0.25, "network", 9.0)
    table = LandmarkTable().placed(1, "carina", (1.0, 2.0, 3.0)).matched(1, "y", Cell("found", (4.0, 5.0, 6.0), 0.876, "near"))
    panel.commit(table.matched(1, "z", Cell("absent", None, 0.04)))
    panel.select(1, "y")
    return panel


@pytest.mark.parametrize(("number", "name"), [(0, "A"), (25, "Z"), (26, "AA"), (27, "AB"), (52, "BA")])
def test_scans_are_called_by_letters(number: int, name: str) -> None:
    assert state.letter(number) == name


def test_a_cell_shows_the_confidence_and_absent_is_a_word_not_a_number(panel: Presenter) -> None:
    (row,) = state.page(panel)["table"]["landmarks"]
    assert [(c["volume"], c["status"], c["text"], c["selected"]) for c in row["cells"]] == [
        ("y", "found", "88 %", True),
        ("z", "absent", "absent", False),
    ]
    assert row["cells"][0]["title"] == "0.88 found; near"


def test_a_row_knows_its_role_its_progress_and_what_is_absent(panel: Presenter) -> None:
    first, second, third = state.rows(panel, VIEWS)
    assert (first["letter"], first["role"], first["absent"]) == ("A", "template", [])
    assert (second["role"], second["state"], second["views"]) == ("target", "ready", ["yaxial"])
    assert second["match"] == {"label": "carina", "status": "found", "text": "88 %", "title": "0.88 found; near"}
    assert first["match"] is None and third["match"] is None
    assert (third["fraction"], third["text"], third["absent"]) == (0.25, "preparing 25%, 9 s left", ["carina"])
    panel.check_target("y", False)
    assert state.rows(panel, VIEWS)[1]["role"] == "off"


def test_a_scan_that_becomes_the_template_has_nothing_absent(panel: Presenter) -> None:
    assert state.rows(panel, VIEWS)[2]["absent"] == ["carina"]
    panel.set_template("z")
    third = state.rows(panel, VIEWS)[2]
    assert (third["role"], third["absent"], third["match"]) == ("template", [], None)


def test_a_rejected_match_is_a_word_not_a_number(panel: Presenter) -> None:
    panel.commit(panel.table.rejected(1, "y"))
    (row,) = state.page(panel)["table"]["landmarks"]
    assert (row["cells"][0]["status"], row["cells"][0]["text"]) == ("rejected", "no")


def test_a_row_says_why_its_scan_is_not_ready_or_what_is_being_done(panel: Presenter) -> None:
    assert state.rows(panel, VIEWS)[2]["reason"] == "network"
    panel.readiness.failed("z", "too small")
    panel.readiness.stale("y", "was changed", usable=False)
    assert [row["reason"] for row in state.rows(panel, VIEWS)] == ["", "was changed", "too small"]


def test_gates_say_what_is_missing(panel: Presenter) -> None:
    gates = state.page(panel)["gates"]
    assert gates["accept"] == {"enabled": True, "reason": ""} and gates["undo"]["enabled"] and not gates["redo"]["enabled"]
    empty = state.page(Presenter())
    assert not empty["gates"]["place"]["enabled"] and "template" in empty["gates"]["place"]["reason"]
    assert empty["prepare"]["action"] == "none"


def test_everything_can_be_sent(panel: Presenter) -> None:
    json.dumps([state.page(panel), state.rows(panel, VIEWS), state.FIRST], allow_nan=False)


def test_steps_lead_down_to_a_path() -> None:
    assert state.steps("a/b/c")[1] == {"name": "b", "path": "a/b"} and state.steps("") == []
