"""What the worker can do: embed, register, import, probe; and the model that stays loaded between jobs."""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import torch

from ..embedding.cache import Cache, default_folder
from ..images.modality import identify
from ..models.published import import_model
from ..options import RegisterOptions
from ..registration import write_transform
from ..session import Session, choose_device
from ..system.diagnostics import probe, probe_device
from ..system.errors import InputError
from ..system.progress import Progress, check, silent
from .messages import load_staged


class Jobs:
    """The jobs by name; each takes the keys of its message as keyword arguments and returns plain values.

    ``model``: a catalogue id or a weights file (None: the default), ``device``: "auto", "cpu", "cuda:1" ..., ``cache``: the folder that keeps the
    embeddings (None: the user's). Scans are records of :mod:`.messages`.
    """

    def __init__(self) -> None:
        self._session: Session | None = None
        self._made_of: tuple[Any, ...] = ()
        self._notice = ""
        self._probed: dict[str, str] = {}
        self._progress: Progress = silent
        self._cancel: Event | None = None

    def run(self, name: str, values: dict[str, Any], progress: Progress, cancel: Event) -> dict[str, Any]:
        """Do one job. Raises InputError for an unknown job or wrong keys, :class:`~.progress.Cancelled` when ``cancel`` is set meanwhile."""
        jobs: dict[str, Callable[..., dict[str, Any]]] = {
            "embed": self.embed,
            "register": self.register,
            "import": self.import_weights,
            "probe": self.probe,
        }
        job = jobs.get(name)
        if job is None:
            raise InputError(f"There is no job '{name}'; use embed, register, import, probe or shutdown.")
        try:
            inspect.signature(job).bind(**values)
        except TypeError as error:
            raise InputError(f"The {name} job cannot be read: {error}.") from None
        self._progress, self._cancel = progress, cancel
        try:
            check(cancel)
            return job(**values)
        finally:
            self._progress, self._cancel = silent, None

    def embed(self, volume: Any, model: str | None = None, device: str = "auto", cache: str | None = None) -> dict[str, Any]:
        """Embed a scan into the cache. ``Cache(Path(result["cache"])).load(result["key"], result["name"])`` gives the Embedding.

        Also answers "modality" (as guessed where it was not known), "taken" (what the scan was taken
        for, a line for people), "model" and "fingerprint" (id, and hash of the weights), "device",
        "seconds", and "notice": what the user should know, else "".
        """
        start = time.perf_counter()
        found = identify(load_staged(volume))
        scan = found.volume
        session = self._warm(model, device, cache)
        key, embedding = session.embed_stored(scan, self._progress, self._cancel)
        return {
            "cache": str(self._folder(cache)),
            "key": key,
            "name": embedding.name,
            "modality": scan.modality,
            "taken": found.text,
            "model": embedding.model_id,
            "fingerprint": session.fingerprint,
            "device": session.device,
            "seconds": time.perf_counter() - start,
            "notice": self._notice,
        }

    def register(
        self,
        fixed: Any,
        moving: Any,
        out: str,
        options: dict[str, Any] | None = None,
        landmarks: Sequence[Any] | None = None,
        model: str | None = None,
        device: str = "auto",
        cache: str | None = None,
    ) -> dict[str, Any]:
        """Register ``moving`` to ``fixed`` and write the ITK transform file ``out`` (``.h5``, ``.tfm`` or ``.txt``; fixed to moving points).

        ``options``: fields of :class:`RegisterOptions`; ``landmarks``: two lists of N LPS mm points, fixed and moving, that then decide alone.
        Answers "transform" (the path), "report" (the figures of the registration), "taken" (what both
        scans were taken for), "device" and "notice".
        """
        try:
            chosen = RegisterOptions(**(options or {}))
        except TypeError as error:
            raise InputError(f"The registration options cannot be read: {error}.") from None
        found = identify(load_staged(fixed)), identify(load_staged(moving))
        session = self._warm(model, device, cache)
        pairs = None if landmarks is None else (landmarks[0], landmarks[1])
        result = session.register(found[0].volume, found[1].volume, chosen, self._progress, self._cancel, pairs)
        check(self._cancel)
        write_transform(result.transform, out)
        taken = [one.text for one in found]
        return {"transform": str(out), "report": result.report(), "taken": taken, "device": session.device, "notice": self._notice}

    def import_weights(self, path: str) -> dict[str, Any]:
        """Bring a weights file into the user's model folder (see :func:`.published.import_model`): "model", its id, and "notices" about it."""
        imported = import_model(Path(path))
        return {"model": imported.entry.id, "notices": list(imported.notices)}

    def probe(self) -> dict[str, Any]:
        """Versions and every device tried with a real convolution (see :func:`.diagnostics.probe`)."""
        return probe()

    def forget(self) -> None:
        """Let go of the model and all memory it holds."""
        self._session, self._made_of = None, ()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _warm(self, model: str | None, device: str, cache: str | None) -> Session:
        """The session of the last job where it fits, else a new one; a weights file that changed is loaded again."""
        file = Path(model) if model else None
        version = (file.stat().st_mtime_ns, file.stat().st_size) if file and file.is_file() else None
        made_of = (model, version, device, self._folder(cache))
        if self._session is None or made_of != self._made_of:
            self.forget()
            self._progress(0.0, "loading the model")
            self._session = Session(model, self._working(device), Cache(self._folder(cache)))
            self._made_of = made_of
            for module in self._session.model.network.modules():
                module.register_forward_pre_hook(lambda *_: check(self._cancel))
        return self._session

    def _working(self, name: str) -> str:
        """The device to use; one that does not compute is refused, or replaced by the CPU where the choice was left to us."""
        device, self._notice = choose_device(name), ""
        if device == "cpu":
            return device
        if device not in self._probed:
            self._probed[device] = probe_device(device).note
        note = self._probed[device]
        if note and name != "auto":
            raise InputError(f"Device {device} does not work here ({note}). Choose the CPU, or install a torch build for this GPU.")
        self._notice = f"The GPU was not used, because it does not work with this torch build: {note}" if note else ""
        return "cpu" if note else device

    @staticmethod
    def _folder(cache: str | None) -> Path:
        return Path(cache) if cache else default_folder()
