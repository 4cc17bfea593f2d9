"""Embedding the volumes of a workbench in the worker process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..system.errors import InputError
from ..system.language import tr as _
from ..system.version import VERSION
from ..worker.client import Cancelled, Done, Event, Failed, Progress
from ..worker.desk import Desk
from .scans import Engine, Snapshot
from .workbench import Workbench


class Preparation:
    """Asks the worker for embeddings and hands them to the workbench.

    ``load(result) -> (engine, searchable)`` turns the worker's answer into something to search; ``notice`` gets sentences worth showing.
    """

    def __init__(
        self,
        bench: Workbench,
        desk: Desk,
        load: Callable[[dict[str, Any]], tuple[Engine, Any]] | None = None,
        notice: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.bench = bench
        self.desk = desk
        self._load = load or Loader()
        self._notice = notice
        self._jobs: dict[str, int] = {}

    def start(self, volumes: Sequence[str] | None = None, model: str | None = None, device: str = "auto") -> int:
        """Queue these volumes (None: template and targets that are not ready); returns how many. Another model begins anew."""
        presenter = self.bench.presenter
        if model != presenter.model:
            presenter.set_model(model)
            self.bench.scans.forget()
        if isinstance(self._load, Loader):
            self._load.use(model, device)
        chosen = [v for v in (presenter.to_prepare if volumes is None else volumes) if v not in self._jobs]
        presenter.readiness.preparing(chosen)
        for volume in chosen:
            try:
                snapshot = self.bench.scans.snapshot(volume)
                job = {"job": "embed", "volume": snapshot.volume, "model": model, "device": device}
                self._jobs[volume] = self.desk.submit(job, partial(self._heard, volume, snapshot, model))
            except InputError as error:
                presenter.readiness.failed(volume, str(error))
        return len(chosen)

    def cancel(self) -> None:
        """Stop everything that is not finished."""
        self.bench.presenter.readiness.cancel_requested()
        for job in self._jobs.values():
            self.desk.cancel(job)

    def _heard(self, volume: str, snapshot: Snapshot, model: str | None, event: Event) -> None:
        readiness = self.bench.presenter.readiness
        gone = volume not in self.bench.presenter.volumes
        if isinstance(event, Progress):
            if gone:
                self.desk.cancel(event.job)
            readiness.progress(volume, event.fraction, event.text, event.seconds_left)
            return
        self._jobs.pop(volume, None)
        if not gone and (isinstance(event, Cancelled) or model != self.bench.presenter.model):  # another one was chosen meanwhile
            self.bench.scans.settle(volume)
        elif isinstance(event, Done) and not gone:
            self._done(volume, snapshot, event.result)
        elif isinstance(event, Failed) and not gone:
            readiness.failed(volume, event.sentence)
        if not self._jobs and readiness.cancelling:
            readiness.stopped()

    def _done(self, volume: str, snapshot: Snapshot, result: dict[str, Any]) -> None:
        try:
            engine, searchable = self._load(result)
        except InputError as error:
            self.bench.presenter.readiness.failed(volume, str(error))
            return
        if self.bench.scans.engine is not engine:
            self.bench.use_engine(
                engine, {"Model": result["model"], "ModelSha256": result["fingerprint"], "Version": VERSION, "Device": result["device"]}
            )
        self.bench.presenter.readiness.identified(volume, result.get("taken", ""))
        self.bench.ready(volume, snapshot, searchable)
        if result["notice"]:
            self._notice(result["notice"])


class Loader:
    """Brings an embedding from the cache into this process, and keeps the session that searches it."""

    def __init__(self) -> None:
        self._chosen: tuple[str | None, str] = (None, "auto")
        self._session: Any = None
        self._made_of: tuple[Any, ...] = ()

    def use(self, model: str | None, device: str) -> None:
        """Choose the model and device of the next answers."""
        self._chosen = (model, device)

    def __call__(self, result: dict[str, Any]) -> tuple[Engine, Any]:
        """(session, searchable) of a worker's answer."""
        from ..embedding.cache import Cache
        from ..matching import Searchable
        from ..session import Session

        made_of = (self._chosen[0], result["device"], result["fingerprint"])
        if made_of != self._made_of:
            self._session, self._made_of = Session(self._chosen[0], result["device"]), made_of
        embedding = Cache(Path(result["cache"])).load(result["key"], result["name"])
        if embedding is None:
            sentence = _("The embedding of {name} is not in the cache any more. Prepare it again, or enlarge the cache.")
            raise InputError(sentence.format(name=result["name"]))
        return self._session, Searchable(embedding, result["device"])
