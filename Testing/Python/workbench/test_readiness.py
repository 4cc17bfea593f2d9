"""Where a volume stands: preparing, ready, stale, failed."""

from __future__ import annotations

from panels import prepared, presenter

from UniversalAnatomicalEmbeddingLib.workbench.readiness import duration


def test_progress_and_its_text() -> None:
    panel = presenter("a", "b")
    panel.readiness.progress("a", 0.5, "tiles")
    assert panel.readiness.status("a").state == "not prepared", "progress of a volume that is not being prepared"
    panel.readiness.preparing(["a"])
    panel.readiness.progress("a", 0.5, "tiles", 12.4)
    assert panel.readiness.status("a").text == "preparing 50%, 12 s left"
    panel.readiness.failed("a", "It is a projection image.")
    assert panel.readiness.status("a").text == "failed: It is a projection image."
    assert panel.next_step.startswith("A could not be prepared: It is a projection")
    assert [duration(s) for s in (0.2, 89, 100, 3600)] == ["1 s", "89 s", "2 min", "60 min"]


def test_a_crash_fails_only_what_was_under_way() -> None:
    panel = prepared("a", "b", "c")
    panel.readiness.preparing(["b"])
    panel.readiness.stopped("The worker ended.")
    assert [panel.readiness.status(v).state for v in "abc"] == ["ready", "failed", "ready"]


def test_stale_volumes() -> None:
    panel = prepared("a", "b")
    panel.readiness.stale("b", "was moved since it was prepared", usable=True)
    assert panel.can_search.enabled and panel.to_prepare == ("b",)
    assert panel.next_step == "B: was moved since it was prepared. Press Prepare to bring it up to date."
    panel.readiness.stale("b", "was changed since it was prepared", usable=False)
    assert panel.can_search.reason == "Prepare a target volume first."
    panel.readiness.forget("a")
    panel.readiness.stale("a", "was moved", usable=True)
    assert panel.readiness.status("a").state == "not prepared"


def test_another_model_unprepares_everything() -> None:
    panel = prepared("a", "b")
    panel.set_model("other")
    assert panel.to_prepare == ("a", "b")
    panel.readiness.ready("a")
    panel.set_model("other")
    assert panel.to_prepare == ("b",)
