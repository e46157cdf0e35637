"""TURN credentials for who is in a call or room: bound to it, so that they are worth nothing when
it is over."""

from __future__ import annotations

from typing import Final

from relay.credential_issuer import CredentialIssuer
from relay.signaling.messages import IceServer

ICE_TTL_S: Final = 600
"""For how long credentials open allocations; those that are open go on by themselves."""


def ice_servers(issuer: CredentialIssuer, session: str, peer: str) -> list[IceServer]:
    """What RTCPeerConnection takes.

    Args:
        session: the session of the meter, ``CALL-...``.
        peer: somebody's id in it; each has a quota of allocations of its own.

    Raises:
        OperationError: the node has no secret to make credentials from.
    """
    made = issuer.issue(f"{session}.{peer}".lower(), ICE_TTL_S, session)
    return [IceServer(urls=list(made.uris), username=made.username, credential=made.password)]
