"""Starts the worker process, feeds it jobs, reads its answers and stops it; the caller never waits.

One thread of the client owns the process and everything known about it; the caller's methods only put a message into its inbox, and
:meth:`WorkerClient.poll` takes what came out. Voxels travel as files in a private temporary folder that disappears with the client.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..system.errors import InputError
from .messages import decode_line, encode_line, make_folder, stage, staged_files
from .process import WorkerProcess, crash_sentence, log_tail

CANCEL_GRACE_SECONDS = 0.25
EXIT_GRACE_SECONDS = 2.0
PACE_SECONDS, PACE_FRACTION = 1.0, 0.02


@dataclass(frozen=True)
class Progress:
    """``fraction`` (0..1) of a job is done; ``seconds_left`` is estimated from its pace so far, None while that is not known."""

    job: int
    fraction: float
    text: str
    seconds_left: float | None


@dataclass(frozen=True)
class Done:
    """A job ended well; ``result`` is what the worker answered (its keys are in :mod:`.worker`)."""

    job: int
    result: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """A job ended without a result; ``sentence`` is for the person who asked for it."""

    job: int
    sentence: str


@dataclass(frozen=True)
class Cancelled:
    """A job was stopped on request."""

    job: int


Event = Progress | Done | Failed | Cancelled


class WorkerClient:
    """A worker process that is started with the first job and kept until :meth:`close`.

    ``python``: the interpreter that has the packages (None: that of this process, ``PythonSlicer`` inside Slicer). ``env``: the whole environment of
    the worker (None: that of this process). No method waits for the worker, writes voxels, or raises for what happens in it; every
    submitted job ends with exactly one :class:`Done`, :class:`Failed` or :class:`Cancelled`. All methods may be called from any thread.
    """

    def __init__(self, python: str | None = None, env: Mapping[str, str] | None = None) -> None:
        self._supervisor = _Supervisor(python or default_python(), dict(os.environ if env is None else env))
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._open = True

    def submit(self, job: dict[str, Any]) -> int:
        """Queue a job and return its number; jobs run one after another, in the order given.

        ``job["job"]`` is "embed", "register", "import" or "probe"; its other keys are in :mod:`.worker`. Any value may be a
        :class:`~.volume.Volume`: another thread writes it to a file when its turn comes, so leave its voxels unchanged until the job
        ends. Raises InputError after :meth:`close`.
        """
        with self._lock:
            if not self._open:
                raise InputError("The worker was closed. Open the module again.")
            number = next(self._numbers)
            self._supervisor.post(partial(self._supervisor.submit, number, dict(job)))
        return number

    def poll(self) -> list[Event]:
        """Everything that happened since the last call, in order; empty when nothing did. Call it from a timer."""
        found: list[Event] = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._supervisor.events.get_nowait())
        return found

    def cancel(self, job: int) -> None:
        """Stop a job: its :class:`Cancelled` follows within half a second. The number of an ended or unknown job is ignored.

        The worker is asked first, and keeps its model when it can stop between two layers of the network; where one operation takes longer
        (a large layer on a slow processor, resampling) it is killed, and the next job starts a new one.
        """
        self._supervisor.post(partial(self._supervisor.cancel, job))

    def restart(self) -> None:
        """End the process (free its memory, see newly installed packages); its job fails, the queued ones go on in a new one."""
        self._supervisor.post(self._supervisor.restart)

    def close(self) -> None:
        """Cancel all jobs, end the process and remove the temporary files, shortly after this call returns."""
        with self._lock:
            if self._open:
                self._open = False
                self._supervisor.post(self._supervisor.close)

    def log(self) -> str:
        """The last words of the worker on its error stream, for a problem report."""
        return self._supervisor.log_tail()


def default_python() -> str:
    """The interpreter that runs this process. Inside Slicer that may be the application; its ``PythonSlicer`` is taken instead."""
    if Path(sys.executable).stem.lower().startswith("python"):
        return sys.executable
    return shutil.which("PythonSlicer") or sys.executable


@dataclass
class _Running:
    """The job of the worker. ``line``: as it was sent to it, "" before; ``fresh``: the process was started for this job; ``pace``: when its work
    began, and the fraction then, None before the worker took it up."""

    number: int
    line: str = ""
    fresh: bool = False
    pace: tuple[float, float] | None = None
    cancel_deadline: float | None = None


class _Supervisor:
    """Everything the client knows, touched only by its own thread, which makes the calls posted to its inbox."""

    def __init__(self, python: str, environment: dict[str, str]) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="uae-worker-client", daemon=True)
        self._lock = threading.Lock()
        self._python, self._environment = python, environment
        self._waiting: deque[tuple[int, dict[str, Any]]] = deque()
        self._running: _Running | None = None
        self._process: WorkerProcess | None = None
        self._folder: Path | None = None
        self._open = True

    def post(self, call: Callable[[], None]) -> None:
        """Have the thread make this call; the first one starts it."""
        self._inbox.put(call)
        with self._lock:
            if self._thread.ident is None:
                self._thread.start()

    def log_tail(self) -> str:
        """The end of the worker's error stream; any thread may ask."""
        return log_tail(self._folder)

    def submit(self, number: int, job: dict[str, Any]) -> None:
        """Queue a job."""
        self._waiting.append((number, job))

    def cancel(self, number: int) -> None:
        """Drop a queued job, or ask for the end of the running one."""
        for entry in list(self._waiting):
            if entry[0] == number:
                self._waiting.remove(entry)
                self.events.put(Cancelled(number))
        running = self._running
        if running and running.number == number and running.cancel_deadline is None:
            running.cancel_deadline = time.monotonic() + CANCEL_GRACE_SECONDS
            if self._process:
                self._process.send(encode_line({"cancel": number}))
            if running.pace is None:  # not begun: the worker drops it when it comes to it, and keeps what it has loaded so far
                self._end(Cancelled(number))

    def restart(self) -> None:
        """Kill the process; the next job starts another."""
        self._kill()
        if self._running:
            self._end(Failed(self._running.number, "The worker was restarted. Submit the job again."))

    def close(self) -> None:
        """End the process, cancel everything and tidy up; the thread ends after this call."""
        self._open = False
        if self._running:
            self._end(Cancelled(self._running.number))
        while self._waiting:
            self.events.put(Cancelled(self._waiting.popleft()[0]))
        if self._process:
            self._process.leave(EXIT_GRACE_SECONDS)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _work(self) -> None:
        while self._open:
            try:
                if self._waiting and not self._running:
                    self._dispatch(*self._waiting.popleft())
                deadline = self._running.cancel_deadline if self._running else None
                wait = None if deadline is None else max(0.0, deadline - time.monotonic())
                self._inbox.get(timeout=wait)()
            except queue.Empty:
                self._kill()
                self._end(Cancelled(self._running.number))  # type: ignore[union-attr]
            except Exception as error:
                self._kill()
                if self._running:
                    self._end(Failed(self._running.number, f"The worker and its client do not understand each other ({error!r})."))

    def _dispatch(self, number: int, job: dict[str, Any]) -> None:
        self._running = _Running(number)
        self.events.put(Progress(number, 0.0, "starting", None))
        if self._process or self._start(self._running):
            threading.Thread(target=self._stage, args=(number, job, self._folder), name="uae-worker-stage", daemon=True).start()

    def _start(self, running: _Running) -> bool:
        """Start a process for this job; the job ends where that is not possible."""
        running.fresh = True
        try:
            self._folder = self._folder or make_folder()
            self._folder.mkdir(exist_ok=True)
            self._process = WorkerProcess(self._python, self._environment, self._folder, self._deliver)
        except OSError as error:
            self._end(Failed(running.number, f"The worker cannot be started with {self._python} ({error}). Check the installation."))
        return self._process is not None

    def _stage(self, number: int, job: dict[str, Any], folder: Path) -> None:
        """Write the voxels of a job; in a thread of its own, so that a cancel need not wait for it."""
        try:
            folder.mkdir(exist_ok=True)  # another client removes it after a day without a job
            line = encode_line({**stage(job, folder, number), "id": number})
            self.post(partial(self._send, number, line))
        except OSError as error:
            sentence = f"The scan cannot be handed to the worker: {error.strerror or error}. Free some space in {folder.parent}."
            self.post(partial(self._refuse, number, sentence))
        except (TypeError, ValueError, MemoryError) as error:
            self.post(partial(self._refuse, number, f"The job cannot be handed to the worker: {error or 'not enough memory'}."))

    def _send(self, number: int, line: str) -> None:
        if self._running and self._running.number == number and self._process:
            self._running.line = line
            self._process.send(line)
        else:
            self._remove_files(number)

    def _refuse(self, number: int, sentence: str) -> None:
        self._remove_files(number)
        if self._running and self._running.number == number:
            self._end(Failed(number, sentence))

    def _deliver(self, process: WorkerProcess, said: str | int) -> None:
        self.post(partial(self._exited if isinstance(said, int) else self._hear, process, said))  # type: ignore[arg-type]

    def _hear(self, process: WorkerProcess, line: str) -> None:
        message = decode_line(line)
        if process is not self._process or message is None:
            return
        if message.get("last"):
            self._kill()
        number, event = message.get("id"), message.get("event")
        if event == "ready":
            process.pid = message["pid"]
        elif self._running is None or self._running.number != number:
            return
        elif event == "progress":
            self._progress(self._running, message["fraction"], message["text"])
        elif event == "done":
            self._end(Done(self._running.number, message["result"]))
        elif event == "failed":
            self._end(Failed(self._running.number, message["sentence"]))
        elif event == "cancelled":
            self._end(Cancelled(self._running.number))

    def _progress(self, running: _Running, fraction: float, text: str) -> None:
        now = time.monotonic()
        if running.pace is None or fraction <= running.pace[1]:  # starting and loading say nothing about the pace
            running.pace = (now, fraction)
        seconds, done = now - running.pace[0], fraction - running.pace[1]
        known = seconds >= PACE_SECONDS and done >= PACE_FRACTION
        self.events.put(Progress(running.number, fraction, text, seconds * (1 - fraction) / done if known else None))

    def _exited(self, process: WorkerProcess, code: int) -> None:
        if process is not self._process:
            return
        self._process, running = None, self._running
        if running and running.pace is None and not running.fresh:  # it died before it took up this job: another one may do it
            if self._start(running) and self._process and running.line:
                self._process.send(running.line)
        elif running:
            self._end(Failed(running.number, crash_sentence(code, self.log_tail())))

    def _end(self, event: Done | Failed | Cancelled) -> None:
        """Close the running job; one that was asked to stop counts as cancelled however it ended."""
        stopped = self._running is not None and self._running.cancel_deadline is not None
        self._running = None
        self._remove_files(event.job)
        self.events.put(Cancelled(event.job) if stopped else event)

    def _kill(self) -> None:
        if self._process:
            self._process.kill()
        self._process = None

    def _remove_files(self, number: int) -> None:
        for file in staged_files(self._folder, number) if self._folder else ():
            with contextlib.suppress(OSError):  # Windows keeps it while a dying worker reads it; it goes with the folder
                file.unlink()
