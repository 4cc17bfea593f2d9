"""Downloads against a server on this machine that breaks off, starts over, lies and vanishes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Event

import pytest
from file_server import CONTENT, Server

from UniversalAnatomicalEmbeddingLib.models.download import TRIES, download
from UniversalAnatomicalEmbeddingLib.system.errors import InputError
from UniversalAnatomicalEmbeddingLib.system.progress import Cancelled

SHA = hashlib.sha256(CONTENT).hexdigest()


def get(server: Server, path: Path, sha256: str = SHA, **options: object) -> Path:
    return download(server.url, path, sha256, "do it by hand.", pause_s=0.0, **options)  # type: ignore[arg-type]


def refused(server: Server, path: Path, *words: str, sha256: str = SHA) -> None:
    with pytest.raises(InputError) as caught:
        get(server, path, sha256)
    assert not path.exists()
    for word in words:
        assert word in str(caught.value), caught.value


def test_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    steps: list[float] = []
    path = get(server, tmp_path / "new" / "model.bin", progress=lambda fraction, _: steps.append(fraction))
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["model.bin"]
    assert steps == sorted(steps) and steps[-1] == 1.0 and len(steps) > 3
    assert server.asked == [("/model.bin", None)]


def test_broken_transfer_is_resumed_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 200_000]
    assert get(server, tmp_path / "model.bin").read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=300000-", "bytes=500000-"]


def test_what_arrived_is_kept_for_the_next_call(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000] * TRIES
    refused(server, tmp_path / "model.bin", "0.4 MiB are kept", "the same command")
    assert get(server, tmp_path / "model.bin").read_bytes() == CONTENT
    assert server.ranges_asked[-1] == f"bytes={TRIES * 100_000}-"


def test_server_that_cannot_resume_sends_everything_again(server: Server, tmp_path: Path) -> None:
    server.cuts, server.ranges = [300_000], False
    assert get(server, tmp_path / "model.bin").read_bytes() == CONTENT


def test_complete_leftover_is_recognised(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.bin.part").write_bytes(CONTENT)
    assert get(server, tmp_path / "model.bin").read_bytes() == CONTENT


def test_leftover_that_is_too_long_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.bin.part").write_bytes(CONTENT + b"more")
    assert get(server, tmp_path / "model.bin").read_bytes() == CONTENT


def test_leftover_of_another_file_is_noticed_and_deleted(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.bin.part").write_bytes(bytes(1000))
    refused(server, tmp_path / "model.bin", "not the expected file", SHA)
    assert get(server, tmp_path / "model.bin").read_bytes() == CONTENT


def test_other_content_is_refused_and_deleted(server: Server, tmp_path: Path) -> None:
    refused(server, tmp_path / "model.bin", "not the expected file", SHA, "0" * 64, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_truncation_is_noticed_by_the_checksum_where_no_length_is_given(server: Server, tmp_path: Path) -> None:
    server.length, server.cuts = False, [300_000]
    refused(server, tmp_path / "model.bin", "not the expected file")


def test_what_is_here_already_is_not_asked_for(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(CONTENT)
    get(server, tmp_path / "model.bin")
    assert server.asked == []


def test_passing_trouble_of_the_server_is_sat_out(server: Server, tmp_path: Path) -> None:
    server.codes = [503, 429]
    assert get(server, tmp_path / "model.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("code", [403, 404])
def test_refusal_of_the_server_is_reported_at_once(server: Server, tmp_path: Path, code: int) -> None:
    server.codes = [code] * 9
    refused(server, tmp_path / "model.bin", f"HTTP {code}", server.url, "do it by hand")
    assert len(server.asked) == 1


def test_offline_machine_is_told_what_to_do(server: Server, tmp_path: Path) -> None:
    server.http.shutdown()
    server.http.server_close()
    refused(server, tmp_path / "model.bin", "127.0.0.1", "If this machine is offline, do it by hand")


def test_cancelled_download_keeps_what_arrived(server: Server, tmp_path: Path) -> None:
    cancel = Event()
    with pytest.raises(Cancelled):
        get(server, tmp_path / "model.bin", cancel=cancel, progress=lambda *_: cancel.set())
    assert 0 < (tmp_path / "model.bin.part").stat().st_size < len(CONTENT)
    assert get(server, tmp_path / "model.bin").read_bytes() == CONTENT


def test_proxy_of_the_environment_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/model.bin"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    path = download("http://models.invalid/a.bin", tmp_path / "a.bin", SHA, "", pause_s=0.0)
    assert path.read_bytes() == CONTENT
    assert server.asked == [("http://models.invalid/a.bin", None)]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "a.bin"])
def test_only_web_addresses_are_downloaded_from(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a web address"):
        download(url, tmp_path / "a", SHA, "")
