"""Panel state without a GUI toolkit: what can be done now, if not why not, and what to do next.

A face (desktop, browser) shows what the presenter says and tells it what happened. Volumes are named by id (the MRML node id); the
presenter never touches a scene, a network or a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ..landmarks.table import Cell, History, LandmarkTable
from ..system.errors import InputError
from ..system.language import tr as _
from .readiness import Readiness

Action = Literal["prepare", "cancel", "install", "none"]


@dataclass(frozen=True)
class Gate:
    """Whether something can be done now; if not, ``reason`` says what is missing and what to do."""

    enabled: bool
    reason: str = ""


@dataclass(frozen=True)
class PrepareButton:
    """The one big button: its text, whether it can be pressed, and what pressing it does."""

    text: str
    enabled: bool
    action: Action


class PanelState:
    """What is there and what was chosen: volumes, model, landmarks, selection."""

    def __init__(self) -> None:
        self.volumes: dict[str, str] = {}
        self.template: str | None = None
        self.selected: int | None = None
        self.selected_volume: str | None = None
        self.missing: str = ""
        self.model: str | None = None
        self.readiness = Readiness(self.changed)
        self.history = History()
        self._unchecked: set[str] = set()
        self._listeners: list[Callable[[], None]] = []

    # --- listening ---------------------------------------------------------------------------------------------------------------------

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have ``listener()`` called after every change."""
        self._listeners.append(listener)

    def changed(self) -> None:
        """Tell the listeners."""
        for listener in list(self._listeners):
            listener()

    # --- volumes -----------------------------------------------------------------------------------------------------------------------

    def set_volumes(self, volumes: Mapping[str, str]) -> None:
        """The loaded volumes, id to name, in order. What was known of a volume that is gone is forgotten; the first one becomes the template
        where there is none."""
        self.volumes = dict(volumes)
        self._unchecked &= volumes.keys()
        self.readiness.keep(volumes)
        if self.template not in volumes:
            self.template = next(iter(volumes), None)
        if self.selected_volume not in self.targets:
            self.selected_volume = None
        self.changed()

    def set_template(self, volume: str | None) -> None:
        """Choose the volume in which landmarks are placed."""
        if volume is not None and volume not in self.volumes:
            raise InputError(_("There is no volume '{volume}'. It may have been closed.").format(volume=volume))
        self.template = volume
        if self.selected_volume == volume:
            self.selected_volume = None
        self.changed()

    def check_target(self, volume: str, checked: bool) -> None:
        """Tick a volume in the list of targets, or not."""
        (self._unchecked.discard if checked else self._unchecked.add)(volume)
        self.changed()

    @property
    def candidates(self) -> tuple[str, ...]:
        """The volumes that can be ticked: all but the template."""
        return tuple(v for v in self.volumes if v != self.template)

    @property
    def targets(self) -> tuple[str, ...]:
        """The ticked volumes; all candidates until a person unticks one."""
        return tuple(v for v in self.candidates if v not in self._unchecked)

    @property
    def used(self) -> tuple[str, ...]:
        """Template and targets."""
        return (() if self.template is None else (self.template,)) + self.targets

    @property
    def to_prepare(self) -> tuple[str, ...]:
        """Template and targets that are not ready."""
        return tuple(v for v in self.used if self.readiness.status(v).state != "ready")

    def set_model(self, model: str | None) -> None:
        """Choose a model (its id or file); every volume has to be prepared with it."""
        if model != self.model:
            self.model = model
            self.readiness.reset()

    def set_missing(self, sentence: str) -> None:
        """What has to be installed first, "" when nothing."""
        self.missing = sentence
        self.changed()

    # --- landmarks ---------------------------------------------------------------------------------------------------------------------

    @property
    def table(self) -> LandmarkTable:
        """Landmarks and their matches."""
        return self.history.present

    def commit(self, table: LandmarkTable) -> None:
        """A person's change of the table, one step of undo."""
        self.history.commit(table)
        self._reselect()

    def amend(self, table: LandmarkTable) -> None:
        """Matches that follow from the last step."""
        self.history.amend(table)
        self._reselect()

    def restart(self, table: LandmarkTable) -> None:
        """Another point list or scene: its table, and nothing to undo."""
        self.history = History(table)
        self._reselect()

    def undo(self) -> None:
        """Take back the last change of the table."""
        self.history.undo()
        self._reselect()

    def redo(self) -> None:
        """Repeat the change last taken back."""
        self.history.redo()
        self._reselect()

    def select(self, key: int | None, volume: str | None = None) -> None:
        """Select a landmark, and the target whose match the buttons act on (None: the template column)."""
        self.selected = key if key in self.table.keys else None
        self.selected_volume = volume if volume in self.targets else None
        self.changed()

    def step(self, by: int) -> int | None:
        """Select the next (1) or previous (-1) landmark, round the ends; returns its key."""
        keys = self.table.keys
        if keys:
            at = keys.index(self.selected) + by if self.selected in keys else 0 if by > 0 else -1
            self.select(keys[at % len(keys)], self.selected_volume)
        return self.selected

    @property
    def selected_cell(self) -> Cell | None:
        """The selected match, None where no match is selected."""
        if self.selected is None or self.selected_volume is None:
            return None
        return self.table.row(self.selected).cell(self.selected_volume)

    def _reselect(self) -> None:
        if self.selected not in self.table.keys:
            self.selected = self.table.keys[-1] if self.table.keys else None
        self.changed()


