"""The model chooser reads model cards without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from samples import tiny_model

from UniversalAnatomicalEmbeddingLib.models.catalogue import catalogue
from UniversalAnatomicalEmbeddingLib.models.choices import ModelChoice, model_choices
from UniversalAnatomicalEmbeddingLib.models.model import load_model, save_model
from UniversalAnatomicalEmbeddingLib.models.published import import_model

PACKAGE = Path(__file__).resolve().parents[3] / "UniversalAnatomicalEmbedding"
PANEL_FILES = (
    "models.choices",
    "system.dependencies",
    "worker.desk",
    "system.diagnostics",
    "workbench.overlays",
    "mrml",
    "workbench.preparation",
    "workbench.presenter",
    "workbench.registration_job",
    "workbench.workbench",
    "worker.client",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model folder of the user."""
    monkeypatch.setenv("UAE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def listed() -> tuple[list[ModelChoice], str]:
    """The choices, and what could not be read."""
    said: list[str] = []
    return model_choices(lambda error: said.append(str(error))), " ".join(said)


def own(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "mine.safetensors")
    import_model(tmp_path / "mine.safetensors")


def test_choices_agree_with_the_catalogue_and_the_cards(tmp_path: Path) -> None:
    own(tmp_path)
    choices, said = listed()
    assert [c.id for c in choices] == list(catalogue()) and choices[-1].id == "tiny" and said == ""
    for choice in choices:
        card = load_model(choice.id).card
        expected = card.id, card.title, card.modality, card.regions, card.licence, catalogue()[choice.id].path.stat().st_size
        assert (choice.id, choice.title, choice.modality, choice.regions, choice.licence, choice.size) == expected
    assert "CT, MR" in choices[0].text and "15 MB" in choices[0].text
    assert choices[0].licence in choices[0].details and ", ".join(choices[0].regions) in choices[0].details


def test_models_are_listed_only_while_they_are_there(tmp_path: Path, folder: Path) -> None:
    own(tmp_path)
    (folder / "tiny.safetensors").unlink()
    assert "tiny" not in [c.id for c in listed()[0]]


def test_a_damaged_list_of_own_models_leaves_the_bundled_ones(folder: Path) -> None:
    folder.mkdir()
    (folder / "catalogue.json").write_text("{}")
    choices, said = listed()
    assert choices and "catalogue.json cannot be read" in said


def header(values: dict, length: int | None = None) -> bytes:
    text = json.dumps(values).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [b"", b"text", header({}), header({"__metadata__": {}}), header({"__metadata__": {"card": "{}"}}), header({}, 10**12)],
    ids=["empty", "text", "no metadata", "no card", "empty card", "endless header"],
)
def test_a_file_without_a_card_is_told_and_spoils_no_other(tmp_path: Path, folder: Path, content: bytes) -> None:
    own(tmp_path)
    (folder / "tiny.safetensors").write_bytes(content)
    choices, said = listed()
    assert [c.id for c in choices] == list(catalogue())[:-1] and "no weights file with a model card" in said and "tiny" in said


def test_what_the_panel_imports_at_once_needs_no_torch(tmp_path: Path) -> None:
    """In a Slicer without torch the panel must open: torch, safetensors and scipy are made impossible to import."""
    code = (
        "import sys, importlib\n"
        "for name in ('torch', 'safetensors', 'scipy', 'tqdm', 'matplotlib', 'platformdirs'): sys.modules[name] = None\n"
        f"[importlib.import_module('UniversalAnatomicalEmbeddingLib.' + n) for n in {PANEL_FILES!r}]\n"
        "from UniversalAnatomicalEmbeddingLib.models.choices import model_choices; print(len(model_choices(print)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "HOME": str(tmp_path), "UAE_MODELS": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1
