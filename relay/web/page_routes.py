"""Routes of the pages' own files: `/`, `/call`, `/me`, `/check`, and all that these load."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from typing import Final

from relay.web.http_message import Handler, Request, Response
from relay.web.static_files import static_file, static_names

PAGES: Final = {
    "/": "index.html",
    "/call": "call.html",
    "/me": "me.html",
    "/check": "check.html",
}
_MANIFEST: Final = "app.webmanifest"
_WORKER: Final = "worker.js"


def page_routes() -> dict[tuple[str, str], Handler]:
    """For an `HttpServer`, alone or joined with others."""
    routes = {("GET", path): static_file(name) for path, name in PAGES.items()}
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
