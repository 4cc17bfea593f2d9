"""``uae serve``: its options reach the browser face."""

from __future__ import annotations

from pathlib import Path

import pytest
from requires import needs

from UniversalAnatomicalEmbeddingLib.commands import main, serve

needs("aiohttp", "UAE_REQUIRE_GUI")
from UniversalAnatomicalEmbeddingWeb import server  # noqa: E402
from UniversalAnatomicalEmbeddingWeb.options import ServeOptions  # noqa: E402


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
    status = main.main(
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


def test_help_works_without_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["serve", "--help"])
    assert "token" in capsys.readouterr().out and serve.run is not None
