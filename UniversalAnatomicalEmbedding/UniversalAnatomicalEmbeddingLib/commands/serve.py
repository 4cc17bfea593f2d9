"""``uae serve``: the options of the browser face."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..system.errors import InputError


def add_options(parser: argparse.ArgumentParser) -> None:
    """What ``uae serve`` takes besides model, device and method."""
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="scans to open; the first one is the template")
    parser.add_argument("--landmarks", help="landmarks of the template (.mrk.json, .fcsv or .csv)")
    parser.add_argument("--demo", action="store_true", help="open two made-up patients")
    parser.add_argument("--root", help="folder whose scans may be opened from the browser; nothing outside it can be reached")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: any free one)")
    parser.add_argument(
        "--host",
        help="address to listen on besides this machine's own, for example 0.0.0.0; a token is then demanded: the one in $UAE_WEB_TOKEN, or a "
        "random one that is printed once. On a machine with other users give localhost",
    )
    parser.add_argument("--upload-limit", type=int, default=4096, metavar="MIB", help="size of all uploads together (default: 4096)")
    parser.add_argument("--browser", action="store_true", help="open the page in this machine's browser")


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    try:
        from UniversalAnatomicalEmbeddingWeb.options import ServeOptions
        from UniversalAnatomicalEmbeddingWeb.server import serve
    except ModuleNotFoundError as error:
        raise InputError(f"The browser face needs {error.name}: pip install 'universal-anatomical-embedding[web]'.") from error
    cache: Path | None = args.cache
    options = ServeOptions(
        images=tuple(args.images),
        landmarks=args.landmarks,
        root=args.root,
        demo=args.demo,
        host=args.host,
        port=args.port,
        upload_mb=args.upload_limit,
        model=args.model,
        device=args.device,
        modality=args.modality,
        method=args.method,
        cache=cache,
        open_browser=args.browser,
    )
    serve(options, lambda line: print(line, flush=True))
    return 0
