"""A cap on what strangers make the server say: error replies a second and source address.

Whoever forges a source address has the server send to it. The counts stand in a table of fixed
size, under a keyed hash, so that many sources cost no memory and nobody can aim for a collision.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Network

_SLOTS = 4096
_MASK = _SLOTS - 1


class ReplyCap:
    """Counts replies in two rows (a count-min sketch), anew each second.

    Args:
        replies_per_second: for one source: an IPv4 address, or an IPv6 /64.
        exempt: networks that are not counted.
        key: random bytes that the hash is keyed with.
    """

    def __init__(
        self,
        replies_per_second: int,
        exempt: Sequence[IPv4Network | IPv6Network],
        key: bytes,
    ) -> None:
        self._limit = replies_per_second
        self._exempt = [
            (
                network.max_prefixlen // 8,
                int(network.network_address),
                int(network.netmask),
            )
            for network in exempt
        ]
        self._key = key
        self._second = -1
        self._counts = [0] * (2 * _SLOTS)

    def allows(self, ip: bytes, now_s: int) -> bool:
        """Whether one more reply to `ip` may be sent in the second `now_s`; counts it."""
        if self._exempt and self._is_exempt(ip):
            return True
        if now_s != self._second:
            self._second = now_s
            self._counts = [0] * (2 * _SLOTS)
        source = ip if len(ip) == 4 else ip[:8]
        digest = blake2b(source, digest_size=4, key=self._key).digest()
        first = (digest[0] << 8 | digest[1]) & _MASK
        second = _SLOTS + ((digest[2] << 8 | digest[3]) & _MASK)
        counts = self._counts
        if counts[first] >= self._limit and counts[second] >= self._limit:
            return False
        counts[first] += 1
        counts[second] += 1
        return True

    def _is_exempt(self, ip: bytes) -> bool:
        size = len(ip)
        number = int.from_bytes(ip, "big")
        return any(
            size == ip_bytes and number & mask == network
            for ip_bytes, network, mask in self._exempt
        )
