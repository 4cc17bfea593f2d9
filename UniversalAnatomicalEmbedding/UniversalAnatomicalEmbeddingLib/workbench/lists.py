"""The point lists of a scene that mirror the landmark table: one of the template, one per target, the same landmark in the same row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import mrml
from ..landmarks.points import Position
from ..landmarks.table import Cell, Landmark, LandmarkTable
from ..mrml import views
from ..mrml.observers import Observers
from ..system.errors import InputError
from ..system.language import tr as _
from .presenter import Presenter

Node = Any
FIDUCIALS = "vtkMRMLMarkupsFiducialNode"
PLACED = ("PointPositionDefinedEvent", "PointEndInteractionEvent", "PointRemovedEvent", "PointPositionUndefinedEvent")
"""What makes a list worth reading. PointModified is not among them: it comes with every pixel that the mouse moves."""


class PointLists:
    """Writes the presenter's table to the lists, and what people do to the lists to the table.

    ``edited(keys)`` is called after a person placed or moved the template's landmarks of these keys. ``keys``: the table's keys by the ids of
    the template's control points.
    """

    def __init__(self, scene: Any, presenter: Presenter, observers: Observers, edited: Callable[[list[int]], None]) -> None:
        self.scene = scene
        self.presenter = presenter
        self.template: Node | None = None
        self.matches: dict[str, Node] = {}
        self.writing = False
        self._observers = observers
        self._edited = edited
        self.keys: dict[str, int] = {}
        self._next_key = 1

    def use(self, node: Node | None) -> None:
        """Take a list of the scene as the template's, with its matches and template volume from before; InputError for a list of matches."""
        if node is not None and mrml.attribute(node, "Role") is not None:
            sentence = _("{name} holds matches. Choose the list that they were made from, or a copy of it.")
            raise InputError(sentence.format(name=node.GetName()))
        for group in ("template list", *(f"matches {v}" for v in self.matches)):
            self._observers.remove(group)
        self.template, self.matches = node, {}
        if node is None:
            self.presenter.restart(LandmarkTable())
            return
        known = mrml.linked(node, "TemplateVolume")
        if known is not None and known.GetID() in self.presenter.volumes:
            self.presenter.set_template(known.GetID())
        elif self.presenter.template is not None:
            mrml.link(node, "TemplateVolume", self.scene.GetNodeByID(self.presenter.template))
        for event in PLACED:
            self._observers.add("template list", node, getattr(node, event), self._take_template)
        self._observers.add("template list", node, node.PointModifiedEvent, self._take_labels)
        for volume, matches in mrml.match_lists(self.scene, node).items():
            self._adopt(volume, matches)
        self.presenter.restart(self._read())
        self.arrange()

    def new(self, name: str) -> Node:
        """A new, empty template list that moves with the template volume."""
        if self.presenter.template is None:
            raise InputError(self.presenter.can_place.reason)
        volume = self.scene.GetNodeByID(self.presenter.template)
        with self._quietly():
            node = self.scene.AddNewNodeByClass(FIDUCIALS, self.scene.GenerateUniqueName(name))
            mrml.link(node, "TemplateVolume", volume)
            mrml.set_attributes(node, {"Moves": "with its volume"})
            node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
            views.style_template(node)
        self.use(node)
        return node

    def of(self, volume: str) -> Node:
        """The match list of a volume, made if need be."""
        if volume not in self.matches:
            assert self.template is not None
            target = self.scene.GetNodeByID(volume)
            with self._quietly(), views.placing_kept(self.scene):
                node = self.scene.AddNewNodeByClass(
                    FIDUCIALS, _("{list} in {volume}").format(list=self.template.GetName(), volume=target.GetName())
                )
                mrml.set_attributes(node, {"Role": "matches", "Template": self.template.GetName()})
                mrml.link(node, "TemplateList", self.template)
                mrml.link(node, "Volume", target)
                node.SetAndObserveTransformNodeID(target.GetTransformNodeID())
                views.style_matches(node)
            self._adopt(volume, node)
            self.arrange()
        return self.matches[volume]

    def forget_missing(self) -> None:
        """Let go of lists, and of lists of volumes, that are no longer in the scene."""
        for volume, node in list(self.matches.items()):
            if volume not in self.presenter.volumes or not self.scene.IsNodePresent(node):
                self._observers.remove(f"matches {volume}")
                del self.matches[volume]
                if self.scene.IsNodePresent(node):
                    views.show_only_in(node, [])
                self.presenter.amend(self.presenter.table.without_volume(volume))
        if self.template is not None and not self.scene.IsNodePresent(self.template):
            self.use(None)

    def follow(self, volume: str) -> None:
        """A volume was put under another transform: its points go with it."""
        transform = self.scene.GetNodeByID(volume).GetTransformNodeID()
        nodes = [self.matches[volume]] if volume in self.matches else []
        if self.template is not None and mrml.attribute(self.template, "Moves") and volume == self.presenter.template:
            nodes.append(self.template)
        for node in nodes:
            if node.GetTransformNodeID() != transform:
                node.SetAndObserveTransformNodeID(transform)

    def arrange(self) -> None:
        """Show every list in the views of its own volume only."""
        shown = {volume: node for volume, node in self.matches.items() if volume in self.presenter.volumes}
        if self.template is not None and self.presenter.template is not None:
            shown[self.presenter.template] = self.template
        with self._quietly():
            for volume, node in shown.items():
                views.show_only_in(node, views.views_of(self.scene, self.scene.GetNodeByID(volume)))

    def write(self, template: bool = False) -> None:
        """Make the match lists (and the template's) say what the table says."""
        table = self.presenter.table
        with self._quietly():
            if template and self.template is not None:
                ids = mrml.write_landmarks(self.template, [(r.label, r.position_lps) for r in table.landmarks])
                self.keys = dict(zip(ids, table.keys, strict=True))
            for volume, node in self.matches.items():
                mrml.write_matches(node, [(r.label, r.cell(volume)) for r in table.landmarks])

    def clear_position(self, volume: str, row: int) -> None:
        """Leave a row of a match list open for the next click; the table keeps what it says until then."""
        with self._quietly():
            mrml.set_position(self.of(volume), row, None)

    def _take_template(self) -> None:
        """A person placed, moved or removed landmarks."""
        if self.writing or self.template is None:
            return
        before, rows = self.presenter.table, mrml.read_landmarks(self.template)
        table, keys, moved = before, {}, []
        for identifier, label, where in rows:
            key = keys[identifier] = self.keys.get(identifier) or self.new_key()
            if key not in before.keys or before.row(key).position_lps != where:
                moved.append(key)
            table = table.placed(key, label, where)
        self.keys = keys
        table = LandmarkTable(tuple(table.row(key) for key in keys.values()))
        if table == before:
            return
        self.presenter.commit(table)
        self.write()
        self._edited(moved)

    def _take_labels(self) -> None:
        """A person renamed a landmark in the Markups module."""
        if self.writing or self.template is None:
            return
        table = self.presenter.table
        for identifier, label, _where in mrml.read_landmarks(self.template):
            key = self.keys.get(identifier)
            if key in table.keys and table.row(key).label != label:  # type: ignore[arg-type]
                table = table.placed(key, label, table.row(key).position_lps)  # type: ignore[arg-type]
        if table != self.presenter.table:
            self.presenter.commit(table)
            self.write()

    def _take_matches(self, volume: str) -> None:
        """A person dragged, placed or removed matches."""
        node = self.matches.get(volume)
        if self.writing or node is None:
            return
        table, found = self.presenter.table, mrml.read_matches(node)
        if len(found) != len(table):  # removing matches one by one would shift the rows: the table puts them back
            return self.write()
        for row, (_label, cell) in zip(self.presenter.table.landmarks, found, strict=True):
            if cell.position_lps is not None and cell.position_lps != row.cell(volume).position_lps:
                table = table.corrected(row.key, volume, cell.position_lps)
        self.presenter.commit(table)
        self.write()

    def _read(self) -> LandmarkTable:
        """The table that the lists hold."""
        assert self.template is not None
        columns = {volume: mrml.read_matches(node) for volume, node in self.matches.items()}
        self.keys, rows = {}, []
        for i, (identifier, label, where) in enumerate(mrml.read_landmarks(self.template)):
            key = self.keys[identifier] = self.new_key()
            cells = {volume: cell for volume, column in columns.items() for cell in _row(column, i, label)}
            rows.append(Landmark(key, label, where, cells))
        return LandmarkTable(tuple(rows))

    def _adopt(self, volume: str, node: Node) -> None:
        self.matches[volume] = node
        for event in PLACED:
            self._observers.add(f"matches {volume}", node, getattr(node, event), lambda: self._take_matches(volume))

    def new_key(self) -> int:
        """A key that no landmark has had."""
        self._next_key += 1
        return self._next_key - 1

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        before, self.writing = self.writing, True
        try:
            yield
        finally:
            self.writing = before


def template_candidates(scene: Any) -> list[Node]:
    """The point lists of a scene that can be the template's: all that do not hold matches."""
    nodes = [scene.GetNthNodeByClass(i, FIDUCIALS) for i in range(scene.GetNumberOfNodesByClass(FIDUCIALS))]
    return [n for n in nodes if mrml.attribute(n, "Role") is None and not n.GetHideFromEditors()]


def _row(column: list[tuple[str, Cell]], index: int, label: str) -> Iterator[Cell]:
    """The match in row ``index``; where a list was edited elsewhere and its labels do not agree, the one of that label."""
    if index < len(column) and column[index][0] == label:
        yield column[index][1]
    else:
        yield from [cell for name, cell in column if name == label][:1]


def in_frame(node: Node, cell: Cell) -> Cell:
    """A match whose position is in the world, with its position in a list's own frame."""
    if cell.position_lps is None:
        return cell
    return Cell(cell.status, as_position(mrml.from_world(node, [cell.position_lps])), cell.confidence, cell.note)


def as_position(points: ArrayLike) -> Position:
    """The first of some points (N, 3)."""
    x, y, z = np.asarray(points, dtype=np.float64).reshape(-1, 3)[0].tolist()
    return x, y, z
