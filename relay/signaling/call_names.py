"""What calls are called, and the secrets that open their two sides: both from one secret of the
node's, so that neither has to be stored."""

from __future__ import annotations

import hmac
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Iterator
from itertools import count
from typing import Final

from core.clock import Clock
from relay.signaling.call_heartbeats import Side

CALL_ID_BYTES: Final = 5


class CallNames:
    """Ids and secrets of all calls of a node.

    Args:
        secret: 32 bytes; the same on every start.
    """

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def ids_of(self, effect: str) -> Iterator[str]:
        """Ids for a call, one after the other, each for when those before it are taken; the same
        ones for the same effect."""
        for number in count():
            drawn = (
                hmac.digest(self._secret, f"{effect} {number}".encode(), "sha256")
                if effect
                else self._clock.random_bytes(CALL_ID_BYTES)
            )
            yield f"CALL-{b32encode(drawn[:CALL_ID_BYTES]).decode()}"

    def secrets_of(self, call_id: str) -> tuple[str, str]:
        """The secrets of its caller and of its callee, which stand in their links."""
        return self._secret_of(call_id, Side.CALLER), self._secret_of(call_id, Side.CALLEE)

    def owner_untrusted(self, call_id: str, secret: str) -> Side | None:
        """Whose secret this is, be there such a call or not; None where it is nobody's."""
        given = secret.encode(errors="surrogatepass")
        owner = None
        for side in Side:
            if hmac.compare_digest(given, self._secret_of(call_id, side).encode()):
                owner = side
        return owner

    def _secret_of(self, call_id: str, side: Side) -> str:
        digest = hmac.digest(self._secret, f"{call_id} {side}".encode(), "sha256")
        return urlsafe_b64encode(digest).decode().rstrip("=")
