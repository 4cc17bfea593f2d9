"""Folders that results go to, tried before the work begins rather than found wanting after it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .errors import InputError


def writable_folder(folder: Path, option: str) -> Path:
    """The folder, made where it was missing. Raises :class:`InputError`, which names the ``option`` it came from, where no file can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"Nothing can be written to the folder {folder} ({error.strerror}). Give another one with {option}.") from error
