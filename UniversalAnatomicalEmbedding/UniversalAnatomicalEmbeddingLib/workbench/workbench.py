"""The landmarks of a scene at work: what a person does to them, and the matches that follow.

Every face (desktop panel, browser, Python console) drives one :class:`Workbench`. Whoever embeds the volumes (the worker process, a thread)
takes ``workbench.scans.snapshot(volume)`` first and hands the result to :meth:`Workbench.ready`; everything else happens here, at once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import mrml
from ..landmarks.points import PointList, Position, read_points, write_points
from ..landmarks.table import LandmarkTable
from ..mrml import views
from ..mrml.observers import Observers
from ..system.errors import InputError
from ..system.language import tr as _
from .lists import PointLists, as_position, in_frame, template_candidates
from .presenter import Presenter
from .scans import Engine, Scans, Snapshot

Node = Any
EXPORTS = (".mrk.json", ".csv", ".fcsv")


class Workbench:
    """A scene, its presenter, its :class:`Scans` and :class:`PointLists`.

    Positions given and returned are in the world, LPS mm. ``report`` gets the errors of what the mouse did in a view.
    """

    def __init__(self, scene: Any, presenter: Presenter | None = None, report: Callable[[Exception], None] = logging.exception) -> None:
        self.scene = scene
        self.presenter = presenter or Presenter()
        self.provenance: dict[str, str] = {}
        self.observers = Observers(report)
        self.scans = Scans(scene, self.presenter, self.observers, lambda volume: self.lists.follow(volume))
        self.lists = PointLists(scene, self.presenter, self.observers, self._edited)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent):
            self.observers.add("scene", scene, event, self.refresh)
        self.refresh()

    def close(self) -> None:
        """Stop observing the scene; the nodes stay."""
        self.observers.clear()

    def refresh(self) -> None:
        """See what came into the scene and what left it; a point list with matches that came with a loaded scene is taken up again."""
        if self.lists.writing or self.scene.IsBatchProcessing():
            return
        self.scans.refresh()
        self.lists.forget_missing()
        if self.lists.template is None:
            known = [n for n in template_candidates(self.scene) if mrml.linked(n, "TemplateVolume") is not None]
            if known:
                self.lists.use(known[0])
        for _view, composite in views.slice_views(self.scene):
            if composite.GetID() not in self.observers:
                self.observers.add(composite.GetID(), composite, "ModifiedEvent", self.lists.arrange)
        self.lists.arrange()

    def use_engine(self, engine: Engine | None, provenance: Mapping[str, str]) -> None:
        """Match with this engine from now on; ``provenance`` (Model, ModelSha256, Version) is kept on every match list that it fills."""
        self.scans.engine = engine
        self.scans.forget()
        self.provenance = dict(provenance)

    def ready(self, volume: str, snapshot: Snapshot, searchable: Any) -> None:
        """A volume has been embedded: landmarks that waited for it are matched."""
        self.scans.ready(volume, snapshot, searchable)
        self.match()

    def set_template(self, volume: str | None) -> None:
        """Choose the template volume, and the point list that was made in it, if any."""
        if volume == self.presenter.template:
            return
        self.presenter.set_template(volume)
        node = None if volume is None else self.scans.node(volume)
        lists = [n for n in template_candidates(self.scene) if node is not None and mrml.linked(n, "TemplateVolume") is node]
        self.lists.use(lists[0] if lists else None)

    def placing_list(self) -> Node:
        """The template's point list, made if need be: the one that place mode must add points to."""
        return self.lists.template if self.lists.template is not None else self.lists.new(_("Landmarks"))

    def add(self, label: str, point_lps: ArrayLike) -> int:
        """Place a landmark at a world position of the template, and match it; returns its key."""
        node = self.placing_list()
        index = node.AddControlPoint(mrml.flipped(mrml.from_world(node, point_lps))[0].tolist(), label)
        return self.lists.keys[node.GetNthControlPointID(index)]

    def move(self, key: int, point_lps: ArrayLike) -> None:
        """Put a landmark elsewhere in the template, and match it again."""
        where = as_position(mrml.from_world(self.placing_list(), point_lps))
        self._change(self.presenter.table.placed(key, self.presenter.table.row(key).label, where))
        self._edited([key])

    def rename(self, key: int, label: str) -> None:
        """Name a landmark, in every list."""
        self._change(self.presenter.table.placed(key, label, self.presenter.table.row(key).position_lps))

    def delete(self, key: int) -> None:
        """Delete a landmark, in every list."""
        self._change(self.presenter.table.deleted(key))

    def accept(self, key: int, volume: str) -> None:
        """Confirm a match (or that the anatomy is absent)."""
        self._change(self.presenter.table.accepted(key, volume))

    def reject(self, key: int, volume: str) -> None:
        """Mark a match as wrong; its point is hidden."""
        self._change(self.presenter.table.rejected(key, volume))

    def correct(self, key: int, volume: str, point_lps: ArrayLike) -> None:
        """Put a match where it belongs."""
        where = as_position(mrml.from_world(self.lists.of(volume), point_lps))
        self._change(self.presenter.table.corrected(key, volume, where))

    def place_match(self, key: int, volume: str) -> None:
        """Let the next click in a view of ``volume`` say where this landmark is there (the model found it absent, or somewhere else)."""
        row = self.presenter.table.keys.index(key)
        self.lists.clear_position(volume, row)
        views.start_placing(self.scene, self.lists.of(volume), row)

    def retry(self, key: int, volume: str) -> None:
        """Forget a person's verdict on a match, and match again."""
        self._change(self.presenter.table.cleared(key, volume))
        self.match([key], [volume])

    def undo(self) -> None:
        """Take back the last change of landmarks or matches."""
        self.presenter.undo()
        self.lists.write(template=True)
        self.match()

    def redo(self) -> None:
        """Repeat the change last taken back."""
        self.presenter.redo()
        self.lists.write(template=True)
        self.match()

    def match(self, keys: Collection[int] | None = None, volumes: Collection[str] | None = None, again: bool = False) -> int:
        """Match the landmarks that wait (``again``: all that no person has decided on) in the targets that are prepared.

        Returns how many matches were made. They are a consequence of the last step, undone together with it.
        """
        readiness, template, table = self.presenter.readiness, self.presenter.template, self.presenter.table
        if template is None or self.lists.template is None or not readiness.status(template).usable:
            return 0
        made = 0
        for volume in volumes or self.presenter.targets:
            rows = [table.row(k) for k in table.to_match(volume, again) if keys is None or k in keys]
            if not rows or not readiness.status(volume).usable:
                continue
            node = self.lists.of(volume)
            points = np.array([r.position_lps for r in rows])
            found = self.scans.find(mrml.to_world(self.lists.template, points), volume)
            for row, cell in zip(rows, found, strict=True):
                table = table.matched(row.key, volume, in_frame(node, cell))
            mrml.set_attributes(node, self.provenance)
            made += len(rows)
        if made:
            self.presenter.amend(table)
            self.lists.write()
        return made

    def world(self, key: int, volume: str | None = None) -> Position | None:
        """Where a landmark of the template (or, with ``volume``, its match there) is; None where it is nowhere."""
        row = self.presenter.table.row(key)
        node = self.lists.template if volume is None else self.lists.matches.get(volume)
        where = row.position_lps if volume is None else row.cell(volume).position_lps
        return None if where is None or node is None else as_position(mrml.to_world(node, [where]))

    def jump_to(self, key: int, volumes: Collection[str] | None = None) -> None:
        """Centre the views of these volumes (None: template and targets) on a landmark."""
        for volume in self.presenter.used if volumes is None else volumes:
            where = self.world(key, None if volume == self.presenter.template else volume)
            if where is not None:
                views.jump(views.views_of(self.scene, self.scans.node(volume)), where)

    def export(self, folder: str | Path, extension: str = ".mrk.json") -> list[Path]:
        """Write the template's list and every match list, each in the frame of its volume's own file; returns the paths."""
        if extension not in EXPORTS:
            sentence = _("Landmarks cannot be written as '{extension}'; use {known}.")
            raise InputError(sentence.format(extension=extension, known=", ".join(EXPORTS)))
        if self.lists.template is None or not len(self.presenter.table):
            raise InputError(self.presenter.can_export.reason)
        paths = []
        for node, volume in ((self.lists.template, self.presenter.template), *((n, v) for v, n in self.lists.matches.items())):
            points = mrml.point_list(node)
            if node.GetTransformNodeID() != (frame := self.scans.node(volume or "")).GetTransformNodeID():
                points = _carried(points, node, frame)
            paths.append(Path(folder) / (re.sub(r'[\\/:*?"<>|\s]+', "_", node.GetName()) + extension))
            write_points(points, paths[-1])
        return paths

    def import_points(self, path: str | Path) -> Node:
        """Read landmarks in the frame of the template's own file into a new template list, and match them."""
        points = read_points(path)
        if not points.points:
            raise InputError(_("{path} holds no point.").format(path=path))
        node = self.lists.new(points.name or _("Landmarks"))
        table = LandmarkTable()
        for point in points.points:
            table = table.placed(self.lists.new_key(), point.label, point.position_lps)
        self._change(table)
        self.match()
        return node

    def _change(self, table: LandmarkTable) -> None:
        self.presenter.commit(table)
        self.lists.write(template=True)

    def _edited(self, keys: list[int]) -> None:
        """A landmark was placed or moved: match it, select it, and let the targets (never the template) look there."""
        self.match(keys)
        placed = [key for key in keys if self.presenter.table.row(key).position_lps is not None]
        if placed:
            self.presenter.select(placed[-1], self.presenter.selected_volume)
            self.jump_to(placed[-1], self.presenter.targets)


def _carried(points: PointList, node: Node, volume: Node) -> PointList:
    """Points of a list that does not move with a volume, in that volume's own frame."""
    carried = []
    for point in points.points:
        if point.position_lps is not None:
            x, y, z = mrml.from_world(volume, mrml.to_world(node, np.array([point.position_lps])))[0].tolist()
            point = replace(point, position_lps=(x, y, z))
        carried.append(point)
    return PointList(tuple(carried), points.name)
