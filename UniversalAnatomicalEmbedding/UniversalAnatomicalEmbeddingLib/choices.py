"""What a model chooser shows, read without torch: a panel must open before anything is installed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError

PRETRAINED = Path(__file__).parent / "pretrained"
LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class ModelChoice:
    """A model that can be chosen. ``model`` is what a :class:`.session.Session` takes: a catalogue id or the path of a weights file."""

    model: str
    id: str
    title: str
    modality: tuple[str, ...]
    regions: tuple[str, ...]
    licence: str
    size: int
    path: Path

    @property
    def text(self) -> str:
        """One line: title, modality, size."""
        return f"{self.title} ({', '.join(self.modality).upper()}, {self.size / 1e6:.0f} MB)"

    @property
    def details(self) -> str:
        """What it covers and under which licence."""
        return f"{self.id}: {', '.join(self.modality).upper()}; {', '.join(self.regions) or 'regions not stated'}; licence {self.licence or 'not stated'}"


def model_choices(imported: Iterable[str | Path] = ()) -> list[ModelChoice]:
    """The models of the catalogue that are on this computer, the default one first, then imported weights files that are still there."""
    content = json.loads((PRETRAINED / "catalogue.json").read_text(encoding="utf-8"))
    entries = sorted(content["models"], key=lambda e: e["id"] != content["default"])
    found = [read_choice(PRETRAINED / e["file"], e["id"]) for e in entries if (PRETRAINED / e["file"]).is_file()]
    return found + [read_choice(path) for path in imported if Path(path).is_file()]


def read_choice(path: str | Path, model: str | None = None) -> ModelChoice:
    """The choice that a ``.safetensors`` file is, from the card in its header; InputError where it has none."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(LARGEST_HEADER, path.stat().st_size):
                raise ValueError("its header is longer than the file")
            card = json.loads(json.loads(file.read(length))["__metadata__"]["card"])
        title, licence = str(card["title"]), str(card["licence"])
        covers = tuple(map(str, card["modality"])), tuple(map(str, card["regions"]))
        return ModelChoice(model or str(path), str(card["id"]), title, *covers, licence, path.stat().st_size, path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is no weights file with a model card (.safetensors made by training.export or 'uae models import'). Convert it first."
        ) from error
