"""What ``uae serve`` takes, and what it refuses before anything is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from requires import needs

from UniversalAnatomicalEmbeddingLib.system.errors import InputError

needs("aiohttp", "UAE_REQUIRE_GUI")
from UniversalAnatomicalEmbeddingWeb import server  # noqa: E402
from UniversalAnatomicalEmbeddingWeb.options import ServeOptions  # noqa: E402


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
