"""The command ``uae models``: list and show the models, and get published ones."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..system.errors import InputError
from ..system.progress import Progress

Bar = Callable[[str], AbstractContextManager[Progress]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("action", choices=["list", "show", "import", "fetch"])
    parser.add_argument("id", nargs="?", metavar="ID|FILE", help="show, fetch: a model's id; import: a weights file")
    parser.add_argument("--family", choices=["auto", "sam", "uae-s", "uae-m"], default="auto", help="import: what the checkpoint is")
    parser.add_argument("--id", dest="name", metavar="ID", help="import: the id to give it")
    parser.add_argument("--accept-licence", action="store_true", help="fetch: accept the licence shown without being asked")


def run(args: argparse.Namespace, bar: Bar) -> int:
    """Run the action; ``bar`` makes a progress bar."""
    if args.action == "list":
        _list()
    elif args.action == "show":
        from ..models.model import load_model

        print(load_model(args.id).card.to_json())
    elif args.action == "import":
        _import(args)
    else:
        _fetch(args, bar)
    return 0


def _list() -> None:
    from ..models.catalogue import catalogue
    from ..models.model import load_model
    from ..models.published import releases

    entries = catalogue()
    for n, entry in enumerate(entries.values()):
        card = load_model(entry.id).card
        default = " (default)" if n == 0 else ""
        size = f"{entry.size / 2**20:.1f} MiB"
        print(f"{entry.id}{default}: {card.title}; {', '.join(card.modality).upper()}; {size}; {card.licence}; {entry.source}")
    for release in releases().values():
        if release.id not in entries:
            how = f"uae models fetch {release.id}" if release.url and release.sha256 else f"uae models import {release.file}"
            print(f"{release.id} (not here): {release.title}; {', '.join(release.modality).upper()}; {how}")


def _import(args: argparse.Namespace) -> None:
    from ..models.published import import_model

    if args.id is None:
        raise InputError("Which file? Write: uae models import FILE, for example SAM.pth.")
    _print_imported(import_model(Path(args.id), None if args.family == "auto" else args.family, args.name))


def _fetch(args: argparse.Namespace, bar: Bar) -> None:
    from ..models.published import fetch, releases

    known = releases()
    if args.id is None:
        raise InputError(f"Which model? Write: uae models fetch ID, with one of {', '.join(known)}.")
    if args.id not in known:
        raise InputError(f"No published model '{args.id}'; there are {', '.join(known)}.")
    release = known[args.id]
    print(f"{release.title}\nFrom: {release.url or release.page}\nLicence: {release.licence}")
    if release.url and not args.accept_licence:
        _ask()
    with bar(release.id) as progress:
        imported = fetch(release, progress)
    _print_imported(imported)


def _ask() -> None:
    if not sys.stdin.isatty():
        raise InputError("The licence must be accepted: read it above and on the page it names, then add --accept-licence.")
    if input("Do you accept it? [y/N] ").strip().lower() not in ("y", "yes"):
        raise InputError("Not accepted, so nothing was downloaded.")


def _print_imported(imported: Any) -> None:
    for notice in imported.notices:
        print(notice)
    entry = imported.entry
    print(f"{entry.id}: {entry.path}, {entry.size / 2**20:.0f} MiB; use it with --model {entry.id}")
