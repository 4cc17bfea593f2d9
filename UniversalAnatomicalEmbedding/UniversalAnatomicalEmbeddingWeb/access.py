"""Who may come in: host, origin, token and the one seat, checked for every request before anything else sees it."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from aiohttp import web
from wslink.websocket import LinkProtocol

from UniversalAnatomicalEmbeddingLib.system import InputError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHORTEST_TOKEN = 16
WRONG_TOKEN_DELAY_S = 0.5
GRACE_S = 20.0
PAGES = Path(__file__).with_name("www")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# The page compiles its templates in the browser (unsafe-eval) and sets styles on elements; everything else comes from this server alone.
CONTENT = (
    "default-src 'self'; script-src 'self' 'unsafe-eval' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' ws://{host} wss://{host}; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def choose_token(host: str | None, given: str | None) -> str:
    """The token that a server must ask for: none without a host (loopback only), else the one given, else a new random one.

    Raises :class:`InputError` for a token that could be guessed, the empty one included.
    """
    if given is not None and len(given) < SHORTEST_TOKEN:
        raise InputError(
            f"The token has {len(given)} characters; at least {SHORTEST_TOKEN} are needed. Unset UAE_WEB_TOKEN to have a random one made."
        )
    if given is not None:
        return given
    return secrets.token_urlsafe(32) if host else ""


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell how far they agree."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode("utf-8"))


@dataclass
class Seat:
    """The one place at the session: one browser tab has it, and keeps it for ``GRACE_S`` after its connection dropped."""

    clock: Callable[[], float] = time.monotonic
    holder: str = ""
    connection: Any = None
    left_at: float = field(default=float("-inf"))

    def take(self, tab: str, force: bool = False) -> bool:
        """Give the seat to ``tab`` when it is free or its own already, or when forced to. Whoever sat there is disconnected."""
        if not force and not self.free_for(tab):
            return False
        if tab != self.holder:
            self._disconnect()
            self.holder, self.left_at = tab, self.clock()
        return True

    def belongs_to(self, tab: str) -> bool:
        """Whether ``tab`` is the one that sits here."""
        return bool(tab) and tab == self.holder

    def free_for(self, tab: str) -> bool:
        """Whether ``tab`` could sit down now."""
        away = self.connection is None and self.clock() - self.left_at > GRACE_S
        return not self.holder or away or tab == self.holder

    def join(self, tab: str, connection: Any) -> bool:
        """Note the live connection of the holder; one that it had before and lost is closed. False for everybody else."""
        if not self.belongs_to(tab):
            return False
        self._disconnect()
        self.connection = connection
        return True

    def leave(self, connection: Any) -> None:
        """The connection ended; an older one than the present means nothing."""
        if connection is self.connection:
            self.connection, self.left_at = None, self.clock()

    def _disconnect(self) -> None:
        if self.connection is not None:
            self.connection.abort()
            self.connection = None


class Door:
    """The middleware in front of pages, files, uploads and the websocket.

    Without a ``token`` only requests addressed to this machine by its loopback names are answered, so that no page of another site can reach
    the server through a name of its own. With one, a browser gets in with ``/?token=...`` once and then carries a cookie.
    """

    def __init__(self, token: str, seat: Seat | None = None) -> None:
        self.token = token
        self.seat = seat or Seat()
        self.secret = secrets.token_urlsafe(32)
        self._pass = secrets.token_urlsafe(32)

    def gatekeeper(self) -> LinkProtocol:
        """The check of the first message on the websocket: it must bring the secret that only an admitted page is told."""
        return _Gatekeeper(self.secret)

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer, or refuse with a page that says why."""
        headers = {**HEADERS, "Content-Security-Policy": CONTENT.format(host=request.host)}
        try:
            response = await self._answer(request, handler)
        except web.HTTPException as error:
            error.headers.update(headers)
            raise
        if not response.prepared:
            response.headers.update(headers)
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self.token and _hostname(request.host) not in LOOPBACK:
            return refuse(403, "This server answers on this machine only. Open it as http://localhost.")
        if (request.path == "/ws" or request.method != "GET") and not _same_origin(request):
            return refuse(403, "This request comes from another site and is not answered.")
        if self.token and not same(request.cookies.get(self._cookie(request, "pass"), ""), self._pass):
            return await self._admit(request)
        if request.path in ("/", "/index.html"):
            return await self._seat(request, handler)
        tab = request.cookies.get(self._cookie(request, "tab"), "")
        if request.path == "/alive":
            return web.json_response({"free": self.seat.free_for(request.query.get("tab", ""))})
        if request.path == "/ws":
            return await self._connect(request, handler, tab)
        if request.path.startswith(("/upload", "/export")) and not self.seat.belongs_to(tab):
            return refuse(409, "The session is in use in another window.")
        return await handler(request)

    async def _admit(self, request: web.Request) -> web.StreamResponse:
        """Let in whoever brings the token, and take it out of the address."""
        given = request.query.get("token", "")
        if request.path == "/" and given and same(given, self.token):
            response = _go_to("/")
            response.set_cookie(self._cookie(request, "pass"), self._pass, httponly=True, samesite="Lax", secure=request.secure)
            return response
        if given:
            await asyncio.sleep(WRONG_TOKEN_DELAY_S)
            return refuse(403, "This is not the token that the server printed when it started.", "token")
        return refuse(401, "Open the address that the server printed when it started, or give its token here.", "token")

    async def _seat(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every window has a number of its own in its address, so that it finds its way back to the session, and others do not."""
        tab = request.query.get("tab", "")
        if request.path == "/" or not 16 <= len(tab) <= 64:
            return _go_to(_page(secrets.token_urlsafe(16)))
        if not self.seat.take(tab, force="take" in request.query):
            return refuse(409, "The session is in use in another window or browser.", "taken")
        if "take" in request.query:
            return _go_to(_page(tab))
        response = await handler(request)
        if not response.prepared:
            response.set_cookie(self._cookie(request, "tab"), tab, httponly=True, samesite="Lax", secure=request.secure)
        return response

    async def _connect(self, request: web.Request, handler: Handler, tab: str) -> web.StreamResponse:
        connection = request.transport
        if connection is None or not self.seat.join(tab, connection):
            return refuse(409, "The session is in use in another window.")
        try:
            return await handler(request)
        finally:
            self.seat.leave(connection)

    def _cookie(self, request: web.Request, name: str) -> str:
        """Cookies do not know ports; two servers on one machine keep theirs apart by name."""
        return f"uae-{name}-{urlsplit('//' + request.host).port or 0}"


class _Gatekeeper(LinkProtocol):
    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret

    async def validateToken(self, token: object, client_id: str) -> bool:  # noqa: N802 - the name that wslink calls
        return isinstance(token, str) and same(token, self._secret)


def refuse(status: int, sentence: str, page: str = "refused") -> web.Response:
    """A small page with one sentence; ``page`` names the file in ``www``."""
    text = (PAGES / f"{page}.html").read_text(encoding="utf-8").replace("SENTENCE", sentence)
    return web.Response(status=status, text=text, content_type="text/html")


def _go_to(address: str) -> web.Response:
    return web.Response(status=303, headers={"Location": address})


def _page(tab: str) -> str:
    return f"/index.html?{urlencode({'tab': tab})}"


def _hostname(host: str) -> str:
    try:
        return urlsplit("//" + host).hostname or ""
    except ValueError:
        return ""


def _same_origin(request: web.Request) -> bool:
    """Browsers name the site that a request comes from; other programs (no ``Origin``) cannot be tricked into carrying a user's cookie."""
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host
