"""The node's configuration: one TOML file, validated once, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from core.stun.address import Address

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a listener is bound: ``udp://127.0.0.1:3478``."""

    transport: str
    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRules:
    """Allow and deny lists over the built-in peer rules; the longest prefix wins, deny on a tie."""

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLimits:
    """Bounds that an operator may move."""

    allocations: int = 10_000
    allocations_per_user: int = 100
    permissions_per_allocation: int = 64
    channels_per_allocation: int = 64
    bytes_per_second: int = 0
    error_replies_per_second: int = 20
    error_replies_exempt: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnConfig:
    """The ``[turn]`` table."""

    listen: tuple[Endpoint, ...]
    relay_addresses: tuple[bytes, ...]
    relay_ports: tuple[int, int] = (49152, 65535)
    realm: str = "montana"
    workers: int = 1
    low_latency: bool = False
    secrets: tuple[str, ...] = ()
    users: Mapping[str, str] = field(default_factory=dict)
    peers: PeerRules = PeerRules()
    external: Mapping[bytes, bytes] = field(default_factory=dict)
    limits: TurnLimits = TurnLimits()
    default_lifetime_s: int = 600
    max_lifetime_s: int = 3600
    nonce_lifetime_s: int = 3600
    drain_timeout_s: int = 60
