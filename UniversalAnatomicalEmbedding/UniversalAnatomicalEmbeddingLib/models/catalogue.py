"""Which models are on this computer: the bundled ones and the user's own, listed without torch, because a panel opens before it is installed."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ..system.errors import InputError
from ..system.files import user_folder, write_atomically

PRETRAINED = Path(__file__).parents[1] / "pretrained"


@dataclass(frozen=True)
class CatalogueEntry:
    """One line of the catalogue: where a model's weights come from and the checksum they must have.

    ``source``: "bundled" with the package, or "imported" or "downloaded" into the user's model folder; ``file`` is relative to that place.
    """

    id: str
    source: str
    file: str
    sha256: str
    size: int

    @property
    def path(self) -> Path:
        """The weights file."""
        return (PRETRAINED if self.source == "bundled" else models_folder()) / self.file


def models_folder() -> Path:
    """Where the user's own models are: ``$UAE_MODELS``, or ``uae/models`` in the user's data folder."""
    return Path(os.environ.get("UAE_MODELS") or user_folder("data") / "models").expanduser()


def released_lists() -> tuple[Path, Path]:
    """The files that list published models, the package's and the user's; either may be missing."""
    return PRETRAINED / "released.json", models_folder() / "released.json"


def catalogue() -> dict[str, CatalogueEntry]:
    """The models that are here by id: the default one first, the bundled ones, the user's own."""
    bundled = bundled_entries()
    return bundled | {e.id: e for e in own_entries() if e.id not in bundled}


def bundled_entries() -> dict[str, CatalogueEntry]:
    """The models of the package by id, the default one first."""
    content = json.loads((PRETRAINED / "catalogue.json").read_text(encoding="utf-8"))
    entries = [CatalogueEntry(**e) for e in content["models"]]
    return {e.id: e for e in sorted(entries, key=lambda e: e.id != content["default"])}


def own_entries() -> list[CatalogueEntry]:
    """The models of the user's folder; InputError where its list is damaged."""
    path = models_folder() / "catalogue.json"
    if not path.is_file():
        return []
    try:
        return [CatalogueEntry(**e) for e in json.loads(path.read_text(encoding="utf-8"))["models"]]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read as a list of models ({error}). Repair it, or delete it and import the models again."
        ) from error


def register_model(entry: CatalogueEntry) -> None:
    """Enter a weights file, which lies in the user's model folder, in the catalogue there; an entry of the same id is replaced."""
    others = [asdict(e) for e in own_entries() if e.id != entry.id]
    path = models_folder() / "catalogue.json"
    with write_atomically(path) as staged:
        staged.write_text(json.dumps({"models": [*others, asdict(entry)]}, indent=1) + "\n", encoding="utf-8")
