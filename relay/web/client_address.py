"""Who a client is: by its address, also where a reverse proxy on this machine stands between."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network


def client_of_untrusted(peer: str, forwarded_for: str | None) -> str:
    """The client's IP address as text, behind a reverse proxy on this machine: the last entry of
    X-Forwarded-For, the one that the proxy itself has seen and added. What stands before it is
    whatever the client likes.

    Args:
        peer: the IP address that the connection comes from. Whoever is not this machine is taken
            for what it is, whatever it says.
        forwarded_for: the header's value, of several lines joined by commas; None for no header.
            What is no IP address there counts as nothing.
    """
    if forwarded_for is None or not is_this_machine(peer):
        return peer
    entry = forwarded_for.rpartition(",")[2].strip(" \t")
    try:
        address = ip_address(entry)
    except ValueError:
        return peer
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return peer
        # As proxies write IPv4 that comes in over a socket of both kinds.
        return str(address.ipv4_mapped or address)
    return str(address)


def is_this_machine(peer: str) -> bool:
    """Whether a connection from this IP address can have begun on this machine alone."""
    return ip_address(peer.partition("%")[0]).is_loopback


def client_network(client: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 address."""
    address = ip_address(client.partition("%")[0])
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return str(address)
