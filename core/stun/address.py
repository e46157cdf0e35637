"""Transport addresses and five-tuples, compact and hashable.

An IP address is kept as its packed bytes (4 or 16 of them), so that equality is
equality of the address and no spelling can differ from another.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple


class Address(NamedTuple):
    """A transport address: packed IP bytes (4 for IPv4, 16 for IPv6, network order) and port."""

    ip: bytes
    port: int

    @classmethod
    def from_text(cls, host: str, port: int) -> Address:
        """Build from an IP literal such as ``127.0.0.1`` or ``::1``.

        Raises:
            ValueError: ``host`` is no IP literal or ``port`` is not in 0-65535.
        """
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} is not between 0 and 65535")
        return cls(ipaddress.ip_address(host).packed, port)

    @property
    def host(self) -> str:
        """The IP address as text, without brackets."""
        return str(ipaddress.ip_address(self.ip))

    def __str__(self) -> str:
        host = self.host
        return f"[{host}]:{self.port}" if len(self.ip) == 16 else f"{host}:{self.port}"


class FiveTuple(NamedTuple):
    """What names a client's path to the server (RFC 8656 section 2): the transport
    (``"udp"``, ``"tcp"``, ``"tls"``), the client's address and the server's own address
    that the client has sent to.
    """

    transport: str
    client: Address
    server: Address

    def __str__(self) -> str:
        return f"{self.transport} {self.client} -> {self.server}"
