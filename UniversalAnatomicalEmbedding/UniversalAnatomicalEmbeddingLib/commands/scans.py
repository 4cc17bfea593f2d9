"""Scans on the command line: read them, say what they are taken for, and show what a file holds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..system.errors import InputError


def read(path: str, args: argparse.Namespace) -> Any:
    """Read a scan; FOLDER#UID names one series of a DICOM folder that holds several."""
    from ..images.volume import read_volume

    folder, _, series = path.rpartition("#")
    if folder and not Path(path).exists():
        return read_volume(folder, modality(args), series)
    return read_volume(path, modality(args))


def identified(path: str, args: argparse.Namespace, name: str = "") -> Any:
    """A scan as it is taken (:class:`.modality.Identified`), under another name where one is
    given."""
    from ..images.modality import identify

    volume = read(path, args)
    return identify(replace(volume, name=name or volume.name))


def scan(path: str, args: argparse.Namespace, name: str = "") -> Any:
    """Read a scan, and say what it is taken for and how that is known."""
    found = identified(path, args, name)
    print(f"{found.volume.name}: {found.text}")
    return found.volume


def modality(args: argparse.Namespace) -> Any:
    """What ``--modality`` says of all scans; None: each scan's own."""
    return None if args.modality == "auto" else args.modality


def info(args: argparse.Namespace) -> int:
    """Print what a scan file holds."""
    from ..images.modality import identify, stated

    volume = read(args.image, args)
    grid = volume.grid
    try:
        taken = identify(volume).text
    except InputError:  # what the models cannot take can still be looked at
        taken = stated(volume)
    low, high = float(volume.array.min()), float(volume.array.max())
    print(f"name        {volume.name}")
    print(f"modality    {taken}")
    print(f"size xyz    {' x '.join(str(n) for n in grid.shape_zyx[::-1])}, {volume.array.dtype}")
    print(f"spacing     {' x '.join(f'{s:.4g}' for s in grid.spacing_xyz)} mm")
    print(f"intensities {low:g} .. {high:g}")
    print(f"extent LPS  {vector(grid.corners().min(0))} .. {vector(grid.corners().max(0))} mm")
    print("index (x, y, z) to LPS mm:")
    print("\n".join("  " + "  ".join(f"{v:12.5f}" for v in line) for line in grid.affine[:3]))
    return 0


def vector(values: Sequence[float]) -> str:
    """Millimetres with a digit after the point."""
    return ", ".join(f"{v:.1f}" for v in values)
