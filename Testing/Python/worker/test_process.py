"""The reason when a worker ended by itself."""

from __future__ import annotations

from UniversalAnatomicalEmbeddingLib.worker.process import crash_sentence


def test_exit_codes_become_reasons() -> None:
    assert "memory was full" in crash_sentence(-9, "anything")
    assert "(exit code 3221225477)" in crash_sentence(3221225477, "")
    assert "(ModuleNotFoundError: No module named 'x')" in crash_sentence(1, "Traceback\n  line\nModuleNotFoundError: No module named 'x'")
    assert "(Fatal Python error: Aborted)" in crash_sentence(-6, "Fatal Python error: Aborted\n\nThread 1:\n  File x")
