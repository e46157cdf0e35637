"""Routes of the pages' own files: `/`, `/call`, `/me`, `/check`, and all that these load."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from typing import Final

from relay.web.http_message import Handler, Request, Response, content_policy
from relay.web.static_files import static_file, static_names

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
    # What a worker or a manifest governs begins at its own address.
    routes["GET", f"/{_MANIFEST}"] = static_file(_MANIFEST)
    routes["GET", f"/{_WORKER}"] = _worker()
    for name in static_names():
        if not name.endswith(".html") and name not in (_MANIFEST, _WORKER):
            routes["GET", f"/static/{name}"] = static_file(name)
    return routes


def _worker() -> Handler:
    """The service worker behind a list of what it keeps.

    Browsers take up a worker whose bytes have changed, so the digest of all files stands in it.
    """
    folder = files("relay.web") / "static"
    digest = hashlib.sha256()
    kept = [*PAGES]
    for name in static_names():
        digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
        if not name.endswith(".html") and name not in (_MANIFEST, _WORKER):
            kept.append(f"/static/{name}")
    head = (
        f"const VERSION = {json.dumps(digest.hexdigest()[:16])};\n"
        f"const FILES = {json.dumps(kept, indent=2)};\n"
    )
    response = Response(
        body=head.encode() + (folder / _WORKER).read_bytes(),
        content_type="text/javascript; charset=utf-8",
        headers={"Cache-Control": "no-cache"},
    )

    async def serve(_request: Request) -> Response:
        return response

    return serve
