"""Registration of two volumes of a workbench in the worker process: the transform node, its undo, the errors of landmarks, the preview."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import mrml
from ..mrml import transforms, views
from ..options import RegisterOptions
from ..system.errors import InputError
from ..system.language import tr as _
from ..worker.client import Cancelled, Done, Event, Failed, Progress
from ..worker.desk import Desk
from .readiness import duration
from .scans import Snapshot
from .workbench import Workbench

Node = Any
Source = Literal["embeddings", "accepted landmarks"]
Preview = Literal["none", "fade", "checkerboard", "reveal"]
CHECKER_MM = 30.0


@dataclass(frozen=True)
class Outcome:
    """What a registration left behind: its node, the moving volume and the transform that this was under before, and the figures."""

    node: Node
    moving: Node
    before: str | None
    report: dict[str, Any]

    @property
    def text(self) -> str:
        """The figures as a sentence or two."""
        from ..registration.result import outcome

        return outcome(self.report)


class Registering:
    """One registration at a time. ``changed()`` is called whenever :attr:`text` or :attr:`busy` may have changed."""

    def __init__(self, bench: Workbench, desk: Desk, changed: Callable[[], None] = lambda: None) -> None:
        self.bench = bench
        self.desk = desk
        self.changed = changed
        self.text = ""
        self.outcome: Outcome | None = None
        self._job: int | None = None
        self._preview: Node | None = None

    @property
    def busy(self) -> bool:
        """Whether a registration is under way."""
        return self._job is not None

    def start(
        self,
        fixed: Node | None,
        moving: Node | None,
        options: RegisterOptions,
        source: Source = "embeddings",
        model: str | None = None,
        device: str = "auto",
    ) -> None:
        """Register ``moving`` to ``fixed`` in the worker. InputError for a choice that cannot be registered."""
        if fixed is None or moving is None or fixed is moving:
            raise InputError(_("Choose a fixed and a moving volume that are not the same."))
        if self.busy:
            raise InputError(_("A registration is under way. Wait for it, or cancel it."))
        snapshots = [self.bench.scans.snapshot(node.GetID()) for node in (fixed, moving)]
        out = Path(tempfile.mkdtemp(prefix="uae-")) / "fixed_to_moving.h5"
        job: dict[str, Any] = {
            "job": "register",
            "fixed": snapshots[0].volume,
            "moving": snapshots[1].volume,
            "options": asdict(options),
            "out": str(out),
            "model": model,
            "device": device,
        }
        if source == "accepted landmarks":
            job["landmarks"] = self._pairs_in_scans(fixed, moving, snapshots)
        self._job = self.desk.submit(job, partial(self._heard, fixed, moving, snapshots, out))
        self._say(_("Waiting for the worker"))

    def cancel(self) -> None:
        """Stop the registration."""
        if self._job is not None:
            self.desk.cancel(self._job)

    def undo(self) -> None:
        """Put the moving volume back where it was; the transform node stays in the scene."""
        if self.outcome is not None and self.bench.scene.IsNodePresent(self.outcome.moving):
            self.outcome.moving.SetAndObserveTransformNodeID(self.outcome.before)
        self.outcome = None
        self._say(_("The registration was undone; its transform is still in the scene."))

    # --- landmarks ---------------------------------------------------------------------------------------------------------------------

    def landmark_pairs(self, fixed: Node, moving: Node) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """(label, position in ``fixed``, in ``moving``), world LPS mm, of the landmarks that a person has settled in both."""
        pairs = []
        for row in self.bench.presenter.table.landmarks:
            found = [self._settled(row, node.GetID()) for node in (fixed, moving)]
            if found[0] is not None and found[1] is not None:
                pairs.append((row.label, np.array(found[0]), np.array(found[1])))
        return pairs

    def errors(self, fixed: Node, moving: Node) -> list[tuple[str, float, float | None]]:
        """(label, distance before, distance now) in mm of the settled landmarks; before: without the present registration."""
        rows: list[tuple[str, float, float | None]] = []
        done = self.outcome is not None and self.outcome.moving is moving
        now = self.landmark_pairs(fixed, moving)
        if not done:
            return [(label, float(np.linalg.norm(a - b)), None) for label, a, b in now]
        assert self.outcome is not None
        before_node = self.bench.scene.GetNodeByID(self.outcome.before) if self.outcome.before else None
        for label, a, b in now:
            local = mrml.from_world(moving, b)
            before = local if before_node is None else mrml.through(before_node, local)
            rows.append((label, float(np.linalg.norm(a - before[0])), float(np.linalg.norm(a - b))))
        return rows

    def _settled(self, row: Any, volume: str) -> Any:
        if volume == self.bench.presenter.template:
            return self.bench.world(row.key)
        return self.bench.world(row.key, volume) if row.cell(volume).status in ("accepted", "corrected") else None

    def _pairs_in_scans(self, fixed: Node, moving: Node, snapshots: list[Snapshot]) -> list[list[list[float]]]:
        pairs = self.landmark_pairs(fixed, moving)
        if len(pairs) < 3:
            sentence = _("Landmarks accepted or corrected in both volumes: {count}; at least 3 are needed.")
            raise InputError(sentence.format(count=len(pairs)))
        both = zip((fixed, moving), snapshots, (1, 2), strict=True)
        return [mrml.scan_from_world(n, s.pose, np.array([p[at] for p in pairs])).tolist() for n, s, at in both]

    # --- preview -----------------------------------------------------------------------------------------------------------------------

    def preview(self, kind: Preview, fixed: Node | None, moving: Node | None, share: float) -> None:
        """Show both volumes in the views of the fixed one: faded into each other, in a checkerboard, or split at a border; ``share`` 0..1."""
        self._hide_preview()
        scene = self.bench.scene
        if kind == "none" or fixed is None or moving is None or fixed is moving:
            return
        if kind == "fade":
            views.show_overlay(scene, moving, fixed, share)
            return
        found, shown, index_to_ras = transforms.resampled(moving, fixed)
        node = views.passing_node(scene, "vtkMRMLScalarVolumeNode", _("Preview"))
        z, y, x = np.ogrid[: found.shape[0], : found.shape[1], : found.shape[2]]
        if kind == "checkerboard":
            cells = [np.floor(i * np.linalg.norm(index_to_ras[:3, axis]) / CHECKER_MM) for i, axis in ((x, 0), (y, 1), (z, 2))]
            take = (cells[0] + cells[1] + cells[2]) % 2 == 0
        else:
            take = np.broadcast_to(x >= share * found.shape[2], found.shape)
        mixed = np.where(take, views.windowed(moving, found), views.windowed(fixed, shown))
        mrml.fill_volume(node, mixed.astype(np.float32), mrml.FLIP @ index_to_ras)
        node.SetAndObserveTransformNodeID(fixed.GetTransformNodeID())
        views.style_preview(node)
        self._preview = node
        views.show_overlay(scene, node, fixed, 1.0)

    def _hide_preview(self) -> None:
        for _view, composite in views.slice_views(self.bench.scene):
            composite.SetForegroundVolumeID(None)
        if self._preview is not None:
            self.bench.scene.RemoveNode(self._preview)
            self._preview = None

    # --- the worker's answer -----------------------------------------------------------------------------------------------------------

    def _heard(self, fixed: Node, moving: Node, snapshots: list[Snapshot], out: Path, event: Event) -> None:
        if isinstance(event, Progress):
            done = f"{event.text} {event.fraction:.0%}"
            if event.seconds_left is not None:
                done = _("{done}, {time} left").format(done=done, time=duration(event.seconds_left))
            self._say(done)
            return
        self._job = None
        if isinstance(event, Done):
            self.take(fixed, moving, snapshots, out, event.result)
        elif isinstance(event, Failed):
            self._say(event.sentence)
        elif isinstance(event, Cancelled):
            self._say(_("Cancelled."))
        out.unlink(missing_ok=True)
        out.parent.rmdir()

    def take(self, fixed: Node, moving: Node, snapshots: list[Snapshot], out: Path, result: dict[str, Any]) -> None:
        """Make a transform node of the worker's answer and put the moving volume under it; a face may do something else with it."""
        from ..registration.transform import read_transform

        scene = self.bench.scene
        if not (scene.IsNodePresent(fixed) and scene.IsNodePresent(moving)):
            self._say(_("One of the volumes was closed; the result was dropped."))
            return
        transform = transforms.between_frames(read_transform(out), snapshots[0].pose, snapshots[1].pose)
        node = scene.AddNewNodeByClass(
            "vtkMRMLTransformNode", _("{moving} to {fixed}").format(moving=moving.GetName(), fixed=fixed.GetName())
        )
        transforms.write_transform_node(node, transform)
        node.SetAndObserveTransformNodeID(fixed.GetTransformNodeID())
        mrml.set_attributes(
            node, {"Fixed": fixed.GetName(), "Moving": moving.GetName(), "Stage": result["report"]["stage"], **self.bench.provenance}
        )
        before = moving.GetTransformNodeID()
        if self.outcome is not None and self.outcome.moving is moving and before == self.outcome.node.GetID():
            before = self.outcome.before  # registered again: undo goes back to before the first time
        moving.SetAndObserveTransformNodeID(node.GetID())
        self.outcome = Outcome(node, moving, before, result["report"])
        self._say(self.outcome.text)

    def _say(self, text: str) -> None:
        self.text = text
        self.changed()
