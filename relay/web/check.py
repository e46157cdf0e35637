"""The page `/check`: whether media gets through this node, or through any TURN server.

The page itself is open to everybody; what costs something are TURN credentials. In development
they are given to whoever asks from this machine or its network, elsewhere for a link's token. A
link is good for some minutes and for any number of checks; its token stands in the URL's fragment,
which browsers don't send, so that no log of a proxy holds it.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hmac
import struct
from collections.abc import Callable
from typing import Annotated, Protocol

import msgspec

from core.clock import Clock
from core.errors import OperationError
from relay.web.client_address import client_network
from relay.web.http_message import (
    Handler,
    Request,
    Response,
    error_response,
    json_response,
    names_no_domain_untrusted,
)
from relay.web.page_routes import page_routes
from relay.web.rate_limit import RateLimiter

KEY_LABEL = "check-link"
"""What the node's identity derives the key from: `identity.derive_secret(KEY_LABEL)`."""
LINK_TTL_S = 600
CREDENTIALS_PER_MINUTE = 20
"""For each client; enough for somebody who tries again and again."""

_EXPIRY = struct.Struct(">Q")
_SALT_BYTES = 8
_MAC_BYTES = 16
_TOKEN_BYTES = _EXPIRY.size + _SALT_BYTES + _MAC_BYTES
_CONTEXT = b"montana check link 1\0"


class Link(enum.Enum):
    """What a token is worth."""

    VALID = "valid"
    EXPIRED = "link-expired"
    INVALID = "link-invalid"


class Credentials(Protocol):
    """TURN credentials as WebRTC software takes them; `core.api.messages.CredentialsReply` is such.

    Attributes:
        ttl: seconds for which they open allocations.
        uris: where, such as ``turn:192.0.2.1:3478?transport=udp`` (RFC 7065).
    """

    @property
    def username(self) -> str: ...
    @property
    def password(self) -> str: ...
    @property
    def ttl(self) -> int: ...
    @property
    def uris(self) -> list[str]: ...


class _Asked(msgspec.Struct, frozen=True):
    token: Annotated[str, msgspec.Meta(max_length=128)] = ""


def make_token(key: bytes, clock: Clock, ttl_s: int = LINK_TTL_S) -> str:
    """A token that is valid for `ttl_s` seconds from now; `key` is 32 secret bytes."""
    content = _EXPIRY.pack(int(clock.unix_s()) + ttl_s) + clock.random_bytes(_SALT_BYTES)
    return base64.urlsafe_b64encode(content + _mac(key, content)).decode().rstrip("=")


def make_link(base_url: str, key: bytes, clock: Clock, ttl_s: int = LINK_TTL_S) -> str:
    """The URL of the check page, such as ``https://node.example/check#...``, with a token."""
    return f"{base_url}/check#{make_token(key, clock, ttl_s)}"


def judge_token_untrusted(key: bytes, token: str, clock: Clock) -> Link:
    """What a token is worth now. That it has expired is told only to who had a genuine one."""
    try:
        content = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), b"-_", True)
    except (UnicodeEncodeError, binascii.Error):
        return Link.INVALID
    if len(content) != _TOKEN_BYTES:
        return Link.INVALID
    signed, mac = content[:-_MAC_BYTES], content[-_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(key, signed)):
        return Link.INVALID
    (expiry_s,) = _EXPIRY.unpack_from(signed)
    return Link.VALID if clock.unix_s() < expiry_s else Link.EXPIRED


def _mac(key: bytes, content: bytes) -> bytes:
    assert len(key) == 32
    return hmac.digest(key, _CONTEXT + content, "sha256")[:_MAC_BYTES]


class CheckPage:
    """The check page's routes, with those of all pages' files.

    Args:
        make_credentials: for this node's own TURN server; raises OperationError where it can
            make none.
        key: 32 secret bytes that links are signed with.
        is_open: whether credentials are given without a link (development alone).
    """

    def __init__(
        self,
        make_credentials: Callable[[], Credentials],
        key: bytes,
        clock: Clock,
        *,
        is_open: bool,
    ) -> None:
        self._make_credentials = make_credentials
        self._key = key
        self._clock = clock
        self._is_open = is_open
        self._rate = RateLimiter(CREDENTIALS_PER_MINUTE, 60, clock)

    def routes(self, *, in_telegram: bool = False) -> dict[tuple[str, str], Handler]:
        """For an `HttpServer`, alone or joined with others; `in_telegram` as in `page_routes`."""
        return {
            **page_routes(in_telegram=in_telegram),
            ("POST", "/check/credentials"): self._credentials,
        }

    async def _credentials(self, request: Request) -> Response:
        """Credentials as JSON for a token as JSON, or ``{"error": ...}``."""
        if not _is_from_our_page_untrusted(request):
            return error_response(403)
        if not self._rate.take(client_network(request.client)):
            return json_response({"error": "too-often"}, status=429, headers={"Retry-After": "60"})
        try:
            asked = msgspec.json.decode(request.body or b"{}", type=_Asked)
        except (msgspec.DecodeError, RecursionError):
            return json_response({"error": "bad-request"}, status=400)
        if not (self._is_open and names_no_domain_untrusted(request)):
            if not asked.token:
                return json_response({"error": "link-needed"}, status=401)
            worth = judge_token_untrusted(self._key, asked.token, self._clock)
            if worth is not Link.VALID:
                return json_response({"error": worth.value}, status=401)
        try:
            made = self._make_credentials()
        except OperationError:
            return json_response({"error": "no-secret"}, status=503)
        return json_response(
            {
                "username": made.username,
                "password": made.password,
                "ttl": made.ttl,
                "uris": list(made.uris),
            }
        )


def _is_from_our_page_untrusted(request: Request) -> bool:
    """Whether the browser says that a page of this very origin asks; programs say nothing."""
    return request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
