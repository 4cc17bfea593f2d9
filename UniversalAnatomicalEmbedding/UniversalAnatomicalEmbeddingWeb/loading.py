"""Scans and landmarks come in, landmarks go out: command line, upload, folder of the server, demo; downloads."""

from __future__ import annotations

import asyncio
import csv
import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from UniversalAnatomicalEmbeddingLib import mrml
from UniversalAnatomicalEmbeddingLib.images import (
    Modality,
    Volume,
    identify,
    read_volume,
    require_3d,
)
from UniversalAnatomicalEmbeddingLib.landmarks import write_points
from UniversalAnatomicalEmbeddingLib.system import InputError

from . import state
from .files import LANDMARKS, Root, Uploads
from .rows import apply_preset, preset_names

if TYPE_CHECKING:
    from .page import Page

MOST_SCANS = 8
KINDS = {".mrk.json": "application/json", ".fcsv": "text/plain", ".csv": "text/csv"}


class Loading:
    """Opens, closes, imports and exports. ``shown``: by volume id what the page needs to know of a scan that the presenter does not."""

    def __init__(self, logic: Page, root: Root | None, uploads: Uploads) -> None:
        self.logic, self.root, self.uploads = logic, root, uploads
        self.shown: dict[str, dict[str, Any]] = {}
        self.first = {"browse": {"enabled": root is not None, "steps": [], "entries": self._entries("")}}
        self.actions: dict[str, Callable[..., Any]] = {
            "demo": self.open_demo,
            "browse": self.browse,
            "open_root": self.open_root,
            "open_upload": self.open_upload,
            "upload_failed": self.upload_failed,
            "close": self.close,
        }

    def modality(self, volume: str) -> str:
        """What a scan is taken for."""
        return str(self.shown[volume]["modality"]).lower()

    async def open_first(self) -> None:
        """What the command line named."""
        options = self.logic.options
        if options.demo:
            await self.open_demo()
        for path in options.images:
            await self.open(path)
        if options.landmarks:
            self.logic.bench.import_points(options.landmarks)

    async def open(self, path: str | Path) -> None:
        """Read a scan (FOLDER#UID: one series of a DICOM folder) and show it in a row of its own."""
        asked = self.logic.options.modality
        given = None if asked == "auto" else cast(Modality, asked)
        folder, _, series = str(path).rpartition("#")
        with _opening(self.logic, Path(path).name):
            if folder and not Path(path).exists():
                volume = await asyncio.to_thread(read_volume, folder, given, series)
            else:
                volume = await asyncio.to_thread(read_volume, path, given)
            self.add(volume)

    async def open_demo(self) -> None:
        """Two made-up patients."""
        from UniversalAnatomicalEmbeddingLib.phantom import demo_pair

        with _opening(self.logic, "two made-up patients"):
            pair = await asyncio.to_thread(demo_pair)
            self.add(pair.template)
            self.add(pair.target)

    def add(self, volume: Volume) -> str:
        """Put a scan into the scene and show it; returns its id."""
        scene, volume = self.logic.scene, require_3d(volume)
        if len(self.shown) >= MOST_SCANS:
            raise InputError(f"{MOST_SCANS} scans are open, more do not fit on a page. Close one first.")
        found = identify(volume)
        modality = str(found.volume.modality)
        names = preset_names(modality)
        scene.StartState(scene.BatchProcessState)
        node = mrml.volume_to_node(scene, replace(found.volume, name=scene.GenerateUniqueName(volume.name)))
        apply_preset(node, names[0], modality)
        row = self.logic.rows.open(node)
        self.shown[row.volume] = {
            "views": list(row.views),
            "modality": modality.upper(),
            "taken": found.text,
            "presets": list(names),
            "preset": names[0],
        }
        if found.how == "guessed" or found.remarks:
            self.logic.tell(f"{volume.name}: {found.text}")
        scene.EndState(scene.BatchProcessState)
        return row.volume

    def close(self, volume: str) -> None:
        """Take a scan out of the scene."""
        node = self.logic.bench.scans.node(volume)
        self.logic.rows.close(volume)
        del self.shown[volume]
        self.logic.scene.RemoveNode(node)

    # --- from the server's folder and from the browser ---------------------------------------------------------------------------------

    def browse(self, path: str) -> None:
        """List a folder below the root."""
        entries = self._entries(str(path))
        with self.logic.server.state as shown:
            shown.browse = {"enabled": self.root is not None, "steps": state.steps(str(path)), "entries": entries}

    async def open_root(self, path: str) -> None:
        """Open a scan below the root."""
        if self.root is None:
            raise InputError("This server was started without --root, so no folder of it can be opened.")
        await self.open(await asyncio.to_thread(self.root.scan, str(path)))

    async def open_upload(self, batch: str) -> None:
        """Open what has been sent, then forget the files."""
        try:
            for path in self.uploads.scans(str(batch)):
                if path.name.lower().endswith(LANDMARKS):
                    self.logic.bench.import_points(path)
                else:
                    await self.open(path)
        except InputError as error:
            raise InputError(
                str(error).replace(f"{self.uploads.folder / batch}/", "").replace(str(self.uploads.folder / batch), "The folder")
            ) from error
        finally:
            self.uploads.discard(str(batch))

    def upload_failed(self, batch: str, reason: str) -> None:
        """The browser could not send everything."""
        self.uploads.discard(str(batch))
        raise InputError(str(reason)[:300])

    def _entries(self, path: str) -> list[dict[str, Any]]:
        found = [] if self.root is None else self.root.list(path)
        return [{"path": e.path, "name": e.path.rpartition("/")[2], "is_folder": e.is_folder} for e in found]

    # --- downloads ---------------------------------------------------------------------------------------------------------------------

    def export(self, what: str) -> tuple[str, bytes, str]:
        """Name, content and kind of a download: ``B.mrk.json``, the landmarks in scan B; ``all.csv``, all of them."""
        if what == "all.csv":
            return "landmarks.csv", self._everything().encode(), "text/csv"
        called, _, kind = what.partition(".")
        volumes = {state.letter(n): v for n, v in enumerate(self.logic.presenter.volumes)}
        if called not in volumes or f".{kind}" not in KINDS:
            raise InputError(f"There is no '{what}' to download.")
        lists = self.logic.bench.lists
        node = lists.template if volumes[called] == self.logic.presenter.template else lists.matches.get(volumes[called])
        if node is None:
            raise InputError("This scan has no landmarks yet.")
        with tempfile.TemporaryDirectory(dir=self.uploads.folder) as folder:
            path = Path(folder) / f"landmarks.{kind}"
            write_points(mrml.point_list(node), path)
            return f"{_file_name(self.logic.presenter.volumes[volumes[called]])}.{kind}", path.read_bytes(), KINDS[f".{kind}"]

    def _everything(self) -> str:
        """One line per landmark and scan; positions in the world, LPS mm."""
        presenter, bench = self.logic.presenter, self.logic.bench
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(("scan", "landmark", "x", "y", "z", "confidence", "status", "note"))
        for row in presenter.table.landmarks:
            for volume in presenter.used:
                is_template = volume == presenter.template
                where = bench.world(row.key, None if is_template else volume)
                cell = row.cell(volume)
                position = ("", "", "") if where is None else tuple(f"{v:.3f}" for v in where)
                verdict = (
                    ("", "template", "")
                    if is_template
                    else ("" if cell.confidence is None else f"{cell.confidence:.4f}", cell.status, cell.note)
                )
                writer.writerow((presenter.volumes[volume], row.label, *position, *verdict))
        return text.getvalue()


class _opening:
    """Says what is being opened while it is."""

    def __init__(self, logic: Page, name: str) -> None:
        self.logic, self.name = logic, name

    def __enter__(self) -> None:
        self._say(f"Opening {self.name}…")

    def __exit__(self, *error: object) -> None:
        self._say("")

    def _say(self, text: str) -> None:
        with self.logic.server.state as shown:
            shown.opening = text


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name) or "scan"
