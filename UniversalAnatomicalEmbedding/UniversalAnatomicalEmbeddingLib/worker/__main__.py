"""The worker process: ``python -m UniversalAnatomicalEmbeddingLib.worker [FOLDER]``, one JSON object a line on both streams.

In::

    {"id": 1, "job": "embed", "volume": {"array": "1.npy", "affine": [[...]], "modality": "ct", "name": "a"}, "model": null}
    {"id": 2, "job": "register", "fixed": {...}, "moving": {...}, "options": {"stage": "rigid"}, "out": "result.h5"}
    {"id": 3, "job": "import", "path": "SAM.pth"}
    {"id": 4, "job": "probe"}
    {"cancel": 2}
    {"job": "shutdown"}

Out: ``{"event": "ready", "pid": ...}`` once, then per job any number of ``{"event": "progress", "id", "fraction", "text"}`` and one of ``done``
("result"), ``failed`` ("sentence"; "last" when the worker ends after it) or ``cancelled``. Keys and results of the jobs: :class:`.jobs.Jobs`.

Jobs run one after another; a cancelled one stops at the next layer of the network. "shutdown" ends the worker after the jobs before it. The end
of the input means that the client is gone: the worker removes FOLDER, the client's temporary files, and ends at once.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Event
from typing import IO, Any

from ..system.errors import InputError
from ..system.progress import Cancelled
from ..system.version import VERSION
from .messages import decode_line, encode_line

PROGRESS_SECONDS = 0.05
NICENESS = 5  # the click in the viewer comes before the scan in the background (Windows: the client starts it with a lower priority)
MEMORY_WORDS = ("out of memory", "not enough memory", "can't allocate memory", "failed to allocate memory", "bad_alloc", "bad allocation")
BROKEN_WORDS = ("cuda error", "cudnn error", "device-side assert")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until "shutdown"; returns the exit code."""
    folder = next(iter(sys.argv[1:] if arguments is None else arguments), None)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    commands, answers = take_streams()
    worker = Worker(answers)
    worker.say({"event": "ready", "pid": os.getpid(), "version": VERSION})
    threading.Thread(target=_listen, args=(worker, commands, folder), name="uae-worker-listen", daemon=True).start()
    return worker.serve()


def take_streams() -> tuple[IO[str], IO[str]]:
    """The two protocol streams, moved away from the standard ones: what any library prints goes to the error stream, what it reads is empty."""
    commands = os.fdopen(os.dup(0), encoding="utf-8", errors="replace")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return commands, answers


class Worker:
    """Jobs come in by :meth:`accept` from the listening thread and are done by :meth:`serve` in the main one."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers = answers
        self._saying = threading.Lock()
        self._queue: SimpleQueue[tuple[int, dict[str, Any]] | None] = SimpleQueue()
        self._cancels: dict[int, Event] = {}

    def say(self, message: dict[str, Any]) -> None:
        """Write one answer; without a reader there is nobody left to work for."""
        with self._saying:
            try:
                self._answers.write(encode_line(message))
                self._answers.flush()
            except OSError:
                os._exit(1)

    def accept(self, line: str) -> None:
        """Take one line of input."""
        message = decode_line(line)
        if message is None:
            self.say({"event": "failed", "id": None, "sentence": f"The worker got a line that is no JSON object: {line.strip()[:80]!r}."})
        elif "cancel" in message:
            event = self._cancels.get(message["cancel"]) if isinstance(message["cancel"], int) else None
            if event:
                event.set()
        elif message.get("job") == "shutdown":
            self._queue.put(None)
        else:
            self._accept_job(message)

    def serve(self) -> int:
        """Do the jobs in their order. Returns 0 after "shutdown", 3 when only a new process can do the next job."""
        try:
            from .jobs import Jobs
        except (ImportError, OSError) as error:
            return self._refuse(error)
        jobs = Jobs()
        while (entry := self._queue.get()) is not None:
            number, message = entry
            answer, broken = self._do(jobs.run, number, message)
            if answer.pop("memory", False):
                jobs.forget()
            del self._cancels[number]
            if broken:
                self.say({**answer, "id": number, "last": True})
                return 3
            self.say({**answer, "id": number})
        return 0

    def _refuse(self, error: Exception) -> int:
        """Answer the first job when a package cannot be loaded; a new process may find it installed."""
        traceback.print_exc()
        entry = self._queue.get()
        if entry is not None:
            sentence = f"A package that is needed is missing or damaged ({error}). Install it, then try again."
            self.say({"event": "failed", "id": entry[0], "sentence": sentence, "last": True})
        return 3

    def _accept_job(self, message: dict[str, Any]) -> None:
        number, name = message.pop("id", None), message.get("job")
        if not isinstance(number, int) or not isinstance(name, str) or number in self._cancels:
            sentence = "The worker got a job without a name or without a number of its own."
            self.say(
                {"event": "failed", "id": number if isinstance(number, int) and number not in self._cancels else None, "sentence": sentence}
            )
            return
        self._cancels[number] = Event()
        self._queue.put((number, message))

    def _do(self, run: Callable[..., dict[str, Any]], number: int, message: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """The answer to a job, and whether the process is unfit for another one."""
        try:
            values = {key: value for key, value in message.items() if key != "job"}
            progress = self._reporter(number)
            progress(0.0, "reading")
            result = run(message["job"], values, progress, self._cancels[number])
            return {"event": "done", "result": result}, False
        except Cancelled:
            return {"event": "cancelled"}, False
        except InputError as error:
            return {"event": "failed", "sentence": str(error)}, False
        except Exception as error:
            traceback.print_exc()
            return {"event": "failed", "sentence": failure_sentence(error), "memory": is_memory(error)}, is_broken(error)

    def _reporter(self, number: int) -> Callable[[float, str], None]:
        """The progress function of a job; a long loop may call it as often as it likes."""
        last = [-1.0, ""]

        def report(fraction: float, text: str) -> None:
            now = time.monotonic()
            if text != last[1] or now - last[0] >= PROGRESS_SECONDS:  # type: ignore[operator]
                last[:] = [now, text]
                self.say({"event": "progress", "id": number, "fraction": min(max(float(fraction), 0.0), 1.0), "text": text})

        return report


def is_memory(error: Exception) -> bool:
    """Whether an error means that some memory was full; each library says it in its own words."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(w in text for w in MEMORY_WORDS)


def is_broken(error: Exception) -> bool:
    """Whether the GPU answers nothing any more until the process is a new one."""
    return not is_memory(error) and any(word in str(error).lower() for word in BROKEN_WORDS)


def failure_sentence(error: Exception) -> str:
    """An error that is no :class:`InputError`, for the person who waits for the job."""
    if is_memory(error):
        return "There is not enough memory for this scan. Close other programs, choose the CPU as device, or crop the scan."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}. Check the path and the free space." if error.filename else f"{error.strerror}."
    reason = str(error).strip().splitlines()
    return f"The job met an error that it does not know: {type(error).__name__}{': ' + reason[0] if reason else ''}. Copy the report from the diagnostics."


def _listen(worker: Worker, commands: IO[str], folder: str | None) -> None:
    for line in commands:
        if line.strip():
            worker.accept(line)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
