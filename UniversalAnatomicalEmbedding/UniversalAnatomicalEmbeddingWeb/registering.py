"""Registration on the page: choose two scans, run it in the worker, see before and after faded over the fixed scan, download the transform."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from UniversalAnatomicalEmbeddingLib import mrml, views, worker_client
from UniversalAnatomicalEmbeddingLib.errors import InputError
from UniversalAnatomicalEmbeddingLib.live import passing_node
from UniversalAnatomicalEmbeddingLib.options import Stage
from UniversalAnatomicalEmbeddingLib.readiness import duration
from UniversalAnatomicalEmbeddingLib.registration import Transform, read_transform, write_transform
from UniversalAnatomicalEmbeddingLib.scans import Snapshot
from UniversalAnatomicalEmbeddingLib.volume import Volume

if TYPE_CHECKING:
    from .logic import Logic

PREVIEW_MM = 2.0
SETTLED = ("accepted", "corrected")
SOURCES = {"embeddings": "whole scans", "landmarks": "accepted landmarks"}
SHOWN = ("off", "before", "after")
FILES = (".h5", ".tfm")


@dataclass(frozen=True, eq=False)
class Outcome:
    """A registration that was made: the scans, the map from fixed to moving points, its figures, and the node of each picture."""

    fixed: str
    moving: str
    transform: Transform
    report: dict[str, Any]
    pictures: dict[str, Any]


class Registering:
    """The section of the panel. ``choice`` is what a person has chosen, ``outcome`` the last result."""

    def __init__(self, logic: Logic, folder: Path) -> None:
        self.logic, self._folder = logic, folder
        self.choice: dict[str, Any] = {"fixed": "", "moving": "", "stage": "affine", "source": "embeddings", "refine": False}
        self.outcome: Outcome | None = None
        self._job: int | None = None
        self._working = ""
        self._fraction = 0.0
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
        panel = self.logic.presenter
        self._settle()
        two = len(panel.volumes) > 1
        outcome = self.outcome
        result = None if outcome is None else figures(outcome.report, panel.volumes[outcome.fixed], panel.volumes[outcome.moving])
        return {
            **self.choice,
            "stages": list(get_args(Stage)),
            "sources": [{"id": key, "name": name} for key, name in SOURCES.items()],
            "enabled": self._job is not None or (two and not self._working),
            "running": self._job is not None,
            "reason": "" if two else "Open two scans first.",
            "text": self._working,
            "fraction": self._fraction,
            "result": result,
            "shown": self._shown,
            "fade": self._fade,
        }

    def choose(self, name: str, value: Any) -> None:
        """Set one choice; a scan that is chosen on one side gives way on the other."""
        allowed = {"stage": get_args(Stage), "source": tuple(SOURCES), "refine": (True, False)}
        if name in ("fixed", "moving") and value in self.logic.presenter.volumes:
            other = "moving" if name == "fixed" else "fixed"
            if self.choice[other] == value:
                self.choice[other] = self.choice[name]
            self.choice[name] = value
        elif name in allowed and value in allowed[name]:
            self.choice[name] = value
        self.logic.refresh()

    def run(self) -> None:
        """Register; pressed again meanwhile: cancel."""
        if self._job is not None:
            self.logic.desk.cancel(self._job)
            return
        self._settle()
        fixed, moving = self.choice["fixed"], self.choice["moving"]
        scans = [self.logic.bench.scans.snapshot(volume) for volume in (fixed, moving)]
        job: dict[str, Any] = {
            "job": "register",
            "fixed": scans[0].volume,
            "moving": scans[1].volume,
            "out": str(self._folder / "registration.h5"),
            "options": {"stage": self.choice["stage"], "refine": self.choice["refine"] and self.choice["stage"] != "deformable"},
            "model": self.logic.options.model,
            "device": self.logic.options.device,
        }
        if self.choice["source"] == "landmarks":
            job["landmarks"] = self._pairs(fixed, moving, scans)
        self.show("off")
        self._job = self.logic.desk.submit(job, lambda event: self._heard(event, scans, fixed, moving))
        self._say("waiting", 0.0)

    def show(self, what: str) -> None:
        """Lay the moving scan over the fixed one: as it was ("before"), registered ("after"), or not at all ("off")."""
        if what not in SHOWN:
            return
        scene, outcome = self.logic.scene, self.outcome
        if outcome is not None:
            for node in outcome.pictures.values():
                views.hide_overlay(scene, node)
            if what != "off":
                self.logic.tools.stop_overlay()
                views.show_overlay(scene, outcome.pictures[what], self.logic.bench.scans.node(outcome.fixed), self._fade)
        self._shown = what if outcome is not None else "off"
        self.logic.refresh()

    def fade(self, value: float) -> None:
        """How much of the moving scan is seen, 0..1."""
        self._fade = min(max(float(value), 0.0), 1.0)
        if self._shown != "off":
            self.show(self._shown)

    def file(self, kind: str) -> tuple[str, Path]:
        """A file of the transform, ``.h5`` or ``.tfm``, and the name to give it."""
        if self.outcome is None or kind not in FILES:
            raise InputError("There is no transform to download. Register two scans first.")
        path = self._folder / f"transform{kind}"
        write_transform(self.outcome.transform, path)
        names = self.logic.presenter.volumes
        return f"{names[self.outcome.moving]}_to_{names[self.outcome.fixed]}{kind}", path

    # --- inside ------------------------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Keep choices and outcome to scans that are open: the template is fixed, the first target moving, until a person chooses."""
        panel = self.logic.presenter
        if self.choice["fixed"] not in panel.volumes:
            self.choice["fixed"] = panel.template or ""
        if self.choice["moving"] not in panel.volumes or self.choice["moving"] == self.choice["fixed"]:
            self.choice["moving"] = next((v for v in panel.volumes if v != self.choice["fixed"]), "")
        if self.outcome is not None and not {self.outcome.fixed, self.outcome.moving} <= panel.volumes.keys():
            self._forget()

    def _forget(self) -> None:
        outcome, self.outcome, self._shown = self.outcome, None, "off"
        if outcome is not None:
            for node in outcome.pictures.values():
                views.hide_overlay(self.logic.scene, node)
                self.logic.scene.RemoveNode(node)

    def _pairs(self, fixed: str, moving: str, scans: list[Snapshot]) -> list[list[list[float]]]:
        """Landmarks that a person placed or settled in both scans, LPS mm in the frames of the snapshots."""
        bench, template = self.logic.bench, self.logic.presenter.template
        found: list[list[list[float]]] = [[], []]
        for row in self.logic.presenter.table.landmarks:
            if not all(v == template or row.cell(v).status in SETTLED for v in (fixed, moving)):
                continue
            where = [p for v in (fixed, moving) if (p := bench.world(row.key, None if v == template else v)) is not None]
            if len(where) == 2:  # not where a person agreed that one of them is absent
                for side, volume, snapshot in ((0, fixed, scans[0]), (1, moving, scans[1])):
                    found[side] += mrml.scan_from_world(bench.scans.node(volume), snapshot.pose, [where[side]]).tolist()
        if len(found[0]) < 3:
            raise InputError(f"{len(found[0])} landmarks are accepted in both scans; at least 3 are needed. Accept or correct more matches.")
        return found

    def _heard(self, event: worker_client.Event, scans: list[Snapshot], fixed: str, moving: str) -> None:
        if isinstance(event, worker_client.Progress):
            left = "" if event.seconds_left is None else f", {duration(event.seconds_left)} left"
            self._say(f"{event.text}{left}", event.fraction)
            return
        self._job = None
        self._say("", 0.0)
        if isinstance(event, worker_client.Failed):
            self.logic.tell(event.sentence, "error")
        if isinstance(event, worker_client.Done):
            self._say("drawing", 1.0)
            self.logic.later(self._draw(event.result, scans, fixed, moving))

    async def _draw(self, result: dict[str, Any], scans: list[Snapshot], fixed: str, moving: str) -> None:
        """Make the two pictures: the moving scan where it was, and where the transform puts it, on the fixed scan's field of view."""
        try:
            transform = await asyncio.to_thread(read_transform, result["transform"])
            before, after = await asyncio.gather(
                asyncio.to_thread(_preview, scans, Transform(np.eye(4))), asyncio.to_thread(_preview, scans, transform)
            )
            self._forget()
            if {fixed, moving} <= self.logic.presenter.volumes.keys():
                pictures = {"before": self._picture(before, scans, fixed, moving), "after": self._picture(after, scans, fixed, moving)}
                self.outcome = Outcome(fixed, moving, transform, result["report"], pictures)
                self.show("after")
        finally:
            self._say("", 0.0)

    def _picture(self, preview: Volume, scans: list[Snapshot], fixed: str, moving: str) -> Any:
        scene, nodes = self.logic.scene, self.logic.bench.scans
        node = passing_node(scene, "vtkMRMLScalarVolumeNode", "Registered")
        mrml.write_overlay(node, preview.array, preview.grid, nodes.node(fixed), scans[0].pose)
        node.CreateDefaultDisplayNodes()
        window = nodes.node(moving).GetDisplayNode()
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevel(window.GetWindow(), window.GetLevel())
        return node

    def _say(self, text: str, fraction: float) -> None:
        self._working, self._fraction = text, round(fraction, 2)
        self.logic.refresh()


def _preview(scans: list[Snapshot], transform: Transform) -> Volume:
    return transform.resample(scans[1].volume, scans[0].volume.grid.axis_aligned(PREVIEW_MM))


def figures(report: dict[str, Any], fixed: str, moving: str) -> dict[str, str]:
    """What a person needs to know of a registration: the expected error first."""
    error = report["expected_tre_mm"]
    told = [f"{report['inliers']} of {report['pairs']} pairs agree"]
    if report["fre_mm"] is not None:
        told.append(f"to {report['fre_mm']:.1f} mm")
    if report["stage"] == "deformable":
        told.append(f"{100 * report['folding']:.2f} % of the field folds")
    told.append(duration(report["seconds"]))
    return {
        "title": f"{moving} on {fixed}",
        "error": "expected error not known" if error is None else f"expected error {error:.1f} mm",
        "details": ", ".join(told),
        "note": report["note"],
    }
