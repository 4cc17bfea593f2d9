"""The volumes of a scene and their embeddings: who is loaded, who is embedded, who has changed since, and where points of one lie in another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import mrml
from ..images.grid import FloatArray, Grid
from ..images.volume import Volume
from ..landmarks.points import Position
from ..landmarks.table import Cell
from ..mrml.observers import Observers
from ..system.errors import InputError
from ..system.language import tr as _
from .presenter import Presenter

Node = Any


class Engine(Protocol):
    """What finds points: a :class:`.session.Session`, or a stand-in of a test."""

    def match(self, template: Any, points_lps: ArrayLike, target: Any) -> Sequence[Any]:
        """Points (N, 3) LPS mm of ``template`` in ``target``, as :class:`.matching.Match`."""

    def warm(self, template: Any, target: Any) -> None:
        """Work out now what every question about this pair needs, so that the first click answers as fast as any."""

    def similarity(self, template: Any, point_lps: ArrayLike, target: Any) -> tuple[NDArray, Grid]:
        """Similarity of every cell of ``target`` with the point (3,): values (Z, Y, X) and their grid."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A volume as it was when its embedding was asked for."""

    volume: Volume
    pose: FloatArray
    fingerprint: mrml.Fingerprint


@dataclass(frozen=True, eq=False)
class Prepared:
    """What an engine searches, and the volume it was made from."""

    searchable: Any
    pose: FloatArray
    fingerprint: mrml.Fingerprint


class Scans:
    """Keeps the presenter's list of volumes and their readiness in step with the scene.

    ``moved(volume id)`` is called when a volume was changed or put elsewhere.
    """

    def __init__(self, scene: Any, presenter: Presenter, observers: Observers, moved: Callable[[str], None]) -> None:
        self.scene = scene
        self.presenter = presenter
        self.engine: Engine | None = None
        self._observers = observers
        self._moved = moved
        self._prepared: dict[str, Prepared] = {}

    def node(self, volume: str) -> Node:
        """The node of a volume id; InputError where it is not in the scene."""
        node = self.scene.GetNodeByID(volume)
        if node is None:
            raise InputError(_("There is no volume '{volume}' in the scene. It may have been closed.").format(volume=volume))
        return node

    def refresh(self) -> None:
        """See which volumes there are, and what they are called."""
        nodes = {n.GetID(): n for n in mrml.volume_nodes(self.scene)}
        for gone in self.presenter.volumes.keys() - nodes.keys():
            self._observers.remove(gone)
            self._prepared.pop(gone, None)
        for volume, node in nodes.items():
            if volume not in self._observers:
                for event in (node.ImageDataModifiedEvent, node.TransformModifiedEvent, "ModifiedEvent"):
                    self._observers.add(volume, node, event, lambda volume=volume: self._look(volume))  # type: ignore[misc]
        names = {volume: node.GetName() for volume, node in nodes.items()}
        if names != self.presenter.volumes:
            self.presenter.set_volumes(names)

    def snapshot(self, volume: str) -> Snapshot:
        """What has to be embedded, as it is now."""
        node = self.node(volume)
        return Snapshot(mrml.volume_from_node(node), mrml.pose(node), mrml.fingerprint(node))

    def ready(self, volume: str, snapshot: Snapshot, searchable: Any) -> None:
        """A volume has been embedded; it may have changed, or gone, meanwhile."""
        if volume in self.presenter.volumes:
            self._prepared[volume] = Prepared(searchable, snapshot.pose, snapshot.fingerprint)
            self.presenter.readiness.ready(volume)
            self._look(volume)
            self._warm()

    def settle(self, volume: str) -> None:
        """Preparing was stopped: a volume is what it was before."""
        if volume in self._prepared:
            self.presenter.readiness.ready(volume)
            self._look(volume)
        else:
            self.presenter.readiness.forget(volume)

    def forget(self) -> None:
        """Drop all embeddings (another model); volumes that are being prepared go on."""
        self._prepared.clear()
        self.presenter.readiness.reset()

    def find(self, points_world_lps: ArrayLike, target: str) -> list[Cell]:
        """Where points (N, 3) of the template lie in a target: matches whose positions are in the world, LPS mm.

        A point that cannot be matched (outside the patient) is a failed match with the reason. InputError where a volume is not prepared.
        """
        template, source, goal = self._pair(target)
        points = mrml.scan_from_world(self.node(template), source.pose, points_world_lps)
        try:
            matches: list[Any] = list(self._engine().match(source.searchable, points, goal.searchable))
        except InputError as error:
            if len(points) == 1:
                return [Cell("failed", note=str(error))]
            return [cell for point in np.asarray(points_world_lps) for cell in self.find([point], target)]
        node = self.node(target)
        return [_cell(m, mrml.world_from_scan(node, goal.pose, [m.point_lps])[0]) for m in matches]

    def similarity(self, point_world_lps: ArrayLike, target: str, overlay: Node) -> None:
        """Fill the volume node ``overlay`` with the similarity of every place of a target to a point (3,) of the template."""
        template, source, goal = self._pair(target)
        point = mrml.scan_from_world(self.node(template), source.pose, point_world_lps)[0]
        values, grid = self._engine().similarity(source.searchable, point, goal.searchable)
        mrml.write_overlay(overlay, values, grid, self.node(target), goal.pose)

    def _pair(self, target: str) -> tuple[str, Prepared, Prepared]:
        template = self.presenter.template
        for volume in (template, target):
            if volume is None or volume not in self._prepared:
                name = self.presenter.volumes.get(volume or "", _("The template"))
                raise InputError(_("{name} is not prepared. Press Prepare first.").format(name=name))
        assert template is not None
        return template, self._prepared[template], self._prepared[target]

    def _warm(self) -> None:
        template = self._prepared.get(self.presenter.template or "")
        if template is not None and self.engine is not None:
            for target in self.presenter.targets:
                if target in self._prepared:
                    self.engine.warm(template.searchable, self._prepared[target].searchable)

    def _engine(self) -> Engine:
        if self.engine is None:
            raise InputError(_("No model is loaded. Press Prepare first."))
        return self.engine

    def _look(self, volume: str) -> None:
        """Compare a volume with what was embedded, and tell."""
        node = self.scene.GetNodeByID(volume)
        if node is None:
            return
        prepared, now = self._prepared.get(volume), mrml.fingerprint(node)
        if prepared is not None and prepared.fingerprint == now:
            if self.presenter.readiness.status(volume).state == "stale":
                self.presenter.readiness.ready(volume)
        elif prepared is not None and (prepared.fingerprint.voxels, prepared.fingerprint.geometry) == (now.voxels, now.geometry):
            self.presenter.readiness.stale(volume, _("was moved since it was prepared"), usable=True)
        elif prepared is not None:
            del self._prepared[volume]
            self.presenter.readiness.stale(volume, _("was changed since it was prepared"), usable=False)
        if node.GetName() != self.presenter.volumes.get(volume):
            self.refresh()
        self._moved(volume)


def _cell(match: Any, world_lps: FloatArray) -> Cell:
    confidence = None if math.isnan(match.confidence) else float(match.confidence)
    where: Position | None = None if match.status == "absent" else tuple(float(v) for v in world_lps)  # type: ignore[assignment]
    return Cell(match.status, where, confidence, match.note)
