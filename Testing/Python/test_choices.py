"""The model chooser reads model cards without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from UniversalAnatomicalEmbeddingLib.catalogue import catalogue, load_model
from UniversalAnatomicalEmbeddingLib.choices import model_choices, read_choice
from UniversalAnatomicalEmbeddingLib.errors import InputError

PACKAGE = Path(__file__).resolve().parents[2] / "UniversalAnatomicalEmbedding"
PANEL_FILES = (
    "choices",
    "dependencies",
    "desk",
    "diagnostics",
    "live",
    "mrml",
    "preparation",
    "presenter",
    "registering",
    "workbench",
    "worker_client",
)


def test_choices_agree_with_the_catalogue_and_the_cards() -> None:
    choices = model_choices()
    assert [c.model for c in choices] == [i for i, e in catalogue().items() if e.source == "bundled"]
    card, choice = load_model().card, choices[0]
    assert (choice.id, choice.title, choice.modality, choice.regions, choice.licence) == (
        card.id,
        card.title,
        card.modality,
        card.regions,
        card.licence,
    )
    assert choice.size == choice.path.stat().st_size
    assert "CT, MR" in choice.text and "MB" in choice.text and card.licence in choice.details


def test_imported_files_come_last_and_only_while_they_are_there(tmp_path: Path) -> None:
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(model_choices()[0].path.read_bytes())
    assert [c.model for c in model_choices([copy, tmp_path / "gone.safetensors"])][len(model_choices()) :] == [str(copy)]


def header(values: dict, length: int | None = None) -> bytes:
    text = json.dumps(values).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [b"", b"text", header({}), header({"__metadata__": {}}), header({"__metadata__": {"card": "{}"}}), header({}, 10**12)],
    ids=["empty", "text", "no metadata", "no card", "empty card", "endless header"],
)
def test_a_file_without_a_card_is_refused_with_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no weights file with a model card"):
        read_choice(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.safetensors cannot be read"):
        read_choice(tmp_path / "gone.safetensors")


def test_what_the_panel_imports_at_once_needs_no_torch() -> None:
    """In a Slicer without torch the panel must open: torch, safetensors and scipy are made impossible to import."""
    code = (
        "import sys, importlib\n"
        "for name in ('torch', 'safetensors', 'scipy', 'tqdm', 'matplotlib'): sys.modules[name] = None\n"
        f"[importlib.import_module('UniversalAnatomicalEmbeddingLib.' + n) for n in {PANEL_FILES!r}]\n"
        "from UniversalAnatomicalEmbeddingLib.choices import model_choices; print(len(model_choices()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1
