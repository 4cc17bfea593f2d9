"""One worker process as its client sees it: start, send, end, and the reason when it ended by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE_FOLDER = Path(__file__).resolve().parents[2]
LOG_FILE = "worker.log"
LOG_TAIL_BYTES = 4000


class WorkerProcess:
    """One worker process. ``deliver(process, said)`` gets each line that it writes and at last its exit code, from another thread.

    ``pid`` is what the worker says of itself: Slicer's ``PythonSlicer`` is a launcher, and killing it alone would leave the worker behind.
    """

    def __init__(self, python: str, environment: dict[str, str], folder: Path, deliver: Callable[[WorkerProcess, str | int], None]) -> None:
        self.pid: int | None = None
        self._deliver = deliver
        path = os.pathsep.join(filter(None, (str(PACKAGE_FOLDER), environment.get("PYTHONPATH"))))
        command = [python, "-P", "-X", "faulthandler", "-m", __package__, str(folder)]
        with (folder / LOG_FILE).open("wb") as log:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**environment, "PYTHONPATH": path},
                encoding="utf-8",
                errors="replace",
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0) | getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0),
            )
        threading.Thread(target=self._read, name="uae-worker-read", daemon=True).start()

    def send(self, line: str) -> None:
        """Write a line to the worker; one that is dead says so by its exit code."""
        with contextlib.suppress(OSError, ValueError):
            self._stdin.write(line)
            self._stdin.flush()

    def leave(self, seconds: float) -> None:
        """Close its input, at which it ends itself, and kill it when it has not done so in time."""
        with contextlib.suppress(OSError, ValueError):
            self._stdin.close()
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once, the launcher and the worker behind it."""
        with contextlib.suppress(OSError):
            if self.pid not in (None, self._popen.pid) and self._popen.poll() is None:
                os.kill(self.pid, getattr(signal, "SIGKILL", signal.SIGTERM))  # type: ignore[arg-type]
            self._popen.kill()
        with contextlib.suppress(OSError, ValueError):
            self._stdin.close()

    @property
    def _stdin(self) -> Any:
        return self._popen.stdin

    def _read(self) -> None:
        for line in self._popen.stdout:  # type: ignore[union-attr]
            self._deliver(self, line)
        self._deliver(self, self._popen.wait())


def crash_sentence(code: int, log: str) -> str:
    """Why a worker ended by itself, from its exit code (negative: a signal) and the end of its error stream."""
    if code == -getattr(signal, "SIGKILL", 9):
        return "The worker was ended by the system, most likely because the memory was full. Close other programs, or crop the scan."
    fatal = [line for line in log.splitlines() if line.startswith("Fatal Python error: ")]
    last = fatal[-1] if fatal else log.splitlines()[-1] if log else f"exit code {code}"
    return f"The worker stopped unexpectedly ({last.strip()}). The next job starts it again."


def log_tail(folder: Path | None) -> str:
    """The end of the error stream of the worker that works in ``folder``."""
    if folder is None:
        return ""
    try:
        with (folder / LOG_FILE).open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_TAIL_BYTES))
            return log.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""
