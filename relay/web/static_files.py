"""The files of `relay/web/static`, read once when the server starts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import PurePosixPath

from relay.web.http_message import Handler, Request, Response

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}


def static_file(name: str, more: Mapping[str, str] | None = None) -> Handler:
    """A handler that serves the file `name`, with `more` headers.

    Caches ask each time whether they are up to date: the files' names stay when a new version of
    the node changes them.
    """
    body = (files("relay.web") / "static" / name).read_bytes()
    content_type = CONTENT_TYPES[PurePosixPath(name).suffix]
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", **(more or {})}
    whole = Response(body=body, content_type=content_type, headers=headers)
    unchanged = Response(status=304, headers=headers)

    async def serve(request: Request) -> Response:
        known = request.headers.get("if-none-match", "")
        tags = {entry.strip().removeprefix("W/") for entry in known.split(",")}
        return unchanged if tags & {tag, "*"} else whole

    return serve


def static_names() -> list[str]:
    """The names of all of them."""
    return sorted(
        entry.name
        for entry in (files("relay.web") / "static").iterdir()
        if PurePosixPath(entry.name).suffix in CONTENT_TYPES
    )
