"""The opening handshake of a WebSocket, as its server judges it (RFC 6455 section 4.2).

Browsers name the origin of the page that connects, and let any page connect to anywhere: it is for
the server to refuse those that are not its own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Mapping

from relay.web.http_message import RefusedError, host_is_no_domain_untrusted
from relay.web.websocket import WebSocketRoute

VERSION = "13"
KEY_BYTES = 16
DEFAULT_PORTS = {"http": ":80", "https": ":443"}

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?")


def accept_untrusted(
    headers: Mapping[str, str], route: WebSocketRoute, scheme: str
) -> dict[str, str]:
    """The headers of the response that switches protocols.

    Args:
        headers: of a GET request, names in lower case; those of one name joined by ``, ``.
        scheme: ``http`` or ``https``, as the request came.

    Raises:
        RefusedError: 403 for a page of another origin, 426 for what asks for no WebSocket or for
            another version, 400 for what is none.
    """
    if "websocket" not in _tokens(headers.get("upgrade", "")):
        raise RefusedError(426, {"Upgrade": "websocket"})
    if "upgrade" not in _tokens(headers.get("connection", "")):
        raise RefusedError(400)
    if headers.get("sec-websocket-version") != VERSION:
        raise RefusedError(426, {"Upgrade": "websocket", "Sec-WebSocket-Version": VERSION})
    key = headers.get("sec-websocket-key", "")
    try:
        has_key = len(base64.b64decode(key, validate=True)) == KEY_BYTES
    except (ValueError, binascii.Error):
        has_key = False
    if not has_key:
        raise RefusedError(400)
    if not route.is_allowed(headers.get("origin"), headers.get("host", ""), scheme):
        raise RefusedError(403)
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    answer = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": base64.b64encode(digest).decode(),
    }
    if route.subprotocol in _listed(headers.get("sec-websocket-protocol", "")):
        answer["Sec-WebSocket-Protocol"] = route.subprotocol
    return answer


def origin_is_allowed_untrusted(
    origin: str | None, host: str, scheme: str, *, allowed: Collection[str] = ()
) -> bool:
    """Whether a page of `origin` may connect: one of the node's own, or of one in `allowed`.

    An own page has the scheme and the host that the request itself names. A stranger's domain that
    leads here (DNS rebinding) would have so as well: without TLS, whose certificate browsers hold
    against the name, a host with a domain is for `allowed` to name.

    Args:
        origin: of the page; None where the client says none, which no browser does.
        host: as the request's Host header has it.
        allowed: origins such as ``https://node.example``, that of a public URL among them.
    """
    if origin is None:
        return False
    page = _plain_origin(origin)
    if page is None:
        return False
    if page in {_plain_origin(one) for one in allowed}:
        return True
    is_named_safely = scheme == "https" or host_is_no_domain_untrusted(host)
    return is_named_safely and page == _plain_origin(f"{scheme}://{host}")


def _plain_origin(text: str) -> str | None:
    """An origin in the one form that compares (RFC 6454 section 6.2), None for what is none."""
    text = text.lower()
    if _ORIGIN.fullmatch(text) is None:
        return None
    return text.removesuffix(DEFAULT_PORTS[text.partition("://")[0]])


def _listed(value: str) -> list[str]:
    return [entry.strip() for entry in value.split(",")]


def _tokens(value: str) -> list[str]:
    return _listed(value.lower())
