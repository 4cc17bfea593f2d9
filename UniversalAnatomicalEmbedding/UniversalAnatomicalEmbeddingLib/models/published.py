"""Models that others have published: what they are, and how they get into the user's model folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..images.preprocess import Intensity
from ..system.errors import InputError
from ..system.files import sha256
from ..system.progress import Progress, silent
from .catalogue import CatalogueEntry, catalogue, models_folder, register_model, released_lists
from .checkpoints import Checkpoint, Family, read_checkpoint
from .download import download
from .model import Model, ModelCard, load_model, save_weights

RELEASED_INTENSITY = Intensity(((-1024.0, -50.0), (3071.0, 205.0)), (0.2, 99.8), (-50.0, 205.0), mr_foreground=False, mr_rule="percentiles")


@dataclass(frozen=True)
class Release:
    """A published model: its file and the checksum that it must have ("": not known), where it is ("" : no direct address is known), its terms.

    ``family`` "sam", "uae-s" or "uae-m" for a checkpoint in the layout of the SAM and UAE code, which is converted; "" for a ``.safetensors``
    file with its own card. The rest goes into the card.
    """

    id: str
    title: str
    file: str
    sha256: str
    licence: str
    url: str = ""
    page: str = ""
    family: str = ""
    modality: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    citation: str = ""
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """A model that is now in the catalogue, and what its owner should know about it."""

    entry: CatalogueEntry
    notices: tuple[str, ...]


def releases() -> dict[str, Release]:
    """The published models by id; ``released.json`` in the user's model folder, of the same form, may add some."""
    found: dict[str, Release] = {}
    for path in released_lists():
        if path.is_file():
            try:
                entries = [
                    Release(**{**e, **{k: tuple(e.get(k, ())) for k in ("modality", "regions")}})
                    for e in json.loads(path.read_text(encoding="utf-8"))["models"]
                ]
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise InputError(f"{path} cannot be read as a list of published models ({error}). Repair or delete it.") from error
            found = {**{e.id: e for e in entries}, **found}
    return found


def import_model(path: Path, family: Family | None = None, name: str | None = None) -> Imported:
    """Bring a weights file into the user's folder: a ``.safetensors`` file with a model card as it is, a SAM or UAE checkpoint converted.

    ``name`` is the id to give it; None: that of its card, or what :func:`import_checkpoint` gives it. Nothing is written when it is refused.
    """
    if not _has_card(path):
        return import_checkpoint(path, family, name)
    if family is not None:
        raise InputError(f"{path} has a model card that says what it is. Leave out --family.")
    return _import_with_card(path, name)


