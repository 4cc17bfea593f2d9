"""Files that appear complete or not at all, their checksums, the user's folders for caches and data,
and folders that results go to, tried before the work begins rather than found wanting after it."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "uae"
Kind = Literal["cache", "data"]
_ELSEWHERE: dict[Kind, tuple[str, str, str]] = {  # variable of all systems but Windows, Linux, macOS
    "cache": ("XDG_CACHE_HOME", "~/.cache", "~/Library/Caches"),
    "data": ("XDG_DATA_HOME", "~/.local/share", "~/Library/Application Support"),
}


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """The place to write ``path`` to; what lies there at the end moves to ``path`` in one step.

    The place has the same name, in a folder of its own beside ``path``, so that a writer that goes
    by the extension is content. Further files written there (voxels beside their header) move
    first. After an error nothing is left, and what ``path`` held before stays. The folder of
    ``path`` must exist; raises OSError where it does not, or where nothing can be written to it.
    """
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as folder:
        staged = Path(folder) / path.name
        yield staged
        for file in sorted(Path(folder).iterdir(), key=lambda f: f == staged):
            os.replace(file, path.parent / file.name)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(parts: Iterable[str | bytes | NDArray]) -> str:
    """SHA-256 of texts (as UTF-8), bytes and the elements of arrays, one after the other.

    Neither where a part ends nor the shape or type of an array is told apart: add them as text.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        elif isinstance(part, bytes):
            digest.update(part)
        else:
            digest.update((part if part.flags.c_contiguous else part.copy("C")).data)
    return digest.hexdigest()


def user_folder(kind: Kind) -> Path:
    """Where the system keeps what this package puts away for one user; it is not made.

    The same folder with and without the package platformdirs, which a Slicer may lack.
    """
    try:
        from platformdirs import PlatformDirs
    except ImportError:
        return _folder_without_platformdirs(kind)
    folders = PlatformDirs(NAME, appauthor=False, opinion=False)
    return folders.user_cache_path if kind == "cache" else folders.user_data_path


def _folder_without_platformdirs(kind: Kind) -> Path:
    variable, linux, macos = _ELSEWHERE[kind]
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        base = os.environ.get(variable) or (macos if sys.platform == "darwin" else linux)
    return Path(base).expanduser() / NAME


def writable_folder(folder: Path, option: str) -> Path:
    """The folder, made where it was missing.

    Raises :class:`InputError`, which names the ``option`` it came from, where no file can be
    written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        reason = f"Nothing can be written to the folder {folder} ({error.strerror})"
        raise InputError(f"{reason}. Give another one with {option}.") from error
