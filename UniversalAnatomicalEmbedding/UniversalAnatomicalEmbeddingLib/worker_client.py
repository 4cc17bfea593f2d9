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
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .errors import InputError
from .messages import FOLDER_PREFIX, decode_line, encode_line, remove_stale_folders, stage

CANCEL_GRACE_SECONDS = 0.35
EXIT_GRACE_SECONDS = 0.5
PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
LOG_TAIL_BYTES = 4000


@dataclass(frozen=True)
class Progress:
    """``fraction`` (0..1) of a job is done; ``seconds_left`` is estimated from its pace so far, None while that is not known."""

    job: int
    fraction: float
    text: str
    seconds_left: float | None


@dataclass(frozen=True)
class Done:
    """A job ended well; ``result`` is what the worker answered (see :mod:`.worker`)."""

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

    ``python``: the interpreter that has the packages (None: the one of this process, ``PythonSlicer`` inside Slicer). ``env``: the whole
    environment of the worker (None: that of this process). No method waits for the worker, writes voxels or raises for what happens in it; every submitted job
    ends with exactly one :class:`Done`, :class:`Failed` or :class:`Cancelled`. All methods may be called from any thread.
    """

    def __init__(self, python: str | None = None, env: Mapping[str, str] | None = None) -> None:
        self._supervisor = _Supervisor(python or default_python(), dict(os.environ if env is None else env))
        self._numbers = itertools.count(1)
        self._closed = False

    def submit(self, job: dict[str, Any]) -> int:
        """Queue a job and return its number; jobs run one after another, in the order given.

        ``job["job"]`` is "embed", "register" or "probe"; its other keys are in :mod:`.worker`. Any value may be a
        :class:`~.volume.Volume`: it is written to a file by another thread when its turn comes, so leave its voxels unchanged until the
        job ends. Raises InputError after :meth:`close`.
        """
        if self._closed:
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

        The worker is asked first and keeps its model when it stops between two layers; where one operation takes longer, it is killed and the
        next job starts a new one.
        """
        self._supervisor.post(partial(self._supervisor.cancel, job))

    def restart(self) -> None:
        """End the process (free its memory, see newly installed packages); its job fails, the queued ones go on in a new one."""
        self._supervisor.post(self._supervisor.restart)

    def close(self) -> None:
        """Cancel all jobs, end the process and remove the temporary files, shortly after this call returns."""
        self._closed = True
        self._supervisor.post(self._supervisor.close)

    def log(self) -> str:
        """The last words of the worker on its error stream, for a problem report."""
        return self._supervisor.log_tail()


def default_python() -> str:
    """The interpreter that runs this process. Inside Slicer that is the application, so its ``PythonSlicer`` is taken instead."""
    if Path(sys.executable).stem.lower().startswith("python"):
        return sys.executable
    return shutil.which("PythonSlicer") or sys.executable


@dataclass
class _Running:
    """The job that the worker has now; ``pace`` is the time and fraction of its first progress."""

    number: int
    started: float
    pace: tuple[float, float] | None = None
    cancel_deadline: float | None = None


class _Supervisor:
    """Everything the client knows; all of it is touched by its one thread only, which runs the calls posted to its inbox."""

    def __init__(self, python: str, environment: dict[str, str]) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._python, self._environment = python, environment
        self._thread = threading.Thread(target=self._work, name="uae-worker-client", daemon=True)
        self._starting = threading.Lock()
        self._waiting: deque[tuple[int, dict[str, Any]]] = deque()
        self._running: _Running | None = None
        self._process: _Process | None = None
        self._folder: Path | None = None
        self._open = True

    def post(self, call: Callable[[], None]) -> None:
        """Have the thread make this call; it is started by the first one."""
        with self._starting:
            if self._thread.ident is None:
                self._thread.start()
        self._inbox.put(call)
