"""What the node asks of the machine that it runs on."""

from __future__ import annotations

import errno
import os
import resource
import socket
from ipaddress import ip_address
from pathlib import Path

import psutil


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


def is_local_address(packed_ip: bytes) -> bool:
    """Whether a packed IP address is one of this machine's: what can be bound is.

    Where the system lets everything be bound (`net.ipv4.ip_nonlocal_bind`, as on a host that takes
    over another's address), the addresses of its interfaces are.
    """
    address = ip_address(packed_ip)
    if address.is_multicast or address.is_unspecified:
        return False
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    if _binds_everything(address.version):
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
