"""Registration on the page: choose two scans, run it, see before and after faded over the fixed scan, download the transform."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from UniversalAnatomicalEmbeddingLib import mrml, workbench
from UniversalAnatomicalEmbeddingLib.images import Volume
from UniversalAnatomicalEmbeddingLib.options import RegisterOptions, Stage
from UniversalAnatomicalEmbeddingLib.registration import (
    Transform,
    expected_error,
    read_transform,
    support,
    write_transform,
)
from UniversalAnatomicalEmbeddingLib.system import InputError
from UniversalAnatomicalEmbeddingLib.workbench import Snapshot, duration
from UniversalAnatomicalEmbeddingLib.worker import Event, Failed

if TYPE_CHECKING:
    from .page import Page

PREVIEW_MM = 2.0
SHOWN = ("off", "before", "after")
FILES = (".h5", ".tfm")
SOURCES = {"embeddings": "whole scans", "accepted landmarks": "accepted landmarks"}


@dataclass(frozen=True, eq=False)
class Result:
    """A registration that was made: the scans, the map from fixed to moving points, its figures, and the node of each picture."""

    fixed: str
    moving: str
    transform: Transform
    report: dict[str, Any]
    pictures: dict[str, Any]


class Registering(workbench.Registering):
    """The section of the panel. The moving scan stays where it is in the scene: its rows and landmarks are not turned under a reader's eyes."""

    def __init__(self, logic: Page, folder: Path) -> None:
        super().__init__(logic.bench, logic.desk, logic.refresh)
        self.logic, self._folder = logic, folder
        self.choice: dict[str, Any] = {"fixed": "", "moving": "", "stage": "affine", "source": "embeddings"}
        self.result: Result | None = None
        self._shown = "off"
        self._fade = 0.5
        self.actions: dict[str, Callable[..., Any]] = {
            "register": self.run,
            "register_choose": self.choose,
            "register_show": self.show,
            "register_fade": self.fade,
        }

    def page(self) -> dict[str, Any]:
        """What the section shows."""
        self._settle()
        panel, result = self.logic.presenter, self.result
        two = len(panel.volumes) > 1
        return {
            **self.choice,
            "stages": list(get_args(Stage)),
            "sources": [{"id": key, "name": name} for key, name in SOURCES.items()],
            "enabled": two or self.busy,
            "running": self.busy,
            "reason": "" if two else "Open two scans first.",
            "text": self.text,
            "result": None if result is None else figures(result.report, panel.volumes[result.fixed], panel.volumes[result.moving]),
            "shown": self._shown,
            "fade": self._fade,
        }

    def choose(self, name: str, value: Any) -> None:
        """Set one choice; a scan that is chosen on one side gives way on the other."""
        allowed: dict[str, tuple[str, ...]] = {"stage": get_args(Stage), "source": tuple(SOURCES)}
        if name in ("fixed", "moving") and value in self.logic.presenter.volumes:
            other = "moving" if name == "fixed" else "fixed"
            if self.choice[other] == value:
                self.choice[other] = self.choice[name]
            self.choice[name] = value
        elif value in allowed.get(name, ()):
            self.choice[name] = value
        self.logic.refresh()

    def run(self) -> None:
        """Register; pressed again meanwhile: cancel."""
        if self.busy:
            self.cancel()
            return
        self._settle()
        self.show("off")
        fixed, moving = (self.bench.scans.node(self.choice[side]) for side in ("fixed", "moving"))
        options, chosen = RegisterOptions(stage=self.choice["stage"]), self.logic.options
        self.start(fixed, moving, options, self.choice["source"], chosen.model, chosen.device)

    def show(self, what: str) -> None:
        """Lay the moving scan over the fixed one: as it was ("before"), registered ("after"), or not at all ("off")."""
        if what not in SHOWN or self.result is None:
            return
        for node in self.result.pictures.values():
            mrml.hide_overlay(self.logic.scene, node)
        if what != "off":
            self.logic.tools.stop_overlay()
            mrml.show_overlay(self.logic.scene, self.result.pictures[what], self.bench.scans.node(self.result.fixed), self._fade)
        self._shown = what
        self.logic.refresh()

    def fade(self, value: float) -> None:
        """How much of the moving scan is seen, 0..1."""
        self._fade = min(max(float(value), 0.0), 1.0)
        if self._shown != "off":
            self.show(self._shown)

    def file(self, kind: str) -> tuple[str, Path]:
        """A file of the transform, ``.h5`` or ``.tfm``, and the name to give it."""
        if self.result is None or kind not in FILES:
            raise InputError("There is no transform to download. Register two scans first.")
        path = self._folder / f"transform{kind}"
        write_transform(self.result.transform, path)
        names = self.logic.presenter.volumes
        return f"{names[self.result.moving]}_to_{names[self.result.fixed]}{kind}", path

    # --- inside ------------------------------------------------------------------------------------------------------------------------

    def take(self, fixed: Any, moving: Any, snapshots: list[Snapshot], out: Path, result: dict[str, Any]) -> None:
        """Keep the transform and draw both pictures, beside the page."""
        self._say("Drawing")
        self.logic.later(self._draw(read_transform(out), fixed.GetID(), moving.GetID(), snapshots, result["report"]))

    def _heard(self, fixed: Any, moving: Any, snapshots: list[Snapshot], out: Path, event: Event) -> None:
        super()._heard(fixed, moving, snapshots, out, event)
        if isinstance(event, Failed):
            self._say("")
            self.logic.tell(event.sentence, "error")

    async def _draw(self, transform: Transform, fixed: str, moving: str, snapshots: list[Snapshot], report: dict[str, Any]) -> None:
        """Two pictures on the fixed scan's field of view: the moving scan where it was, and where the transform puts it."""
        try:
            maps = {"before": Transform(np.eye(4)), "after": transform}
            drawn = {name: await asyncio.to_thread(_preview, snapshots, one) for name, one in maps.items()}
            self._forget()
            if {fixed, moving} <= self.logic.presenter.volumes.keys():
                pictures = {name: self._picture(volume, snapshots[0], fixed, moving) for name, volume in drawn.items()}
                self.result = Result(fixed, moving, transform, report, pictures)
                self.show("after")
        finally:
            self._say("")

    def _picture(self, preview: Volume, snapshot: Snapshot, fixed: str, moving: str) -> Any:
        node = mrml.passing_node(self.logic.scene, "vtkMRMLScalarVolumeNode", "Registered")
        mrml.write_overlay(node, preview.array, preview.grid, self.bench.scans.node(fixed), snapshot.pose)
        node.CreateDefaultDisplayNodes()
        window = self.bench.scans.node(moving).GetDisplayNode()
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevel(window.GetWindow(), window.GetLevel())
        return node

    def _settle(self) -> None:
        """Keep choices and result to scans that are open: the template is fixed, the first target moving, until a person chooses."""
        panel = self.logic.presenter
        if self.choice["fixed"] not in panel.volumes:
            self.choice["fixed"] = panel.template or ""
        if self.choice["moving"] not in panel.volumes or self.choice["moving"] == self.choice["fixed"]:
            self.choice["moving"] = next((v for v in panel.volumes if v != self.choice["fixed"]), "")
        if self.result is not None and not {self.result.fixed, self.result.moving} <= panel.volumes.keys():
            self._forget()

    def _forget(self) -> None:
        result, self.result, self._shown = self.result, None, "off"
        if result is not None:
            for node in result.pictures.values():
                mrml.hide_overlay(self.logic.scene, node)
                self.logic.scene.RemoveNode(node)


def _preview(snapshots: list[Snapshot], transform: Transform) -> Volume:
    return transform.resample(snapshots[1].volume, snapshots[0].volume.grid.axis_aligned(PREVIEW_MM))


def figures(report: dict[str, Any], fixed: str, moving: str) -> dict[str, str]:
    """What a person needs to know of a registration: the expected error first."""
    return {
        "title": f"{moving} on {fixed}",
        "error": expected_error(report),
        "details": f"{support(report)}, {duration(report['seconds'])}",
        "note": report["note"],
    }
