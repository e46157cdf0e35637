"""Whom a relay may talk to: default deny for everything that is not the public internet.

A client names a peer, and the node sends to it from inside the operator's network. What stands
between is this table, asked on CreatePermission, ChannelBind and Send.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network

from core.config import PeerRules
from core.stun.address import Address
from relay.dataplane.interface import OWN_ALLOWED, OWN_NO, OWN_RELAYS_ONLY

FORBIDDEN = -1
"""What `PeerPolicy.judge` says of an address that is no peer."""

NEVER = (
    # No operator's list opens these: other spellings of IPv4 addresses, which would pass by the
    # rules of the address that they mean, and addresses that are no single host's.
    "0.0.0.0/8",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::ffff:0:0/96",
    "ff00::/8",
)
DENIED = (
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
    "::/96",
    "::ffff:0:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
)
"""Private, special and tunnelled networks (RFC 6890 and its updates, as IANA's registries have
them): denied unless allowed."""
_EMBEDDING = (
    # (prefix, where the IPv4 address begins, what its bytes are XORed with)
    (ip_network("::/96"), 12, 0),
    (ip_network("::ffff:0:0:0/96"), 12, 0),
    (ip_network("64:ff9b::/96"), 12, 0),
    (ip_network("2002::/16"), 2, 0),
    (ip_network("2001::/32"), 12, 0xFF),
)
"""IPv6 networks behind which a gateway reaches IPv4 addresses: IPv4-compatible (RFC 4291), SIIT
(RFC 7915), NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo (RFC 4380)."""

_CACHE_ENTRIES = 1024
_CACHE_LIFETIME_S = 60

Network = IPv4Network | IPv6Network


class _Prefixes:
    """Networks by length, the longest first, for a look-up by masking."""

    def __init__(self, networks: Sequence[Network]) -> None:
        grouped: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            key = (network.max_prefixlen // 8, network.prefixlen)
            grouped.setdefault(key, set()).add(
                int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
            )
        self._groups = sorted(
            ((size, length, found) for (size, length), found in grouped.items()),
            key=lambda group: -group[1],
        )

    def longest_match(self, ip: bytes) -> int:
        """The length of the longest prefix that holds `ip`, -1 when none does."""
        number = int.from_bytes(ip, "big")
        bits = 8 * len(ip)
        for size, length, found in self._groups:
            if size == len(ip) and number >> (bits - length) in found:
                return length
        return -1


def embedded_ip(ip: bytes) -> bytes | None:
    """The IPv4 address that a gateway would send to in place of this IPv6 address."""
    if len(ip) != 16:
        return None
    address = IPv6Address(ip)
    for network, start, mask in _EMBEDDING:
        if address in network:
            return bytes(byte ^ mask for byte in ip[start : start + 4])
    return None


_NEVER = _Prefixes([ip_network(text) for text in NEVER])
_DENIED = _Prefixes([ip_network(text) for text in DENIED])


class PeerPolicy:
    """Judges peers.

    Args:
        own: packed IP addresses that the node listens on or relays from.
        relay_addresses: those of them that relays are bound to.
        external: the node's addresses, bound -> as seen from outside.
        is_local: whether a packed IP address is one of this machine's.
    """

    def __init__(
        self,
        rules: PeerRules,
        own: Collection[bytes],
        relay_addresses: Collection[bytes],
        external: Mapping[bytes, bytes],
        is_local: Callable[[bytes], bool],
    ) -> None:
        self._allow = _Prefixes(rules.allow)
        self._deny = _Prefixes(rules.deny)
        self._own = frozenset(own)
        self._relay_addresses = frozenset(relay_addresses)
        self._is_local = is_local
        self._inner = {outer: inner for inner, outer in external.items()}
        self._outer = dict(external)
        self._judged: dict[bytes, int] = {}
        self._judged_since_s = 0

    def inner(self, peer: Address) -> Address:
        """The peer as the node is bound to it, where a client names one of the node's own
        addresses as it is seen from outside. To be done before anything else."""
        inner = self._inner.get(peer.ip)
        return peer if inner is None else Address(inner, peer.port)

    def outer(self, peer: Address) -> Address:
        """The peer as clients know it."""
        outer = self._outer.get(peer.ip)
        return peer if outer is None else Address(outer, peer.port)

    def judge(self, ip: bytes, now_s: int) -> int:
        """`FORBIDDEN`, or what the address is to the node: `OWN_NO`, `OWN_RELAYS_ONLY`,
        `OWN_ALLOWED`."""
        judged = self._judged
        if now_s - self._judged_since_s > _CACHE_LIFETIME_S or len(judged) >= _CACHE_ENTRIES:
            judged.clear()
            self._judged_since_s = now_s
        judgement = judged.get(ip)
        if judgement is None:
            judgement = judged[ip] = self._judge(ip)
        return judgement

    def _judge(self, ip: bytes) -> int:
        if _NEVER.longest_match(ip) >= 0:
            return FORBIDDEN
        allowed = self._allow.longest_match(ip)
        denied = self._deny.longest_match(ip)
        if denied >= 0 and denied >= allowed:
            return FORBIDDEN
        if ip in self._own or self._is_local(ip):
            if allowed >= 0:
                return OWN_ALLOWED
            return OWN_RELAYS_ONLY if ip in self._relay_addresses else FORBIDDEN
        if allowed < 0 and _DENIED.longest_match(ip) >= 0:
            return FORBIDDEN
        inside = embedded_ip(ip)
        if inside is not None and self._judge(inside) != OWN_NO:
            # Who opens a gateway's network opens the internet behind it, not this machine's own.
            return FORBIDDEN
        return OWN_NO
