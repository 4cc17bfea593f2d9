"""Start the browser face: options, doors, routes, and an end that leaves nothing behind."""

from __future__ import annotations

import logging
import os
import webbrowser
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from UniversalAnatomicalEmbeddingLib.system import InputError

from .files import Root, Uploads

if TYPE_CHECKING:
    from aiohttp import web

    from .logic import Logic
from .options import ServeOptions

WWW = Path(__file__).with_name("www")
CHUNK_BYTES = 1 << 20


def serve(options: ServeOptions, say: Callable[[str], None]) -> None:
    """Serve until stopped (Ctrl+C, SIGTERM). ``say`` gets the address, with the token where one is needed, once.

    Raises :class:`InputError` for missing packages, a weak token, a missing folder or a taken port, before anything is opened.
    """
    missing = [name for name in ("trame_slicer", "slicer") if find_spec(name) is None]
    if missing:
        raise InputError(f"The browser face needs {' and '.join(missing)}: pip install 'universal-anatomical-embedding[web]'.")
    from .access import Door, choose_token

    token = choose_token(options.host, os.environ.get("UAE_WEB_TOKEN"))
    root = Root(options.root) if options.root else None
    uploads = Uploads(options.upload_mb << 20)
    try:
        _run(options, Door(token), root, uploads, say)
    finally:
        uploads.close()


def _run(options: ServeOptions, door: Any, root: Root | None, uploads: Uploads, say: Callable[[str], None]) -> None:
    import vtk

    os.environ["TRAME_ARGS"] = ""  # else trame reads our command line as its own
    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
    from trame.app import get_server
    from trame_rca import module as image_module
    from trame_slicer import module as slicer_module
    from trame_slicer.core import SlicerApp
    from trame_vuetify.module import v3 as icons

    from .logic import Logic
    from .ui import build

    server: Any = get_server("uae", client_type="vue3")
    server.enable_module(slicer_module)
    server.enable_module(image_module)
    server.add_protocol_to_configure(lambda protocol: protocol.registerLinkProtocol(door.gatekeeper()))
    look = {"uae": str(WWW), "icons": icons.serve_path, "roboto": icons.roboto_path}
    server.enable_module({"serve": look, "scripts": ["uae/page.js"], "styles": ["icons/css/mdi.css", "roboto/roboto.css", "uae/page.css"]})
    slicer_app = SlicerApp()
    vtk.vtkObject.GlobalWarningDisplayOff()
    logic = Logic(server, slicer_app, options, root, uploads)
    build(server)

    def bind(web_server: Any) -> None:
        web_server.app.middlewares.append(door.check)
        add_routes(web_server.app, door, logic, uploads)

    def ready(**_: Any) -> None:
        host = options.host or "localhost"
        address = f"http://{'[' + host + ']' if ':' in host else host}:{server.port}/"
        if door.token:
            address += f"?token={door.token}"
        say(f"Open {address}")
        if options.open_browser:
            webbrowser.open(address)
        logic.start()

    server.controller.on_server_bind.add(bind)
    server.controller.on_server_ready.add(ready)
    logging.getLogger("wslink").setLevel(logging.CRITICAL)
    try:
        server.start(
            host=options.host or "localhost", port=options.port, open_browser=False, show_connection_info=False, disable_logging=True
        )
    except OSError as error:
        raise InputError(
            f"Port {options.port} on {options.host or 'localhost'} cannot be used: {os.strerror(error.errno or 0)}. Choose another."
        ) from error
    finally:
        logic.close()


def add_routes(app: web.Application, door: Any, logic: Logic, uploads: Uploads) -> None:
    """Uploads, downloads, the address and secret of the websocket, and the few files that replace trame's own."""
    from aiohttp import web

    async def session(_: web.Request) -> web.Response:
        return web.json_response({"sessionURL": "ws://USE_HOST/ws", "secret": door.secret})

    async def upload(request: web.Request) -> web.Response:
        try:
            await uploads.receive(
                request.match_info["batch"],
                request.query.get("name", ""),
                request.content_length,
                _chunks(request.content.iter_chunked(CHUNK_BYTES)),
            )
        except InputError as error:
            return web.json_response({"error": str(error)}, status=413 if "larger" in str(error) else 400)
        except OSError as error:
            return web.json_response({"error": f"The file could not be stored: {error.strerror}."}, status=507)
        return web.json_response({})

    async def export(request: web.Request) -> web.Response:
        try:
            name, content, kind = logic.export(request.match_info["what"])
        except InputError as error:
            return web.Response(status=404, text=str(error))
        return web.Response(body=content, content_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    async def file(request: web.Request) -> web.FileResponse:
        return web.FileResponse(WWW / ("loading.html" if request.path.endswith(".tpl") else "icon.svg"))

    app.add_routes(
        [
            web.post("/upload/{batch}", upload),
            web.get("/export/{what}", export),
            web.post("/paraview/", session),  # where trame's client asks for them
            web.get("/loading.tpl", file),
            web.get("/logo.png", file),
        ]
    )


async def _chunks(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in stream:
        yield chunk
