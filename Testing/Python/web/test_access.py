"""The door: loopback names, origin, token, and one seat."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from UniversalAnatomicalEmbeddingLib.system.errors import InputError

aiohttp = pytest.importorskip("aiohttp")
from aiohttp import web  # noqa: E402
from aiohttp.test_utils import TestClient, TestServer  # noqa: E402

from UniversalAnatomicalEmbeddingWeb import access  # noqa: E402
from UniversalAnatomicalEmbeddingWeb.access import GRACE_S, Door, Seat, choose_token, same  # noqa: E402

TOKEN = "correct-horse-battery-staple"
TAB, OTHER = "tab-of-the-first-1", "tab-of-the-second"


class Line:
    """A connection that notes that it was cut."""

    cut = False

    def abort(self) -> None:
        self.cut = True


def visit(door: Door, act: Callable[[TestClient], Awaitable[Any]], **options: Any) -> Any:
    """Run ``act`` with a browser-like client of a server behind the door."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="page")

    async def socket(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        await answer.send_str("hello")
        async for _ in answer:
            pass
        return answer

    async def run() -> Any:
        app = web.Application(middlewares=[door.check])
        app.add_routes([web.get("/ws", socket), web.post("/upload/x", page), web.get("/{name:.*}", page)])
        async with TestClient(TestServer(app, host="127.0.0.1"), cookie_jar=aiohttp.CookieJar(unsafe=True), **options) as client:
            return await act(client)

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "WRONG_TOKEN_DELAY_S", 0.0)


def status(path: str, **request: Any) -> Callable[[TestClient], Awaitable[int]]:
    async def act(client: TestClient) -> int:
        async with client.request(request.pop("method", "GET"), path, allow_redirects=False, **request) as answer:
            return answer.status

    return act


def test_without_a_host_there_is_no_token_and_with_one_a_long_random_one() -> None:
    assert choose_token(None, None) == ""
    first, second = choose_token("0.0.0.0", None), choose_token("localhost", None)
    assert first != second and min(len(first), len(second)) >= 32
    assert choose_token(None, TOKEN) == TOKEN


@pytest.mark.parametrize("weak", ["", "short", "a" * 15])
def test_a_weak_or_empty_token_is_refused(weak: str) -> None:
    with pytest.raises(InputError, match="at least 16"):
        choose_token("0.0.0.0", weak)


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(access.hmac, "compare_digest", lambda a, b: calls.append((a, b)) or a == b)
    assert same("ä", "ä") and not same("a", "b") and len(calls) == 2
    visit(Door(TOKEN), status("/ws"))
    visit(Door(TOKEN), status("/?token=" + "x" * len(TOKEN)))
    assert (b"x" * len(TOKEN), TOKEN.encode()) in calls and len(calls) >= 5


@pytest.mark.parametrize(
    "path", ["/", "/index.html", "/ws", "/alive", "/assets/code.js", "/export/A.csv", "/?token=wrong", f"/index.html?token={TOKEN}"]
)
def test_nothing_is_answered_without_the_token(path: str) -> None:
    assert visit(Door(TOKEN), status(path)) in (401, 403)


def test_the_token_opens_the_door_once_and_leaves_the_address() -> None:
    async def act(client: TestClient) -> None:
        async with client.get(f"/?token={TOKEN}", allow_redirects=False) as answer:
            assert answer.status == 303 and answer.headers["Location"] == "/"
            cookie = answer.headers["Set-Cookie"]
            assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and TOKEN not in cookie
        async with client.get("/") as answer:
            assert answer.status == 200 and await answer.text() == "page" and "tab" in answer.url.query and "token" not in str(answer.url)
        async with client.get("/assets/code.js") as answer:
            assert answer.status == 200
        async with client.ws_connect("/ws") as socket:
            assert await socket.receive_str() == "hello"

    visit(Door(TOKEN), act)


def test_a_cookie_of_another_server_is_worth_nothing() -> None:
    async def act(client: TestClient) -> int:
        return await status("/assets/code.js", cookies={f"uae-pass-{client.port}": "x" * 43})(client)

    assert visit(Door(TOKEN), act) == 401


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", 303), ("127.0.0.1:80", 303), ("[::1]:80", 303), ("evil.example", 403), ("localhost.evil.example", 403), ("[", 403)],
)
def test_without_a_token_only_loopback_names_are_answered(host: str, expected: int) -> None:
    assert visit(Door(""), status("/", headers={"Host": host})) == expected


def test_another_site_can_neither_open_the_websocket_nor_upload() -> None:
    for path, method in (("/ws", "GET"), ("/upload/x", "POST")):
        assert visit(Door(""), status(path, method=method, headers={"Origin": "http://evil.example"})) == 403
        assert visit(Door(""), status(path, method=method, headers={"Origin": "null"})) == 403


def test_every_answer_carries_the_protecting_headers() -> None:
    async def act(client: TestClient) -> None:
        for path in ("/", "/assets/code.js", "/ws"):
            async with client.get(path) as answer:
                assert answer.headers["X-Frame-Options"] == "DENY" and "default-src 'self'" in answer.headers["Content-Security-Policy"]

    visit(Door(""), act)


def test_the_second_window_is_told_that_the_session_is_taken_and_may_take_it() -> None:
    async def act(client: TestClient) -> None:
        assert await status(f"/index.html?tab={TAB}")(client) == 200
        async with client.ws_connect("/ws") as first:
            assert await first.receive_str() == "hello"
            async with client.get(f"/index.html?tab={OTHER}") as answer:
                assert answer.status == 409 and "in use" in await answer.text()
            async with client.get(f"/alive?tab={OTHER}") as answer:
                assert await answer.json() == {"free": False}
            assert await status(f"/index.html?tab={OTHER}&take=1")(client) == 303
            assert (await first.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.ERROR)
        assert await status("/ws")(client) == 409  # the cookie of the first window
        assert await status(f"/index.html?tab={OTHER}")(client) == 200
        async with client.ws_connect("/ws") as second:
            assert await second.receive_str() == "hello"
            assert await status(f"/index.html?tab={TAB}")(client) == 409

    visit(Door(""), act)


def test_uploads_and_exports_belong_to_the_seat() -> None:
    async def act(client: TestClient) -> None:
        assert await status("/export/A.csv")(client) == await status("/upload/x", method="POST")(client) == 409
        assert await status(f"/index.html?tab={TAB}")(client) == 200
        assert await status("/export/A.csv")(client) == await status("/upload/x", method="POST")(client) == 200

    visit(Door(""), act)


def test_a_dropped_connection_keeps_the_seat_for_a_while() -> None:
    now = [100.0]
    seat, line = Seat(lambda: now[0]), Line()
    assert seat.take(TAB) and seat.join(TAB, line) and not seat.join(OTHER, Line())
    now[0] += 1000
    assert not seat.take(OTHER)  # connected, however long
    seat.leave(line)
    now[0] += GRACE_S - 1
    assert not seat.take(OTHER) and seat.take(TAB)
    now[0] += 2
    assert seat.take(OTHER) and not seat.take(TAB)


def test_the_same_window_replaces_its_own_lost_connection() -> None:
    seat, old, new = Seat(), Line(), Line()
    seat.take(TAB)
    seat.join(TAB, old)
    assert seat.join(TAB, new) and old.cut and not new.cut
    seat.leave(old)  # noticed late
    assert seat.connection is new
