"""What every other room stands on: the one exception for users' mistakes, progress and cancelling,
the language of what people read, files that are complete or not there, the user's folders, packages
that are missing, and diagnostics. Nothing here knows an image, a network or a face, and importing it loads no package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .doors import open_door

if TYPE_CHECKING:
    from .dependencies import SlicerInstaller, find_problems, install, offline_text, question
    from .diagnostics import devices, diagnostics_text, versions
    from .errors import InputError
    from .files import sha256, sha256_of, write_atomically
    from .language import use_language
    from .progress import silent

__all__, __getattr__ = open_door(__name__)
