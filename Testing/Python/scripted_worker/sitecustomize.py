"""Python loads this file at start where its folder is on the path: the worker then does the jobs below instead of the real ones, without torch."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from threading import Event
from types import ModuleType
from typing import Any

import numpy as np


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


class Jobs:
    """Each job does what its name says."""

    forgotten = 0

    def run(self, name: str, values: dict[str, Any], progress: Any, cancel: Event) -> dict[str, Any]:
        return getattr(self, name)(values, progress, cancel)

    def forget(self) -> None:
        self.forgotten += 1

    def echo(self, values: dict[str, Any], progress: Any, cancel: Event) -> dict[str, Any]:
        return {**values, "pid": os.getpid(), "folder": os.getcwd(), "forgotten": self.forgotten}

    def describe(self, values: dict[str, Any], progress: Any, cancel: Event) -> dict[str, Any]:
        from UniversalAnatomicalEmbeddingLib.worker.messages import load_staged

        scan = load_staged(values["volume"])
        moments = (scan.array.astype(float) * np.arange(scan.array.size).reshape(scan.array.shape)).sum()
        return {
            "file": values["volume"]["array"],
            "moment": float(moments),
            "shape": scan.array.shape,
            "dtype": scan.array.dtype.str,
            "affine": scan.grid.affine.tolist(),
            "modality": scan.modality,
            "name": scan.name,
        }

    def obey(self, values: dict[str, Any], progress: Any, cancel: Event) -> dict[str, Any]:
        """Long work that looks at its cancel token."""
        from UniversalAnatomicalEmbeddingLib.system.progress import check

        for n in range(1000):
            check(cancel)
            progress(n / 1000, "obeying")
            time.sleep(0.01)
        return {}

    def block(self, values: dict[str, Any], progress: Any, cancel: Event) -> dict[str, Any]:
        """One operation that takes long and cannot be interrupted."""
        progress(0.5, "blocking")
        time.sleep(30)
        return {}

    def seize(self, values: dict[str, Any], progress: Any, cancel: Event) -> dict[str, Any]:
        """The same in a library that keeps Python's lock, so that no other thread of the worker can do anything."""
        progress(0.5, "blocking")
        ctypes.PyDLL(None).sleep(30)
        return {}

    def chatter(self, values: dict[str, Any], progress: Any, cancel: Event) -> dict[str, Any]:
        for n in range(20_000):
            progress(n / 20_000, "chatting")
        return {}

    def noise(self, values: dict[str, Any], progress: Any, cancel: Event) -> dict[str, Any]:
        print("noise from Python")
        os.write(1, b'{"event": "done", "id": 1, "result": "noise from C"}\n')
        subprocess.run([sys.executable, "-c", "print('noise from a child')"], check=True)
        return {"read": sys.stdin.read()}

    def memory(self, values: dict[str, Any], progress: Any, cancel: Event) -> dict[str, Any]:
        raise {
            "python": MemoryError(),
            "torch": OutOfMemoryError("CUDA error: out of memory. Tried to allocate 2.00 GiB"),
            "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999 bytes"),
            "itk": RuntimeError("Exception thrown in SimpleITK: Failed to allocate memory for image."),
        }[values["kind"]]

    def defect(self, values: dict[str, Any], progress: Any, cancel: Event) -> dict[str, Any]:
        raise RuntimeError(values["text"])

    def crash(self, values: dict[str, Any], progress: Any, cancel: Event) -> dict[str, Any]:
        ctypes.string_at(0)
        return {}

    def leave(self, values: dict[str, Any], progress: Any, cancel: Event) -> dict[str, Any]:
        os._exit(values["code"])


if os.environ.get("UAE_TEST_WITHOUT_TORCH"):
    sys.modules["UniversalAnatomicalEmbeddingLib.worker.jobs"] = None  # type: ignore[assignment]  # importing it fails
else:
    stand_in = ModuleType("UniversalAnatomicalEmbeddingLib.worker.jobs")
    stand_in.Jobs = Jobs  # type: ignore[attr-defined]
    sys.modules[stand_in.__name__] = stand_in
