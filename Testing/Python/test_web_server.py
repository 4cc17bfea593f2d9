"""What ``uae serve`` takes, and what it refuses before anything is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from requires import needs

from UniversalAnatomicalEmbeddingLib import cli, cli_serve
from UniversalAnatomicalEmbeddingLib.errors import InputError

needs("aiohttp", "UAE_REQUIRE_GUI")
from UniversalAnatomicalEmbeddingWeb import server  # noqa: E402
from UniversalAnatomicalEmbeddingWeb.server import ServeOptions  # noqa: E402


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServeOptions]:
    """The options of servers that would have been started."""
    asked: list[ServeOptions] = []
    monkeypatch.setattr(server, "serve", lambda options, say: asked.append(options))
    return asked


def test_the_command_line_reaches_the_server(served: list[ServeOptions], tmp_path: Path) -> None:
    for name in ("a.nii", "b.nii", "a.csv"):
        (tmp_path / name).touch()
    given = ["--landmarks", f"{tmp_path}/a.csv", "--port", "8123", "--host", "0.0.0.0", "--root", str(tmp_path), "--upload-limit", "7"]
    status = cli.main(
        ["serve", f"{tmp_path}/a.nii", f"{tmp_path}/b.nii", *given, "--device", "cpu", "--method", "fixed-point", "--cache", "c"]
    )
    assert status == 0
    assert served == [
        ServeOptions(
            images=(f"{tmp_path}/a.nii", f"{tmp_path}/b.nii"),
            landmarks=f"{tmp_path}/a.csv",
            root=str(tmp_path),
            host="0.0.0.0",
            port=8123,
            upload_mb=7,
            device="cpu",
            method="fixed-point",
            cache=Path("c"),
        )
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images": ("missing.nii",)}, "missing.nii does not exist"),
        ({"landmarks": "missing.csv"}, "missing.csv does not exist"),
        ({"port": 70000}, "no port"),
        ({"upload_mb": 0}, "no upload"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ServeOptions(**options)


def test_a_weak_token_and_a_missing_root_stop_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: object())
    monkeypatch.setattr(server, "_run", lambda *arguments: pytest.fail("started"))
    monkeypatch.setenv("UAE_WEB_TOKEN", "")
    with pytest.raises(InputError, match="token"):
        server.serve(ServeOptions(host="0.0.0.0"), print)
    monkeypatch.delenv("UAE_WEB_TOKEN")
    with pytest.raises(InputError, match="no folder"):
        server.serve(ServeOptions(root=str(tmp_path / "nowhere")), print)


def test_the_temporary_folder_goes_even_when_the_server_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def broken(options: Any, door: Any, root: Any, uploads: Any, say: Any) -> None:
        seen.append(uploads.folder)
        assert uploads.folder.is_dir() and door.token == ""
        raise RuntimeError("broken")

    monkeypatch.setattr(server, "find_spec", lambda name: object())
    monkeypatch.setattr(server, "_run", broken)
    monkeypatch.delenv("UAE_WEB_TOKEN", raising=False)
    with pytest.raises(RuntimeError, match="broken"):
        server.serve(ServeOptions(), print)
    assert seen and not seen[0].exists()


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "trame_slicer" else object())
    with pytest.raises(InputError, match=r"trame_slicer: pip install 'universal-anatomical-embedding\[web\]'"):
        server.serve(ServeOptions(), print)


def test_help_works_without_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    assert "token" in capsys.readouterr().out and cli_serve.run is not None
