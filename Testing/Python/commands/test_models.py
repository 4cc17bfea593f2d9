"""The command ``uae models``: lists, shows, imports and fetches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from file_server import Server
from published_files import released
from released import checkpoint, save, weights
from samples import tiny_model

from UniversalAnatomicalEmbeddingLib.commands.main import main
from UniversalAnatomicalEmbeddingLib.models.catalogue import models_folder
from UniversalAnatomicalEmbeddingLib.models.model import Model, load_model, save_model
from UniversalAnatomicalEmbeddingLib.system.files import sha256


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model folder of the user."""
    path = tmp_path / "data" / "models"
    monkeypatch.setenv("UAE_MODELS", str(path))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small checkpoint of each family."""
    where = tmp_path_factory.mktemp("checkpoints")
    return {family: save(checkpoint(weights(family)), where / f"my {family}!.pth") for family in ("sam", "uae-s", "uae-m")}


def test_command_imports_lists_and_shows(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "import", str(files["sam"]), "--family", "sam", "--id", "mine"]) == 0
    said = capsys.readouterr().out
    assert "Unverified" in said and "--model mine" in said
    assert main(["models", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("mine: SAM checkpoint") and line.endswith("imported") for line in listed)
    assert any(line.startswith("uae-s (not here): UAE-S") and "uae models fetch uae-s" in line for line in listed)
    assert any(line.startswith("uae-m (not here)") and "uae models import CrossSAM" in line for line in listed)
    assert main(["models", "show", "mine"]) == 0
    assert json.loads(capsys.readouterr().out)["pipeline"] == "released"


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.pth").write_bytes(b"nothing")
    for arguments, word in (
        (["import", str(tmp_path / "a.pth")], "neither a PyTorch"),
        (["import"], "Which file?"),
        (["fetch"], "Which model? Write: uae models fetch ID, with one of sam, uae-s, uae-m"),
        (["fetch", "none"], "'none'; there are sam, uae-s, uae-m"),
        (["fetch", "uae-m"], "modelscope"),
    ):
        assert main(["models", *arguments]) == 2
        error = capsys.readouterr().err
        assert word in error and error.count("\n") == 1


def test_licence_must_be_accepted_before_anything_is_asked_for(
    server: Server,
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.content = files["sam"].read_bytes()
    released(monkeypatch, "sam", url=server.url, sha256=sha256(files["sam"]), licence="Do no harm")
    assert main(["models", "fetch", "sam"]) == 2
    captured = capsys.readouterr()
    assert "Licence: Do no harm" in captured.out and "--accept-licence" in captured.err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer in ("", "n"):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert main(["models", "fetch", "sam"]) == 2
        assert "Not accepted" in capsys.readouterr().err
    assert server.asked == [] and not models_folder().exists()
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert main(["models", "fetch", "sam"]) == 0
    assert "--model sam" in capsys.readouterr().out
    assert load_model("sam").card.training["verified"]


def test_licence_can_be_accepted_with_a_flag(server: Server, tmp_path: Path, folder: Path) -> None:
    save_model(Model(tiny_model().network, tiny_model().card), tmp_path / "tiny.safetensors")
    server.content = (tmp_path / "tiny.safetensors").read_bytes()
    folder.mkdir(parents=True)
    digest = sha256(tmp_path / "tiny.safetensors")
    entry = {"id": "tiny", "title": "Tiny", "file": "tiny.safetensors", "sha256": digest, "licence": "CC0", "url": server.url}
    (folder / "released.json").write_text(json.dumps({"models": [entry]}))
    assert main(["models", "fetch", "tiny", "--accept-licence"]) == 0
    assert load_model("tiny").card.title == "Tiny"
