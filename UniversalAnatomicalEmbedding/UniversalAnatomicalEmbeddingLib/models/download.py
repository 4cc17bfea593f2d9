"""Download one file over HTTP(S): resumed where it broke off, checked, never half there. Proxies of the environment are honoured."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path
from threading import Event
from time import sleep
from typing import IO
from urllib.parse import urlsplit

from ..system import files
from ..system.errors import InputError
from ..system.progress import Progress, check, silent

TRIES = 4
PAUSE_S = 1.0
TIMEOUT_S = 30.0
BLOCK = 1 << 18
LARGEST_FILE = 2 * 2**30


def download(
    url: str, path: Path, sha256: str, by_hand: str, progress: Progress = silent, cancel: Event | None = None, pause_s: float = PAUSE_S
) -> Path:
    """Fetch ``url`` to ``path``, whose content must have the checksum ``sha256``.

    A ``path`` that already is that file is left as it is. What has arrived stays in ``path`` + ".part" when the transfer breaks, and the next
    call goes on there. ``by_hand`` completes the message for a machine that is offline: what to do with the file once it was got elsewhere.
    Raises :class:`InputError`, or :class:`Cancelled`.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"{url} is not a web address; only http and https are downloaded from.")
    if path.is_file() and files.sha256(path) == sha256:
        return path
    partial = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, TRIES + 1):
        try:
            if _transfer(url, partial, progress, cancel):
                break
            problem = "the server closed the connection too early"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 416, 429):
                raise InputError(f"{url} is not to be had (HTTP {error.code} {error.reason}). Get the file elsewhere; {by_hand}") from error
            problem = f"HTTP {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        if attempt == TRIES:
            here = partial.stat().st_size / 2**20 if partial.exists() else 0.0
            kept = f"{here:.1f} MiB are kept; the same command goes on from there." if here else ""
            raise InputError(
                f"{urlsplit(url).netloc} cannot be read from ({problem}). {kept} If this machine is offline, {by_hand}".replace("  ", " ")
            )
        sleep(pause_s * attempt)
    found = files.sha256(partial)
    if found != sha256:
        partial.unlink()
        raise InputError(f"What {url} sent is not the expected file: SHA-256 {found}, expected {sha256}. It was deleted; try again later.")
    partial.replace(path)
    progress(1.0, "downloaded")
    return path


def _transfer(url: str, partial: Path, progress: Progress, cancel: Event | None) -> bool:
    """One request, for what is not there yet. Returns whether the file is complete."""
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "uae", **({"Range": f"bytes={done}-"} if done else {})})
    try:
        response = urllib.request.build_opener().open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing beyond what is here: complete, or a leftover of another file
            if error.headers.get("Content-Range") == f"bytes */{done}":
                return True
            partial.unlink()
        raise
    with response, partial.open("ab") as file:
        if done and not (response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {done}-")):
            done = 0
            file.truncate(0)
        length = response.headers.get("Content-Length")
        return _copy(response, file, done, done + int(length) if length else None, progress, cancel)


def _copy(source: IO[bytes], file: IO[bytes], done: int, total: int | None, progress: Progress, cancel: Event | None) -> bool:
    while block := source.read(BLOCK):
        check(cancel)
        file.write(block)
        done += len(block)
        if done > LARGEST_FILE:
            raise InputError(f"The download has more than {LARGEST_FILE / 2**30:.0f} GiB, so it is no model. It was stopped.")
        progress(done / total if total else 0.0, f"{done / 2**20:.0f} MiB" + (f" of {total / 2**20:.0f}" if total else ""))
    return total is None or done == total