class Presenter(PanelState):
    """What a panel shows: what can be done now, and why not. Faces register with :meth:`on_change` and read everything anew when called."""

    @property
    def prepare_button(self) -> PrepareButton:
        """Text, state and action of the button that prepares and cancels."""
        if self.readiness.busy:
            return PrepareButton(_("Cancelling...") if self.readiness.cancelling else _("Cancel"), not self.readiness.cancelling, "cancel")
        if self.missing:
            return PrepareButton(_("Install what is missing..."), True, "install")
        lacking = _lacking(self)
        if lacking:
            return PrepareButton(lacking, False, "none")
        count = len(self.to_prepare)
        if count == 0:
            return PrepareButton(_("All volumes are prepared"), False, "none")
        text = _("Prepare 1 volume") if count == 1 else _("Prepare {count} volumes").format(count=count)
        return PrepareButton(text, True, "prepare")

    @property
    def can_import(self) -> Gate:
        """Importing a weights file, which cannot be read before the packages are installed."""
        return Gate(False, self.missing) if self.missing else Gate(True)

    @property
    def can_place(self) -> Gate:
        """Placing needs a template only; a point placed before the volumes are ready is matched as soon as they are."""
        return Gate(True) if self.template is not None else Gate(False, _("Choose a template volume first."))

    @property
    def can_match(self) -> Gate:
        """Matching the whole list."""
        if self.missing:
            return Gate(False, self.missing)
        if not any(r.position_lps is not None for r in self.table.landmarks):
            return Gate(False, _("Place a landmark in the template, or load a list, first."))
        return self.can_search

    @property
    def can_search(self) -> Gate:
        """Looking up any position of the template in a target (matching, live cursor)."""
        if self.template is None:
            return self.can_place
        if not self.readiness.status(self.template).usable:
            return Gate(False, _("Prepare the template {name} first.").format(name=self.volumes[self.template]))
        if not any(self.readiness.status(v).usable for v in self.targets):
            return Gate(False, _("Prepare a target volume first."))
        return Gate(True)

    @property
    def can_overlay(self) -> Gate:
        """The similarity map of the selected landmark."""
        if self.selected is None or self.table.row(self.selected).position_lps is None:
            return Gate(False, _("Select a landmark first."))
        return self.can_search

    @property
    def can_accept(self) -> Gate:
        """Confirming the selected match."""
        cell = self.selected_cell
        if cell is None:
            return self.can_correct
        if cell.status in ("waiting", "failed"):
            return Gate(False, _("There is no match yet."))
        return Gate(False, _("Already settled.")) if cell.status in ("accepted", "corrected") else Gate(True)

    @property
    def can_reject(self) -> Gate:
        """Marking the selected match as wrong."""
        cell = self.selected_cell
        if cell is None:
            return self.can_correct
        if cell.position_lps is None:
            return Gate(False, _("There is no point to reject."))
        return Gate(False, _("Already rejected.")) if cell.status == "rejected" else Gate(True)

    @property
    def can_correct(self) -> Gate:
        """Saying by a click where the selected landmark is in the selected target."""
        return Gate(True) if self.selected_cell is not None else Gate(False, _("Select a match in the table first."))

    @property
    def can_delete(self) -> Gate:
        """Deleting the selected landmark everywhere."""
        return Gate(True) if self.selected is not None else Gate(False, _("Select a landmark first."))

    @property
    def can_export(self) -> Gate:
        """Writing the landmarks of every volume to files."""
        return Gate(True) if len(self.table) else Gate(False, _("There is no landmark to export."))

    @property
    def next_step(self) -> str:
        """One sentence that tells a newcomer what to do now."""
        return _next_step(self)


def _next_step(panel: Presenter) -> str:
    if panel.missing:
        return panel.missing
    lacking = _lacking(panel)
    if lacking:
        return lacking + "."
    status = {v: panel.readiness.status(v) for v in panel.used}
    if panel.readiness.busy:
        done = sum(s.state == "ready" for s in status.values())
        return _("Preparing: {done} of {count} volumes are ready. Landmarks can be placed meanwhile.").format(done=done, count=len(status))
    for volume, s in status.items():
        if s.state == "failed":
            return _("{name} could not be prepared: {reason}").format(name=panel.volumes[volume], reason=s.reason)
    for volume, s in status.items():
        if s.state == "stale":
            return _("{name}: {reason}. Press Prepare to bring it up to date.").format(name=panel.volumes[volume], reason=s.reason)
    if panel.to_prepare:
        return _("Press Prepare: each volume is embedded once, then every click answers at once.")
    return _review(panel) if len(panel.table) else _("Press Place landmark and click in the template.")


def _lacking(panel: Presenter) -> str:
    if len(panel.volumes) < 2:
        return _("Load another volume as the target") if panel.volumes else _("Load a template and a target volume")
    if panel.template is None:
        return _("Choose a template volume")
    return "" if panel.targets else _("Tick a target volume")


def _review(panel: Presenter) -> str:
    cells = [landmark.cell(v).status for landmark in panel.table.landmarks for v in panel.targets]
    if "waiting" in cells:
        return _("Press Match all to find the landmarks that are still waiting.")
    uncertain, failed = cells.count("uncertain"), cells.count("failed")
    if uncertain:
        return _("Uncertain matches: {count}. Look, then accept, drag or reject.").format(count=uncertain)
    if failed:
        return _("Failed matches: {count}. The table says why.").format(count=failed)
    return _("Review the matches: accept, drag or reject.") if "found" in cells else _("All matches are settled; export them.")
