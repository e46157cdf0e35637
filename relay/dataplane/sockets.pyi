"""The data plane over the kernel's UDP sockets: `relay.dataplane.interface.DataPlane`, compiled.

The object belongs to the control plane's thread, the one writer of the tables; each worker thread
runs without the GIL from `start` to `close`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.stun.address import Address, FiveTuple
from relay.dataplane.interface import ControlDatagram, IcmpError

LISTENER_BUFFER_BYTES: int
RELAY_BUFFER_BYTES: int
CONTROL_PER_SECOND: int
"""How many datagrams of one allocation a second go before those of strangers; what is over that
goes with them. As many ICMP errors reach the control plane, the others are `drop_icmp_rate`."""
STRANGER_BYTES: int
"""A stranger's larger datagram is `drop_malformed`; one of a client counts for several."""
STUN_BYTES_PER_SECOND: int
"""What of STUN a session may relay in a second that is not counted as an active one."""
SPARE_SLOTS: int

class SocketDataPlane:
    """Relays packets between UDP clients and UDP peers.

    Args:
        addresses: listening addresses; port 0 lets the kernel choose, see `listening`.
        workers: threads, of which each has a socket for each listening address.
        relay_addresses: packed IP addresses that relays will be bound to.
        external: packed IP addresses, bound -> as seen from outside (1:1 NAT).
        max_allocations: how many may live at the same time.
        flows_per_allocation: permissions and channels that each of them may have.
        low_latency: workers poll for a while after each packet instead of sleeping.

    Raises:
        OSError: an address can't be bound, or another process is there already.
    """

    control_fd: int
    @property
    def listening(self) -> list[Address]:
        """Where it listens, with the ports that the kernel chose."""

    def __init__(
        self,
        addresses: Sequence[Address],
        *,
        workers: int,
        relay_addresses: Sequence[bytes],
        external: Mapping[bytes, bytes],
        max_allocations: int,
        flows_per_allocation: int,
        low_latency: bool = False,
    ) -> None: ...
    def report(self) -> list[str]:
        """What the kernel gave, as lines for the log; the last one says how to get more."""

    def start(self) -> None:
        """Start the workers' threads."""

    def close(self) -> None:
        """Stop and join the threads, then close every socket. After it every other call raises
        RuntimeError, and another of this does nothing."""

    def receive(self, limit: int) -> list[ControlDatagram | IcmpError]:
        """Up to `limit` things for the control plane; clients that have an allocation first."""

    def reply(self, five_tuple: FiveTuple, payload: bytes) -> None:
        """Send a datagram to a client, with the next `flush_replies` at the latest."""

    def flush_replies(self) -> None:
        """Send what waits: many replies cost little more than one."""

    def open_session(self, granted_seconds: int = ...) -> int:
        """A handle under which active seconds are counted, as many as are granted."""

    def grant_sessions(self, sessions: Any, granted_seconds: Any) -> None:
        """So many active seconds may there be, those that were included; two arrays."""

    def close_session(self, session: int) -> None:
        """No more allocations will join."""

    def open_relay(self, address: Address) -> int:
        """Bind a relayed transport address; raises RelayUnavailable."""

    def close_relay(self, relay: int) -> None:
        """Close a relay that no allocation owns."""

    def open_allocation(
        self,
        five_tuple: FiveTuple,
        relays: Sequence[int],
        session: int,
        expires_ns: int,
        rate_bytes_s: int,
    ) -> int:
        """Join relays to a client; raises RelayUnavailable."""

    def refresh_allocation(self, allocation: int, expires_ns: int) -> None:
        """Move its end."""

    def set_rate(self, allocation: int, rate_bytes_s: int) -> None:
        """Limit each direction from now on, 0 for no limit."""

    def remove_relay(self, allocation: int, ip_bytes: int) -> None:
        """Close the relay of one address family of a dual allocation, which lives on."""

    def close_allocation(self, allocation: int) -> None:
        """Remove it with its relays and flows."""

    def install_permission(
        self, allocation: int, peer_ip: bytes, expires_ns: int, own: int
    ) -> None:
        """Let packets of any port of `peer_ip` pass; raises RelayUnavailable."""

    def install_channel(
        self, allocation: int, channel: int, peer: Address, expires_ns: int
    ) -> None:
        """Bind or refresh a channel; raises RelayUnavailable."""

    def remove_permission(self, allocation: int, peer_ip: bytes) -> None:
        """Remove an expired permission."""

    def remove_channel(self, allocation: int, channel: int) -> None:
        """Remove an expired channel."""

    def send_to_peer(
        self, allocation: int, peer: Address, payload: bytes, dont_fragment: bool
    ) -> None:
        """What a worker does with a Send indication, for one that came another way."""

    def flow_counters(self) -> np.ndarray[Any, np.dtype[Any]]:
        """One row a living permission or channel, of type `FLOW_TYPE`."""

    def session_counters(self) -> np.ndarray[Any, np.dtype[Any]]:
        """One row a living session, of type `SESSION_TYPE`."""

    def take_closed_flows(self) -> np.ndarray[Any, np.dtype[Any]]:
        """The last counters of flows that no worker can still touch, each exactly once."""

    def take_closed_sessions(self) -> np.ndarray[Any, np.dtype[Any]]:
        """The last counters of sessions that no worker can still touch, each exactly once."""

    def totals(self) -> dict[str, int]:
        """Everything that the workers count, summed, by name."""
