"""Routes of the pages' own files: `/`, `/call`, `/me`, `/check`, and all that these load."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Final

from relay.web.http_message import Handler, Request, Response, content_policy
from relay.web.static_files import (
    VERSIONED,
    static_content,
    static_file,
    static_names,
    static_path,
    static_version,
)

PAGES: Final = {
    "/": "index.html",
    "/call": "call.html",
    "/me": "me.html",
    "/check": "check.html",
}
MINI_APPS: Final = ("/call", "/me")
"""Pages that open in Telegram, too."""
TELEGRAM_HEADERS: Final = {
    # Where Telegram's own web client is served from.
    "Content-Security-Policy": content_policy(
        "https://web.telegram.org https://*.web.telegram.org"
    ),
    # A client whose own page embeds nothing that doesn't allow it can have these in its frames.
    "Cross-Origin-Resource-Policy": "cross-origin",
}
_MANIFEST: Final = "app.webmanifest"
_WORKER: Final = "worker.js"
_LOAD_ANEW: Final = "load_anew.js"
_OWN: Final = (_MANIFEST, _WORKER, _LOAD_ANEW)
"""Served at an address of their own: what a worker or a manifest governs begins there, and what
helps a page whose version is gone is of no version."""
_UNCHANGING: Final = {"Cache-Control": "public, max-age=31536000, immutable"}


def page_routes(*, in_telegram: bool = False) -> dict[tuple[str, str], Handler]:
    """For an `HttpServer`, alone or joined with others.

    Args:
        in_telegram: whether Telegram's web client may have `MINI_APPS` in its frames.
    """
    framed = MINI_APPS if in_telegram else ()
    routes = {
        ("GET", path): static_file(name, TELEGRAM_HEADERS if path in framed else {})
        for path, name in PAGES.items()
    }
    for name in (_MANIFEST, _LOAD_ANEW):
        routes["GET", f"/{name}"] = static_file(name)
    routes["GET", f"/{_WORKER}"] = _worker()
    for name in _loaded_names():
        more = _UNCHANGING if PurePosixPath(name).suffix in VERSIONED else {}
        routes["GET", static_path(name)] = static_file(name, more)
    return routes


def _loaded_names() -> list[str]:
    """Those files that pages load from `static_path`."""
    return [name for name in static_names() if not name.endswith(".html") and name not in _OWN]


def _worker() -> Handler:
    """The service worker behind a list of what it keeps.

    Browsers take up a worker whose bytes have changed, so the version of all files stands in it.
    """
    kept = [*PAGES, f"/{_LOAD_ANEW}", *map(static_path, _loaded_names())]
    head = (
        f"const VERSION = {json.dumps(static_version())};\n"
        f"const FILES = {json.dumps(kept, indent=2)};\n"
    )
    response = Response(
        body=head.encode() + static_content(_WORKER),
        content_type="text/javascript; charset=utf-8",
        headers={"Cache-Control": "no-cache"},
    )

    async def serve(_request: Request) -> Response:
        return response

    return serve
