"""What the node asks of the machine that it runs on."""

from __future__ import annotations

import errno
import os
import resource
import socket
from ipaddress import ip_address
from pathlib import Path

import psutil

from core.clock import Clock
from core.units import NS_PER_S

KNOWN_S = 60
"""The machine's addresses may change."""
KNOWN_MAXIMUM = 65_536


def raise_descriptor_limit(needed: int) -> int:
    """Let this process open `needed` files, or as many as it may; returns how many it may now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        for new_hard in (max(hard, needed), hard):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, new_hard), new_hard))
                break
            except (ValueError, OSError):
                # Only root may raise the hard limit: the second try keeps to it.
                continue
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return needed if soft == resource.RLIM_INFINITY else soft


class LocalAddresses:
    """Tells which packed IP addresses are this machine's; asks the system once a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[bytes, bool] = {}
        self._since_ns = clock.monotonic_ns()
        self._bind_all = {version: _binds_everything(version) for version in (4, 6)}

    def __call__(self, packed_ip: bytes) -> bool:
        """Whether the address is one of them, or may be."""
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._since_ns > KNOWN_S * NS_PER_S or len(self._known) >= KNOWN_MAXIMUM:
            self._known.clear()
            self._since_ns = now_ns
            self._bind_all = {version: _binds_everything(version) for version in (4, 6)}
        local = self._known.get(packed_ip)
        if local is None:
            bind_all = self._bind_all[4 if len(packed_ip) == 4 else 6]
            local = self._known[packed_ip] = is_local_address(packed_ip, bind_all=bind_all)
        return local


def is_local_address(packed_ip: bytes, *, bind_all: bool) -> bool:
    """Whether a packed IP address is one of this machine's: what can be bound is.

    Where the system lets everything be bound (`bind_all`: `net.ipv4.ip_nonlocal_bind`, as on a host
    that takes over another's address), the addresses of its interfaces are.
    """
    address = ip_address(packed_ip)
    if address.is_multicast or address.is_unspecified:
        return False
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    if bind_all:
        return str(address) in {
            entry.address.partition("%")[0]
            for entries in psutil.net_if_addrs().values()
            for entry in entries
            if entry.family == family
        }
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        # In doubt (no descriptor, no port left) it is ours, which is the careful answer.
        return error.errno != errno.EADDRNOTAVAIL
    return True


def _binds_everything(version: int) -> bool:
    try:
        return Path(f"/proc/sys/net/ipv{version}/ip_nonlocal_bind").read_bytes().strip() == b"1"
    except OSError:
        return False


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0))
