"""What the page does: every button, key and event of a view drives the workbench and the presenter, which the desktop panel drives too."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from UniversalAnatomicalEmbeddingLib.options import MatchOptions
from UniversalAnatomicalEmbeddingLib.system import InputError
from UniversalAnatomicalEmbeddingLib.workbench import Loader, Preparation, Workbench
from UniversalAnatomicalEmbeddingLib.worker import Desk, WorkerClient

from . import state
from .files import Root, Uploads
from .loading import Loading
from .registering import Registering
from .rows import Rows, apply_preset
from .tools import Tools

if TYPE_CHECKING:
    from UniversalAnatomicalEmbeddingLib.session import Session

    from .options import ServeOptions

LOG = logging.getLogger("uae.web")
POLL_S = 0.05
DEFECT = "Something went wrong in the program. The log of the server has the details; your landmarks are still here."


class Logic:
    """The one session of a server: scene, workbench, views, jobs, and what the page shows of them."""

    def __init__(self, server: Any, slicer_app: Any, options: ServeOptions, root: Root | None, uploads: Uploads) -> None:
        self.server, self.options = server, options
        self.scene = slicer_app.scene
        self.rows = Rows(server, slicer_app)
        self.bench = Workbench(self.scene, report=self.report)
        self.presenter = self.bench.presenter
        folder = {} if options.cache is None else {"UAE_CACHE": str(options.cache)}
        self.worker = WorkerClient(env={**os.environ, **folder})
        self.desk = Desk(self.worker)
        self.loading = Loading(self, root, uploads)
        self.tools = Tools(self, slicer_app)
        self.registering = Registering(self, uploads.folder)
        self._loader = Loader()
        self._engine: Engine | None = None
        self._preparation = Preparation(self.bench, self.desk, self._load, self.tell)
        self._failed: set[str] = set()
        self._refreshing = False
        self._messages = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._actions = self._table_actions() | self.loading.actions | self.tools.actions | self.registering.actions
        server.state.update(
            state.FIRST | self.loading.first | {"model": options.model or "default model", "device": options.device, "rows": []}
        )
        server.state.update(state.page(self.presenter) | {"reg": self.registering.page()})
        server.trigger("do")(self.do)
        self.presenter.on_change(self.refresh)

    def start(self) -> None:
        """The page can be opened: read what the command line named."""
        self.later(self._listen())
        self.later(self.loading.open_first())

    def close(self) -> None:
        """Stop all work."""
        self.worker.close()
        self.bench.close()

    def export(self, what: str) -> tuple[str, bytes, str]:
        """Name, content and kind of a download: landmarks, or the transform of the last registration."""
        if what.startswith("transform."):
            name, path = self.registering.file(what.removeprefix("transform"))
            return name, path.read_bytes(), "application/octet-stream"
        return self.loading.export(what)

    # --- page to session ---------------------------------------------------------------------------------------------------------------

    async def do(self, name: str, *arguments: Any) -> None:
        """One action of the page; anything that a person could have caused is answered with one sentence."""
        action = self._actions.get(name)
        if action is None:
            return
        try:
            result = action(*arguments)
            if asyncio.iscoroutine(result):
                await result
        except Exception as error:
            self.report(error)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin work that goes on beside the page."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                self.report(error)

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def report(self, error: Exception) -> None:
        """Tell a person what went wrong: their own mistakes as they are, ours as such."""
        if isinstance(error, InputError):
            self.tell(str(error), "error")
        elif isinstance(error, MemoryError):
            self.tell("There is not enough memory for this scan. Close others, or crop it.", "error")
        else:
            LOG.error("defect", exc_info=error)
            self.tell(DEFECT, "error")

    def tell(self, text: str, kind: str = "info") -> None:
        """Show a sentence at the bottom of the page."""
        self._messages += 1
        with self.server.state as shown:
            shown.message = {"text": text, "kind": kind, "number": self._messages}

    # --- session to page ---------------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show what has changed: once for all changes of one moment."""
        if not self._refreshing:
            self._refreshing = True
            asyncio.get_running_loop().call_soon(self._refresh)

    def _refresh(self) -> None:
        self._refreshing = False
        self.tools.follow()
        self._tell_failures()
        with self.server.state as shown:
            shown.update(state.page(self.presenter))
            shown.reg = self.registering.page()
            shown.rows = state.rows(self.presenter, self.loading.shown)

    def _tell_failures(self) -> None:
        status = {volume: self.presenter.readiness.status(volume) for volume in self.presenter.volumes}
        failed = {volume for volume, s in status.items() if s.state == "failed"}
        for volume in failed - self._failed:
            self.tell(f"{self.presenter.volumes[volume]} could not be prepared: {status[volume].reason}", "error")
        self._failed = failed

    # --- preparing ---------------------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Embed what is not embedded, in the worker process; pressed again meanwhile: cancel."""
        if self.presenter.readiness.busy:
            self._preparation.cancel()
        else:
            self._preparation.start(model=self.options.model, device=self.options.device)

    async def _listen(self) -> None:
        """Take what the worker says."""
        while True:
            self.desk.poll()
            await asyncio.sleep(POLL_S)

    def _load(self, result: dict[str, Any]) -> tuple[Engine, Any]:
        """A worker's answer as something to search with this server's options."""
        session, searchable = self._loader(result)
        if self._engine is None or self._engine.session is not session:
            self._engine = Engine(session, MatchOptions(method=self.options.method), self.later)  # type: ignore[arg-type]
            with self.server.state as shown:
                shown.model, shown.device = result["model"], result["device"]
        return self._engine, searchable

    # --- the table ---------------------------------------------------------------------------------------------------------------------

    def _table_actions(self) -> dict[str, Callable[..., Any]]:
        bench, presenter = self.bench, self.presenter
        return {
            "prepare": self.prepare,
            "template": self.set_template,
            "preset": self.set_preset,
            "match_all": lambda: bench.match(again=True),
            "select": self.select,
            "step": lambda by: self.show(presenter.step(1 if by == 1 else -1)),
            "accept": lambda: self._judge(bench.accept),
            "reject": lambda: self._judge(bench.reject),
            "delete": lambda: bench.delete(presenter.selected) if presenter.selected is not None else None,
            "rename": lambda key, label: bench.rename(int(key), str(label).strip()[:60] or presenter.table.row(int(key)).label),
            "undo": bench.undo,
            "redo": bench.redo,
        }

    def set_template(self, volume: str) -> None:
        """Place landmarks in another scan from now on."""
        self.bench.set_template(volume)

    def set_preset(self, volume: str, name: str) -> None:
        """Window and level of a scan by name."""
        apply_preset(self.bench.scans.node(volume), name, self.loading.modality(volume))
        self.loading.shown[volume]["preset"] = name
        self.refresh()

    def select(self, key: int, volume: str | None) -> None:
        """Select a landmark, or one of its matches, and look there."""
        self.presenter.select(key, volume)
        self.show(key, None if volume is None else (volume,))

    def show(self, key: int | None, volumes: tuple[str, ...] | None = None) -> None:
        """Turn the views of scans (None: all) to a landmark."""
        if key is not None:
            self.bench.jump_to(key, volumes)

    def _judge(self, verdict: Callable[[int, str], None]) -> None:
        key, volume = self.presenter.selected, self.presenter.selected_volume
        if key is None or volume is None:
            raise InputError("Select a match in the table first.")
        verdict(key, volume)


class Engine:
    """What the workbench searches with: the session with this server's options. ``later`` begins work that goes on beside the page."""

    def __init__(self, session: Session, options: MatchOptions, later: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self.session, self.options, self._later = session, options, later

    def warm(self, template: Any, target: Any) -> None:
        """See :meth:`.session.Session.warm`; the page stays live meanwhile."""
        self._later(asyncio.to_thread(self.session.warm, template, target))

    def match(self, template: Any, points_lps: Any, target: Any) -> Any:
        """See :meth:`.session.Session.match`."""
        return self.session.match(template, points_lps, target, self.options)

    def similarity(self, template: Any, point_lps: Any, target: Any) -> Any:
        """See :meth:`.session.Session.similarity`."""
        return self.session.similarity(template, point_lps, target)
