"""What runs without a file: `montana up --dev` on loopback, `--lan` in the local network."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

from core.config import (
    HTTP_PORT,
    TURN_PORT,
    BillingConfig,
    Endpoint,
    HttpConfig,
    Network,
    NodeConfig,
    PeerRules,
    SignalingConfig,
    TurnConfig,
)
from core.stun.address import Address

LOOPBACK_NETWORKS: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def development_config(
    data_dir: Path, *, secret: str | None = None, lan: Sequence[str] = ()
) -> NodeConfig:
    """What `montana up --dev` runs: on loopback alone, one worker, a secret of its own.

    Args:
        data_dir: where the node keeps its key and its socket.
        secret: for time-limited credentials; a random one when None.
        lan: IP addresses of this machine to bind to in place of loopback (`--lan`), see
            `lan_addresses`; loopback peers are refused then. The caller adds the certificate.
    """
    hosts = tuple(lan) or (("127.0.0.1", "::1") if has_ipv6_loopback() else ("127.0.0.1",))
    return NodeConfig(
        data_dir=data_dir,
        turn=TurnConfig(
            listen=tuple(
                Endpoint(transport="udp", address=Address.from_text(host, TURN_PORT))
                for host in hosts
            ),
            relay_addresses=tuple(ip_address(host).packed for host in hosts),
            secrets=(secret or base64.b64encode(os.urandom(32)).decode(),),
            peers=PeerRules() if lan else PeerRules(allow=LOOPBACK_NETWORKS),
        ),
        http=HttpConfig(listen=tuple(Address.from_text(host, HTTP_PORT) for host in lan))
        if lan
        else HttpConfig(),
        billing=BillingConfig(turn="metered", unknown_account="free"),
        signaling=SignalingConfig(rooms="free", free_bytes_per_second=0),
        development=True,
    )


def has_ipv6_loopback() -> bool:
    """Whether ``::1`` can be bound here."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def lan_addresses() -> tuple[str, ...]:
    """The private IPv4 address that this machine has in its local network, as a tuple of one.

    Empty where there is none: `--lan` opens a node to whoever can reach it, so a public address
    is never taken for one. Nothing is sent: connecting a UDP socket asks the routing table.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ()
        host = str(probe.getsockname()[0])
    address = ip_address(host)
    return (host,) if address.is_private and not address.is_loopback else ()
