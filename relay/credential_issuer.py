"""Makes the time-limited credentials that the node's own TURN server takes."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence

from core.api.messages import CredentialsReply
from core.clock import Clock
from core.errors import OperationError
from core.stun.address import Address


def turn_uri(address: Address) -> str:
    """How WebRTC names a TURN server over UDP (RFC 7065)."""
    return f"turn:{address}?transport=udp"


class CredentialIssuer:
    """Makes credentials from the first secret, as the TURN REST API draft has them.

    Args:
        secrets: the configuration's; the first one is for making, all are for checking.
        addresses: where clients reach the server.
    """

    def __init__(self, secrets: Sequence[str], addresses: Sequence[Address], clock: Clock) -> None:
        self.secrets = secrets
        self._uris = [turn_uri(address) for address in addresses]
        self._clock = clock

    def issue(self, account: str, ttl_s: int, call: str | None = None) -> CredentialsReply:
        """`expiry:account`, with `#CALL-...` when they are for a call, and base64 of its
        HMAC-SHA1.

        Raises:
            OperationError: no secret is configured.
        """
        if not self.secrets:
            raise OperationError(
                "this node has no secret to make credentials from; add to [turn]: "
                'secrets = ["..."] with what `openssl rand -base64 32` prints'
            )
        assert "#" not in account
        username = f"{int(self._clock.unix_s()) + ttl_s}:{account}"
        if call is not None:
            username += f"#{call}"
        digest = hmac.digest(self.secrets[0].encode(), username.encode(), "sha1")
        return CredentialsReply(
            username=username,
            password=base64.b64encode(digest).decode(),
            ttl=ttl_s,
            uris=list(self._uris),
        )
