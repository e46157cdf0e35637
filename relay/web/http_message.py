"""A request and its response, as handlers of pages see them."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from core.errors import PeerError


def content_policy(frame_ancestors: str) -> str:
    """What a page may load, and who may have it in a frame."""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        # CSP 3 has ws: and wss: of the same host and port match 'self', as browsers do.
        "media-src 'self' blob:; connect-src 'self'; worker-src 'self'; manifest-src 'self'; "
        f"base-uri 'none'; form-action 'none'; frame-ancestors {frame_ancestors}; "
        "require-trusted-types-for 'script'"
    )


SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": content_policy("'none'"),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": (
        "camera=(self), microphone=(self), display-capture=(self), fullscreen=(self), "
        "clipboard-write=(self), screen-wake-lock=(self), geolocation=(), usb=(), payment=()"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""On every response; a response's own headers of the same names come instead."""

STRICT_TRANSPORT = {"Strict-Transport-Security": "max-age=63072000"}
"""Browsers are to come over TLS alone for two years (RFC 6797); counts over TLS alone."""

_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asked for. Nothing in it has been validated but its syntax.

    Attributes:
        method: such as ``GET``; a HEAD request has become a GET here.
        path: the target's path, not percent-decoded, always starting with ``/``.
        query: what follows ``?``, or the empty string.
        headers: names in lower case; of several of one name the values joined by ``, ``.
        body: whole, no longer than the server's limit.
        client: the IP address of who has sent the request, as text.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    client: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What is answered. `headers` come beside the security headers, length, date and type."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] | None = None


class RefusedError(PeerError):
    """A request that can't be served; knows the response."""

    def __init__(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(HTTPStatus(status).phrase)
        self.response = error_response(status, headers)


Handler = Callable[[Request], Awaitable[Response]]
Routes = Mapping[tuple[str, str], Handler]
"""(method, path) -> handler. A GET route answers HEAD as well."""


def json_response(
    content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`content` as JSON that no cache keeps."""
    return Response(
        status=status,
        body=json.dumps(content).encode(),
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def error_response(status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A small page that names the error and nothing else."""
    title = f"{status} {HTTPStatus(status).phrase}"
    body = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<title>{title}</title><h1>{title}</h1><p><a href="/">Montana</a></p></html>\n'
    )
    return Response(
        status=status,
        body=body.encode(),
        content_type="text/html; charset=utf-8",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def is_host_untrusted(text: str) -> bool:
    """Whether a Host header's value names a host, and maybe a port, and holds nothing else."""
    return _HOST.fullmatch(text) is not None


def host_is_no_domain_untrusted(host: str) -> bool:
    """Whether a Host header's value names an IP address or localhost.

    A stranger's page can have its own domain lead to a private address (DNS rebinding), and would
    then pass for a page of ours; it can't name an address.
    """
    if not is_host_untrusted(host):
        return False
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost":
            return True
        ip_address(name)
    except ValueError:
        return False
    return True


def names_no_domain_untrusted(request: Request) -> bool:
    """Whether the client asked for an IP address or localhost."""
    return host_is_no_domain_untrusted(request.headers.get("host", ""))
