"""Files that a browser may reach: a folder nothing leads out of, and uploads with harmless names, limited size and an end."""

from __future__ import annotations

import re
import shutil
import tempfile
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from UniversalAnatomicalEmbeddingLib.images import EXTENSIONS
from UniversalAnatomicalEmbeddingLib.system import InputError

LANDMARKS = (".mrk.json", ".fcsv", ".csv")
LONGEST_NAME = 100
HEADER_BYTES = 1 << 20
_BATCH = re.compile("[a-z0-9]{8,32}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# A header field that names another file, in any spelling that a reader might accept, and the end of a header without one.
_NAMED = {
    "nrrd": re.compile(rb"^[ \t]*data ?file[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE),
    "meta": re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:][ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE),
}
_END = {"nrrd": re.compile(rb"\r?\n\r?\n"), "meta": re.compile(rb"^ElementDataFile *= *\S", re.MULTILINE)}
_HEADERS = {".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "meta", ".mhd": "meta"}


@dataclass(frozen=True)
class Entry:
    """One line of a folder listing: the path below the root, with slashes, and whether it is a folder."""

    path: str
    is_folder: bool


class Root:
    """A folder whose scans may be opened from the browser; nothing outside it can be reached, by ``..``, by a link or through a header."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise InputError(f"{folder} is no folder. Give --root the folder that holds the scans.")

    def find(self, relative: str) -> Path:
        """The existing file or folder of that path below the root, links resolved; InputError for anything outside or missing."""
        try:
            path = (self.folder / relative.replace("\\", "/").lstrip("/")).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            raise InputError(f"There is no '{relative}' in the folder of this server.") from None
        if not path.is_relative_to(self.folder):
            raise InputError(f"There is no '{relative}' in the folder of this server.")
        return path

    def list(self, relative: str = "") -> list[Entry]:
        """Folders and scans in a folder, folders first; what leads outside is not shown."""
        folder = self.find(relative)
        if not folder.is_dir():
            raise InputError(f"'{relative}' is no folder.")
        found = []
        for item in folder.iterdir():
            if item.name.startswith(".") or not self._inside(item):
                continue
            if item.is_dir() or item.name.lower().endswith(EXTENSIONS):
                found.append(Entry((PurePosixPath(relative) / item.name).as_posix().lstrip("/"), item.is_dir()))
        return sorted(found, key=lambda e: (not e.is_folder, e.path.lower()))

    def scan(self, relative: str) -> Path:
        """A scan file or DICOM folder that may be read: it and everything that reading it would touch lies inside."""
        path = self.find(relative)
        inner = [path] if path.is_file() else [item for item in path.rglob("*") if not item.is_dir()]
        if not all(self._inside(item) for item in inner):
            raise InputError(f"'{relative}' holds links that lead out of the folder of this server, so it is not opened.")
        if path.is_file():
            require_self_contained(path)
        return path

    def _inside(self, item: Path) -> bool:
        try:
            return item.resolve(strict=True).is_relative_to(self.folder)
        except (OSError, RuntimeError):
            return False


class Uploads:
    """A temporary folder for files sent by the browser, one sub-folder a batch; :meth:`close` removes it with everything in it."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.folder = Path(tempfile.mkdtemp(prefix="uae-web-"))
        self._used: dict[str, int] = {}

    async def receive(self, batch: str, name: str, announced: int | None, chunks: AsyncIterator[bytes]) -> Path:
        """Store one file. ``announced``: its size as the sender says, refused before anything is read when it is over the limit.

        Raises :class:`InputError` for a name that is no scan, a batch that is none, and as soon as all batches together exceed the limit;
        nothing is left of a file that was not stored to its end.
        """
        folder = self._batch_folder(batch)
        path = _free(folder, clean_name(name))
        if announced is not None and announced > self._left():
            raise self._too_large(name)
        folder.mkdir(exist_ok=True)
        size = 0
        try:
            with path.open("xb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self._left():
                        raise self._too_large(name)
                    file.write(chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._used[batch] = self._used.get(batch, 0) + size
        return path

    def scans(self, batch: str) -> list[Path]:
        """What a finished batch holds: scan and landmark files, or the folder itself where there are others (a DICOM series)."""
        folder = self._batch_folder(batch)
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        if not files:
            raise InputError("No file arrived. Choose a scan, or the files of one DICOM series.")
        known = [f for f in files if f.name.lower().endswith((*EXTENSIONS, *LANDMARKS))]
        for file in known:
            require_self_contained(file)
        return known or [folder]

    def discard(self, batch: str) -> None:
        """Forget the files of a batch: what was read from them is in memory."""
        shutil.rmtree(self._batch_folder(batch), ignore_errors=True)
        self._used.pop(batch, None)

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _left(self) -> int:
        return self.limit_bytes - sum(self._used.values())

    def _too_large(self, name: str) -> InputError:
        return InputError(
            f"{clean_name(name)} is larger than the {self.limit_bytes / 2**20:.0f} MiB this server takes. Put it on the server."
        )

    def _batch_folder(self, batch: str) -> Path:
        if not _BATCH.fullmatch(batch):
            raise InputError("This upload has no valid number. Load the page again.")
        return self.folder / batch


def clean_name(name: str) -> str:
    """A file name without folders, control characters or anything with a meaning to a file system; the ending is kept.

    Raises :class:`InputError` when nothing is left.
    """
    base = unicodedata.normalize("NFKC", name).replace("\\", "/").rpartition("/")[2]
    base = re.sub(r"[^\w.+()= -]", "_", base).strip(" .")
    if not base.strip("_"):
        raise InputError("The file has no usable name. Rename it and try again.")
    if _RESERVED.fullmatch(base):
        base = "_" + base
    ending = next((e for e in (*EXTENSIONS, *LANDMARKS) if base.lower().endswith(e)), "")
    stem = base[: len(base) - len(ending)].encode()[: LONGEST_NAME - len(ending)].decode(errors="ignore")
    return (stem or "scan") + base[len(base) - len(ending) :] if ending else stem


def require_self_contained(path: Path) -> None:
    """InputError for an image header that names a voxel file elsewhere: reading it would open a file that nobody allowed.

    A file beside the header is fine; headers without an end in their first MiB are not.
    """
    kind = _HEADERS.get(path.suffix.lower())
    if kind is None:
        return
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    whole = len(head) < HEADER_BYTES
    named = [name.strip() for name in _NAMED[kind].findall(head)]
    if not all(name == b"LOCAL" or _beside(path, name) for name in named) or not (_END[kind].search(head) or (kind == "nrrd" and whole)):
        raise InputError(f"{path.name} keeps its voxels in another file. Save it as one file (.nii.gz, .nrrd or .mha).")


def _beside(path: Path, name: bytes) -> bool:
    file = path.parent / name.decode("utf-8", "replace")
    return file.name.encode() == name and file.is_file() and not file.is_symlink()


def _free(folder: Path, name: str) -> Path:
    """A path that does not exist yet: two folders of a DICOM tree may hold the same file name."""
    path, n = folder / name, 2
    while path.exists():
        path, n = folder / f"{n}_{name}", n + 1
    return path
