"""Texts find their translation in the context under which Slicer's tools extract them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from UniversalAnatomicalEmbeddingLib.system import language
from UniversalAnatomicalEmbeddingLib.system.language import tr as _
from UniversalAnatomicalEmbeddingLib.workbench.presenter import Presenter

MODULE = Path(__file__).resolve().parents[3] / "UniversalAnatomicalEmbedding"
SOURCES = [f for f in sorted(MODULE.rglob("*.py")) if " tr as _" in f.read_text(encoding="utf-8")]


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    yield
    language.use_language(language.english)


def test_without_a_face_that_translates_everything_is_english() -> None:
    assert _("Prepare {count} volumes").format(count=2) == "Prepare 2 volumes"


def test_the_context_is_folder_and_file_of_the_source() -> None:
    asked = []
    language.use_language(lambda context, text: (asked.append((context, text)), "Laden Sie zwei Bilder")[1])
    assert Presenter().prepare_button.text == "Laden Sie zwei Bilder"
    assert asked == [("workbench.presenter", "Load a template and a target volume")]


@pytest.mark.parametrize("wrong", ["{anzahl} Volumen", "Volumen", "{count} {count}"])
def test_a_translation_whose_placeholders_cannot_be_filled_is_not_taken(wrong: str) -> None:
    language.use_language(lambda context, text: wrong)
    assert _("Prepare {count} volumes") == "Prepare {count} volumes"
    language.use_language(lambda context, text: "{count} Volumen")
    assert _("Prepare {count} volumes").format(count=2) == "2 Volumen"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_every_text_is_a_plain_literal_that_the_tools_can_extract(path: Path) -> None:
    """An f-string would be filled before it is looked up; a variable is seen by no tool."""
    calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
    texts = [n.args for n in calls if isinstance(n.func, ast.Name) and n.func.id == "_"]
    assert texts, "imported and not used"
    assert [ast.unparse(a[0]) for a in texts if len(a) != 1 or not (isinstance(a[0], ast.Constant) and isinstance(a[0].value, str))] == []


def english_in(argument: ast.expr) -> bool:
    """Whether an argument is a sentence, or a string filled in, that was written here and not looked up."""
    parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
    return any(isinstance(p, ast.Constant) and isinstance(p.value, str) and " " in p.value.strip() for p in parts)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_no_error_and_no_reason_is_said_in_english_only(path: Path) -> None:
    calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
    said = [a for n in calls if ast.unparse(n.func) in ("InputError", "Gate", "PrepareButton") for a in n.args]
    assert [ast.unparse(a) for a in said if english_in(a)] == []