def import_checkpoint(path: Path, family: Family | None = None, name: str | None = None) -> Imported:
    """Convert a released SAM or UAE checkpoint, or a copy trained further, to a model in the user's folder; nothing is written when it is refused.

    ``name`` is the id to give it; None: that of the release it is by its checksum or file name, else the file's name.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file. Give the checkpoint file that you downloaded, for example SAM.pth.")
    known = releases()
    digest = sha256(path)
    verified = next((r for r in known.values() if r.sha256 == digest and r.family), None)
    if verified and family not in (None, verified.family):
        raise InputError(f"{path} is the released {verified.file}, which is {verified.family}, not {family}. Leave out --family.")
    named = next((r for r in known.values() if r.file == path.name and r.family), None)
    claimed = verified or (named if family in (None, named.family if named else None) else None)
    hint: Any = family or (verified.family if verified else None)
    checkpoint = read_checkpoint(path, hint)
    like = known[checkpoint.family]
    same = claimed is not None and claimed.family == checkpoint.family
    name = _checked_id(name or (claimed.id if same and claimed else _slug(path)))
    _refuse_other(name, lambda other: other.card.training.get("sha256") == digest)
    notices = [] if verified else [_unverified(path, digest, like)]
    if not verified and family is None:
        notices.append(f"Taken for {checkpoint.family}, since {checkpoint.reason}. Where that is wrong: uae models import FILE --family.")
    card = _card(checkpoint, like, name, path.name, digest, verified is not None)
    return Imported(_store(checkpoint.weights, card), tuple(notices))


def fetch(release: Release, progress: Progress = silent, cancel: Event | None = None) -> Imported:
    """Download a published model into the user's folder, check it, convert it where needed. Its terms must have been accepted before.

    Raises :class:`InputError` with what to do by hand where there is no address or no connection.
    """
    folder = models_folder()
    by_hand = f"get {release.file} from {release.page or release.url} and run: uae models import {release.file}"
    if not release.family:
        by_hand = f"get {release.url} elsewhere, put it into {folder} and run the same command again."
    if not release.url or not release.sha256:
        raise InputError(f"No direct address with a known checksum is listed for {release.id}; {by_hand}")
    if Path(release.file).name != release.file:
        raise InputError(f"The entry {release.id} names the file {release.file!r}; it must be a plain file name. Repair released.json.")
    path = download(release.url, folder / release.file, release.sha256, by_hand, progress, cancel)
    if release.family:
        try:
            return import_checkpoint(path, name=release.id)
        finally:
            path.unlink(missing_ok=True)
    if load_model(path).card.id != release.id:
        path.unlink()
        raise InputError(f"{release.url} holds another model than {release.id}. It was deleted; tell whoever keeps the entry.")
    entry = CatalogueEntry(_checked_id(release.id), "downloaded", release.file, release.sha256, path.stat().st_size)
    register_model(entry)
    return Imported(entry, ())


def _has_card(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return "card" in (file.metadata() or {})
    except Exception:  # no .safetensors file: reading it as a checkpoint says what it is
        return False


def _import_with_card(path: Path, name: str | None) -> Imported:
    model = load_model(path)
    card = replace(model.card, id=_checked_id(name or model.card.id))
    _refuse_other(card.id, lambda other: other.fingerprint() == model.fingerprint())
    here = catalogue().get(card.id)
    if here is not None and here.source == "bundled":  # the same weights: nothing to import
        return Imported(here, ())
    return Imported(_store(load_file(path), card), ())


def _store(weights: dict[str, Tensor], card: ModelCard) -> CatalogueEntry:
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{card.id}.safetensors"
    save_weights(weights, card, path)
    entry = CatalogueEntry(card.id, "imported", path.name, sha256(path), path.stat().st_size)
    register_model(entry)
    return entry


def _card(checkpoint: Checkpoint, like: Release, name: str, file: str, digest: str, verified: bool) -> ModelCard:
    return ModelCard(
        id=name,
        title=like.title if verified else f"{like.family.upper()} checkpoint {file}",
        family="resnet3d18-fpn",
        modality=like.modality,
        regions=like.regions,
        licence=like.licence if verified else f"Not known; ask whoever gave you {file}. If it comes from a released one: {like.licence}",
        citation=like.citation,
        network={"semantic": checkpoint.family == "uae-s"},
        intensity=RELEASED_INTENSITY,
        pipeline="released",
        training={**like.training, "checkpoint": file, "sha256": digest, "verified": verified},
    )


def _unverified(path: Path, digest: str, like: Release) -> str:
    expected = f"the released {like.file} has {like.sha256}" if like.sha256 else f"the checksum of the released {like.file} is not known"
    return f"Unverified: {path.name} has SHA-256 {digest}; {expected}."


def _refuse_other(name: str, same: Callable[[Model], bool]) -> None:
    """InputError where the id belongs to another model; one whose file is missing or damaged may be replaced."""
    entry = catalogue().get(name)
    if entry is None or (entry.source != "bundled" and not (entry.path.is_file() and sha256(entry.path) == entry.sha256)):
        return
    if not same(load_model(name)):
        raise InputError(
            f"There is already another model '{name}' ({entry.path}). Give this one another name (uae models import FILE --id NAME), or delete "
            "that file."
        )


def _checked_id(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise InputError(f"'{name}' cannot be the id of a model; use up to 64 letters, digits, '.', '_' and '-', a letter or digit first.")
    return name


def _slug(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:64] or "imported"
