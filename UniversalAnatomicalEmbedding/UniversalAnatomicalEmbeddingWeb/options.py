"""What ``uae serve`` was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from UniversalAnatomicalEmbeddingLib.system import InputError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class ServeOptions:
    """What ``uae serve`` was asked for. ``host`` None: this machine only, no token; ``root``: a folder to browse; ``upload_mb``: all uploads together."""

    images: tuple[str, ...] = ()
    landmarks: str | None = None
    root: str | None = None
    demo: bool = False
    host: str | None = None
    port: int = 0
    upload_mb: int = 4096
    model: str | None = None
    device: str = "auto"
    modality: str = "auto"
    method: str = "nn"
    cache: Path | None = None
    open_browser: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"--port {self.port} is no port; use 0 (any free one) to 65535.")
        if self.upload_mb < 1:
            raise InputError(f"--upload-limit {self.upload_mb} allows no upload; give the MiB that all uploads together may have.")
        for path in (*self.images, *([self.landmarks] if self.landmarks else [])):
            if not Path(path.rpartition("#")[0] or path).exists() and not Path(path).exists():
                raise InputError(f"{path} does not exist. Check the path.")
