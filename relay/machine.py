"""What the node asks of the machine that it runs on."""

from __future__ import annotations

import errno
import os
import resource
import socket
from ipaddress import ip_address


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
    """Whether a packed IP address is one of this machine's: what can be bound is."""
    address = ip_address(packed_ip)
    if address.is_multicast or address.is_unspecified:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        # In doubt (no descriptor, no port left) it is ours, which is the careful answer.
        return error.errno != errno.EADDRNOTAVAIL
    return True


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0))
