"""Where each volume stands on its way to being searchable: not prepared, preparing, ready, stale or failed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from ..system.language import tr as _

State = Literal["not prepared", "preparing", "ready", "stale", "failed"]


@dataclass(frozen=True)
class VolumeStatus:
    """Where a volume stands.

    ``usable``: points can be matched in it now (ready, or stale because it was only moved). ``reason``: why it failed or is stale.
    ``fraction`` 0..1, ``step`` and ``seconds_left`` (None: not known yet) while preparing.
    """

    state: State = "not prepared"
    usable: bool = False
    reason: str = ""
    fraction: float = 0.0
    step: str = ""
    seconds_left: float | None = None

    @property
    def text(self) -> str:
        """One line for the list of volumes."""
        if self.state == "preparing":
            percent = f"{self.fraction:.0%}"
            if self.seconds_left is None:
                return _("preparing {percent}").format(percent=percent)
            return _("preparing {percent}, {time} left").format(percent=percent, time=duration(self.seconds_left))
        word = {"not prepared": _("not prepared"), "ready": _("ready"), "stale": _("stale"), "failed": _("failed")}[self.state]
        return f"{word}: {self.reason}" if self.reason else word


class Readiness:
    """The status of every volume, by id; ``changed`` is called after every change."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.cancelling = False
        self._status: dict[str, VolumeStatus] = {}
        self._taken: dict[str, str] = {}
        self._changed = changed

    def status(self, volume: str) -> VolumeStatus:
        """Where a volume stands."""
        return self._status.get(volume, VolumeStatus())

    def taken(self, volume: str) -> str:
        """What the volume was taken for when it was embedded, a line for people ("CT, guessed"); "" before."""
        return self._taken.get(volume, "")

    def identified(self, volume: str, taken: str) -> None:
        """The worker has said what it takes a volume for (told to nobody: that it is ready follows)."""
        self._taken[volume] = taken

    def keep(self, volumes: Collection[str]) -> None:
        """Forget all volumes but these (told to nobody: the caller does)."""
        self._status = {v: s for v, s in self._status.items() if v in volumes}
        self._taken = {v: t for v, t in self._taken.items() if v in volumes}

    def reset(self) -> None:
        """No volume is prepared any more; what is being prepared goes on, what failed stays failed."""
        self._status = {v: s for v, s in self._status.items() if s.state in ("preparing", "failed")}
        self._changed()

    @property
    def busy(self) -> bool:
        """Whether volumes are being prepared."""
        return any(s.state == "preparing" for s in self._status.values())

    def preparing(self, volumes: Sequence[str]) -> None:
        """These volumes wait for their turn in the worker."""
        self.cancelling = False
        self._status |= {v: VolumeStatus("preparing", step=_("waiting")) for v in volumes}
        self._changed()

    def progress(self, volume: str, fraction: float, step: str, seconds_left: float | None = None) -> None:
        """The worker reports on a volume."""
        if self.status(volume).state == "preparing":
            self._set(volume, VolumeStatus("preparing", fraction=min(max(fraction, 0.0), 1.0), step=step, seconds_left=seconds_left))

    def ready(self, volume: str) -> None:
        """A volume is embedded and can be matched."""
        self._set(volume, VolumeStatus("ready", usable=True))

    def failed(self, volume: str, reason: str) -> None:
        """A volume could not be embedded."""
        self._set(volume, VolumeStatus("failed", reason=reason))

    def stale(self, volume: str, reason: str, usable: bool) -> None:
        """A ready volume has changed since; ``usable``: its points are still exact (it was moved), only a new embedding would be better."""
        if self.status(volume).state in ("ready", "stale"):
            self._set(volume, VolumeStatus("stale", usable=usable, reason=reason))

    def cancel_requested(self) -> None:
        """The worker has been told to stop."""
        self.cancelling = self.busy
        self._changed()

    def stopped(self, reason: str = "") -> None:
        """The worker has stopped; volumes it had not finished are as before, or failed where there is a ``reason`` (a crash)."""
        self.cancelling = False
        left = VolumeStatus("failed", reason=reason) if reason else VolumeStatus()
        self._status = {v: left if s.state == "preparing" else s for v, s in self._status.items()}
        self._changed()

    def forget(self, volume: str) -> None:
        """A volume's embedding is gone."""
        self._set(volume, VolumeStatus())

    def _set(self, volume: str, status: VolumeStatus) -> None:
        if status != self.status(volume):
            self._status[volume] = status
            self._changed()


def duration(seconds: float) -> str:
    """A time left as people say it: "8 s", "3 min"."""
    if seconds < 90:
        return _("{count} s").format(count=max(1, round(seconds)))
    return _("{count} min").format(count=round(seconds / 60))
