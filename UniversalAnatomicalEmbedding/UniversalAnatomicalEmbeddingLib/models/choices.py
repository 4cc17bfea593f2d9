"""What a model chooser shows, read without torch: a panel must open before anything is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from ..system.errors import InputError
from ..system.language import tr as _
from .catalogue import CatalogueEntry, bundled_entries, own_entries

LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class ModelChoice:
    """A model that can be chosen: its catalogue id, what it is, and the size of its file in bytes."""

    id: str
    title: str
    modality: tuple[str, ...]
    regions: tuple[str, ...]
    licence: str
    size: int

    @property
    def text(self) -> str:
        """One line: title, modality, size."""
        return f"{self.title} ({', '.join(self.modality).upper()}, {self.size / 1e6:.0f} MB)"

    @property
    def details(self) -> str:
        """What it covers and under which licence."""
        return _("{id}: {modality}; {regions}; licence {licence}").format(
            id=self.id,
            modality=", ".join(self.modality).upper(),
            regions=", ".join(self.regions) or _("regions not stated"),
            licence=self.licence or _("not stated"),
        )


def model_choices(report: Callable[[InputError], None]) -> list[ModelChoice]:
    """The models of the catalogue that are on this computer, the default one first, the user's own last.

    What of the user's own cannot be read is left out and told to ``report``.
    """
    bundled = bundled_entries()
    entries = [e for e in bundled.values() if e.path.is_file()]
    try:
        entries += [e for e in own_entries() if e.id not in bundled and e.path.is_file()]
    except InputError as error:
        report(error)
    choices = []
    for entry in entries:
        try:
            choices.append(read_choice(entry))
        except InputError as error:
            report(error)
    return choices


def read_choice(entry: CatalogueEntry) -> ModelChoice:
    """The choice that an entry of the catalogue is, from the card in the header of its file; InputError where it has none."""
    path = entry.path
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(LARGEST_HEADER, path.stat().st_size):
                raise ValueError("its header is longer than the file")
            card = json.loads(json.loads(file.read(length))["__metadata__"]["card"])
        title, licence = str(card["title"]), str(card["licence"])
        covers = tuple(map(str, card["modality"])), tuple(map(str, card["regions"]))
        return ModelChoice(entry.id, title, *covers, licence, path.stat().st_size)
    except OSError as error:
        raise InputError(_("{path} cannot be read: {reason}.").format(path=path, reason=error.strerror)) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            _("{path} is no weights file with a model card, so the model {id} is not listed. Delete it and import the model again.").format(
                path=path, id=entry.id
            )
        ) from error
