"""The files of `relay/web/static`, read once when the server starts.

What a page runs stands under a path with the version of all of it in. A page that asks for more
while its node is replaced by another version gets nothing, and never parts of both: it is loaded
anew then, see `load_anew.js`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Final

from relay.web.http_message import Handler, Request, Response

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}
VERSIONED: Final = (".css", ".js")
"""Of other files any version will do."""
_OF_VERSION = re.compile(r"/static/(\w+(?:\.css|\.js))\b")


@cache
def static_version() -> str:
    """The version of all files together: a digest of what is in them."""
    digest = hashlib.sha256()
    for name in static_names():
        content = _read(name)
        digest.update(f"{name} {len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def static_path(name: str) -> str:
    """Where a file is served that pages load."""
    if PurePosixPath(name).suffix in VERSIONED:
        return f"/static/{static_version()}/{name}"
    return f"/static/{name}"


def static_content(name: str) -> bytes:
    """A file as it is served: a page names what it loads by `static_path`."""
    content = _read(name)
    if PurePosixPath(name).suffix != ".html":
        return content
    return _OF_VERSION.sub(lambda found: static_path(found[1]), content.decode()).encode()


def static_file(name: str, more: Mapping[str, str] | None = None) -> Handler:
    """A handler that serves the file `name`, with `more` headers.

    Caches ask each time whether they are up to date: the files' names stay when a new version of
    the node changes them. What is served under `static_path` changes with its path.
    """
    body = static_content(name)
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


def _read(name: str) -> bytes:
    return (files("relay.web") / "static" / name).read_bytes()
