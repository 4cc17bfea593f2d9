"""Progress of a step is a share of the whole, and a set cancel event stops at the next check."""

from __future__ import annotations

from threading import Event

import pytest

from UniversalAnatomicalEmbeddingLib.system.progress import Cancelled, check, part, silent


def test_steps_share_the_whole_and_may_have_steps_themselves() -> None:
    seen: list[tuple[float, str]] = []
    second = part(lambda fraction, text: seen.append((fraction, text)), 0.5, 1.0)
    second(0.0, "begins")
    part(second, 0.2, 0.6)(0.5, "inner")
    second(1.0, "ready")
    assert seen == [
        (0.5, "begins"),
        (pytest.approx(0.7), "inner"),
        (1.0, "ready"),
    ]


def test_only_a_set_event_stops() -> None:
    event = Event()
    check(None)
    check(event)
    event.set()
    with pytest.raises(Cancelled):
        check(event)


def test_silent_takes_what_every_progress_function_takes(capsys: pytest.CaptureFixture[str]) -> None:
    silent(0.5, "tiles")
    assert capsys.readouterr() == ("", "")
