"""The worker process, driven by its two streams alone; what its jobs do is scripted (scripted_worker/sitecustomize.py)."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from UniversalAnatomicalEmbeddingLib.worker.__main__ import failure_sentence, is_broken, is_memory

PACKAGE = Path(__file__).resolve().parents[3] / "UniversalAnatomicalEmbedding"
SCRIPTED = Path(__file__).parents[1] / "scripted_worker"


class Bare:
    """A worker and its raw streams."""

    def __init__(self, folder: Path, **environment: str) -> None:
        path = os.pathsep.join([str(SCRIPTED), str(PACKAGE)])
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "UniversalAnatomicalEmbeddingLib.worker", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )
        self.lines: queue.Queue[bytes] = queue.Queue()
        self.seen: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:  # type: ignore[union-attr]
            self.lines.put(line)
        self.lines.put(b"")

    def send(self, *messages: dict[str, Any] | bytes) -> None:
        for message in messages:
            self.process.stdin.write(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]

    def next(self, *kinds: str, seconds: float = 120.0) -> dict[str, Any]:
        """The next message of one of these kinds; every line must be a JSON object."""
        while True:
            line = self.lines.get(timeout=seconds)
            assert line, "the worker has ended"
            message = json.loads(line)
            self.seen.append(message)
            if not kinds or message["event"] in kinds:
                return message

    def end(self, number: int) -> dict[str, Any]:
        while (message := self.next("done", "failed", "cancelled"))["id"] != number:
            pass
        return message


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Bare]:
    started = Bare(tmp_path / "folder")
    (tmp_path / "folder").mkdir()
    yield started
    started.process.kill()
    started.process.wait()


def test_it_says_who_it_is_and_works(worker: Bare) -> None:
    worker.send({"id": 7, "job": "echo", "word": "åß"})
    ready = worker.next()
    assert (ready["event"], ready["pid"]) == ("ready", worker.process.pid)
    answer = worker.end(7)
    assert answer["event"] == "done"
    assert answer["result"]["word"] == "åß"
    if hasattr(os, "getpriority"):
        assert os.getpriority(os.PRIO_PROCESS, ready["pid"]) == os.getpriority(os.PRIO_PROCESS, 0) + 5


def test_stray_prints_do_not_reach_the_protocol(worker: Bare) -> None:
    worker.send({"id": 1, "job": "noise"}, {"id": 2, "job": "echo"}, {"job": "shutdown"})
    assert worker.end(1)["result"] == {"read": ""}  # and what a library reads is empty, not the next command
    assert worker.end(2)["event"] == "done"
    assert worker.process.wait(60) == 0
    errors = worker.process.stderr.read().decode()  # type: ignore[union-attr]
    assert all(f"noise from {who}" in errors for who in ("Python", "C", "a child"))


GARBAGE: list[Any] = [b"hello\n", b"[1, 2]\n", b"\xff\xfe\x00\n", b'{"id": 1, "job": \n', b"null\n", b"[" * 100_000 + b"\n"]
WRONG: list[Any] = [{"job": "echo"}, {"id": "1", "job": "echo"}, {"id": 1}, {"id": 1, "job": 3}, {"id": None, "job": "echo"}]


def test_garbage_is_answered_and_survived(worker: Bare) -> None:
    for line in [*GARBAGE, *WRONG]:
        worker.send(line)
        assert worker.next("failed")["sentence"].startswith("The worker got a"), line
    worker.send({"cancel": 12}, {"cancel": "x"}, {"cancel": None}, b"\n", {"id": 5, "job": "echo"})
    assert worker.end(5)["event"] == "done"


def test_a_number_that_is_taken_is_refused_without_touching_its_job(worker: Bare) -> None:
    worker.send({"id": 1, "job": "obey"}, {"id": 1, "job": "echo"})
    assert worker.next("failed")["id"] is None
    worker.send({"cancel": 1})
    assert worker.end(1)["event"] == "cancelled"


def test_jobs_queue_and_cancel_in_any_order(worker: Bare) -> None:
    worker.send({"id": 1, "job": "obey"}, {"id": 2, "job": "obey"}, {"id": 3, "job": "echo"})
    worker.next("progress")
    worker.send({"cancel": 2})
    start = time.monotonic()
    worker.send({"cancel": 1})
    assert worker.end(1)["event"] == "cancelled"
    assert time.monotonic() - start < 0.5
    assert worker.end(2)["event"] == "cancelled"
    assert worker.end(3)["event"] == "done"


def test_shutdown_ends_after_the_jobs_before_it(worker: Bare) -> None:
    worker.send({"id": 1, "job": "echo"}, {"job": "shutdown"}, {"id": 2, "job": "echo"})
    assert worker.end(1)["event"] == "done"
    assert worker.process.wait(60) == 0
    assert worker.lines.get(timeout=10) == b""


@pytest.mark.parametrize("job", ["block", "obey"])
def test_it_ends_in_the_middle_of_a_job_when_its_client_is_gone(worker: Bare, tmp_path: Path, job: str) -> None:
    (tmp_path / "folder" / "1-volume.npy").write_bytes(b"patient")
    worker.send({"id": 1, "job": job})
    worker.next("progress")
    start = time.monotonic()
    worker.process.stdin.close()  # type: ignore[union-attr]
    worker.process.wait(60)
    assert time.monotonic() - start < 5.0
    assert not (tmp_path / "folder").exists()


def test_full_memory_is_one_sentence_and_the_worker_lives_on(worker: Bare) -> None:
    for number, kind in enumerate(["python", "torch", "cpu", "itk"]):
        worker.send({"id": number, "job": "memory", "kind": kind})
        failed = worker.end(number)
        assert failed["event"] == "failed"
        assert failed["sentence"].startswith("There is not enough memory for this scan."), kind
        assert failed.keys() == {"event", "id", "sentence"}
    worker.send({"id": 9, "job": "echo"})
    assert worker.end(9)["result"]["forgotten"] == 4


def test_a_defect_is_one_sentence_and_its_trace_goes_to_the_log(worker: Bare) -> None:
    worker.send({"id": 1, "job": "defect", "text": "first line\nsecond line"}, {"id": 2, "job": "echo"}, {"job": "shutdown"})
    assert worker.end(1)["sentence"] == (
        "The job met an error that it does not know: RuntimeError: first line. Copy the report from the diagnostics."
    )
    assert worker.end(2)["result"]["forgotten"] == 0
    assert "Traceback" in worker.process.communicate()[1].decode()


def test_a_broken_gpu_ends_the_worker_after_its_answer(worker: Bare) -> None:
    worker.send({"id": 1, "job": "defect", "text": "CUDA error: an illegal memory access was encountered"}, {"id": 2, "job": "echo"})
    assert worker.end(1)["event"] == "failed"
    assert worker.process.wait(60) == 3


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    worker = Bare(tmp_path, UAE_TEST_WITHOUT_TORCH="1")
    worker.send({"id": 4, "job": "probe"})
    assert worker.end(4)["sentence"].startswith(
        "A package that is needed is missing or damaged (import of UniversalAnatomicalEmbeddingLib.worker.jobs"
    )
    assert worker.process.wait(60) == 3


def test_progress_is_thinned_out(worker: Bare) -> None:
    worker.send({"id": 1, "job": "chatter"})
    worker.end(1)
    said = [m for m in worker.seen if m["event"] == "progress"]
    assert [m["text"] for m in said[:2]] == ["reading", "chatting"]
    assert 2 <= len(said) < 200


def test_errors_are_sorted() -> None:
    assert is_memory(MemoryError())
    assert is_memory(RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"))
    assert not is_memory(RuntimeError("CUDA error: no kernel image is available"))
    assert is_broken(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_broken(RuntimeError("CUDA error: out of memory"))
    assert not is_broken(ValueError("3 is no size"))
    full = OSError(28, "No space left on device", "/cache/fine.npy")
    assert failure_sentence(full) == "No space left on device: /cache/fine.npy. Check the path and the free space."
