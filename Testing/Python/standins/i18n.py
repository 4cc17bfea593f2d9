"""Stand-in of ``slicer.i18n``: texts go to the application with the context of the file that has them."""

from __future__ import annotations

import sys
from pathlib import Path


def translate(context: str, text: str) -> str:
    """The text as the application translates it."""
    import slicer

    return slicer.app.translate(context, text)


def tr(text: str) -> str:
    """The same, with "Package.file", or "file" outside a package, as the context."""
    source = Path(sys._getframe(1).f_code.co_filename)
    package = f"{source.parent.name}." if (source.parent / "__init__.py").is_file() else ""
    return translate(package + source.stem, text)
