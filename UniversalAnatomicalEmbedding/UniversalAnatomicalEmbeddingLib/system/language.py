"""The language of what people read: sentences are written in English and pass through :func:`tr`, which a face connects to its translations.

The context of a text is the one that Slicer's tools extract it under, "Folder.file" of the source that has it. Values come in afterwards:
``tr("Prepare {count} volumes").format(count=3)``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

Translate = Callable[[str, str], str]
PLACEHOLDER = re.compile(r"{(\w*)")


def english(context: str, text: str) -> str:
    """The translation into the language that everything is written in."""
    return text


_translate: Translate = english


def use_language(translate: Translate) -> None:
    """Have every text translated by ``translate(context, text)`` from now on."""
    global _translate
    _translate = translate


def tr(text: str) -> str:
    """A text in the person's language; in English where its translation has other placeholders, which would fail when they are filled."""
    source = Path(sys._getframe(1).f_code.co_filename)
    translated = _translate(f"{source.parent.name}.{source.stem}", text)
    return translated if sorted(PLACEHOLDER.findall(translated)) == sorted(PLACEHOLDER.findall(text)) else text
