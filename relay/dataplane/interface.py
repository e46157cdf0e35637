"""What a data plane is to the rest of the node: the engine behind it may change.

One thread (the one that runs the control plane) calls these methods; the engine's own
threads forward packets meanwhile. Handles are small integers, meaningful to this engine alone.
Times are `CLOCK_MONOTONIC` nanoseconds; an entry past its time forwards nothing, whether or not
anybody has removed it yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from core.stun.address import Address, FiveTuple

OWN_NO = 0
"""A peer that is not this node."""
OWN_RELAYS_ONLY = 1
"""One of this node's addresses: only ports that are live relayed addresses are reached."""
OWN_ALLOWED = 2
"""One of this node's addresses that the operator allows: any port but the node's own listeners."""


UNLIMITED_SECONDS = 2**64 - 1
"""The grant of a session that nobody has to pay for."""


class ControlDatagram(NamedTuple):
    """A datagram from a client that is not relayed data."""

    five_tuple: FiveTuple
    payload: bytes


class IcmpError(NamedTuple):
    """An ICMP error that a relayed packet drew: what RFC 8656 section 11.5 reports."""

    allocation: int
    peer: Address
    icmp_type: int
    icmp_code: int
    data: int


class RelayUnavailable(Exception):
    """The relayed transport address can't be had (in use, or no descriptor or slot is left)."""


class DataPlane(Protocol):
    """Moves packets between clients and peers."""

    control_fd: int
    """Becomes readable when `receive` has something to return."""

    def start(self) -> None:
        """Start the engine's threads."""

    def close(self) -> None:
        """Stop and join the threads, then close every socket and free the memory. After it every
        other call raises RuntimeError, and another of this does nothing."""

    def receive(self, limit: int) -> list[ControlDatagram | IcmpError]:
        """Up to `limit` things for the control plane, oldest first; clears `control_fd` when
        none is left."""

    def reply(self, five_tuple: FiveTuple, payload: bytes) -> None:
        """Send a datagram to a client, with the next `flush_replies` at the latest. What the
        kernel would not take is counted as dropped."""

    def flush_replies(self) -> None:
        """Send what waits: many replies cost little more than one."""

    def open_session(self, granted_seconds: int = UNLIMITED_SECONDS) -> int:
        """A handle under which active seconds are counted, over any number of allocations. When
        there have been as many as granted, nothing but a little STUN is relayed any more
        (`unpaid`).

        Raises:
            RelayUnavailable: no slot is left.
        """

    def grant_sessions(self, sessions: Any, granted_seconds: Any) -> None:
        """So many active seconds may there be, those that were included: arrays of uint32 and of
        uint64, of sessions that have not been closed and taken."""

    def close_session(self, session: int) -> None:
        """No more allocations will join; its last counters come from `take_closed_sessions`
        when the last of them is closed."""

    def open_relay(self, address: Address) -> int:
        """Bind a relayed transport address.

        Raises:
            RelayUnavailable: try another.
        """

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
        """Join relays to a client; `rate_bytes_s` limits each direction, 0 for no limit.

        Raises:
            RelayUnavailable: no slot is left.
        """

    def refresh_allocation(self, allocation: int, expires_ns: int) -> None:
        """Move its end."""

    def set_rate(self, allocation: int, rate_bytes_s: int) -> None:
        """Limit each direction from now on, 0 for no limit; what the old limit would still have
        held back is forgiven."""

    def remove_relay(self, allocation: int, ip_bytes: int) -> None:
        """Close the relay of one address family (4 or 16) of a dual allocation that has given
        that family up; its flows have been removed already."""

    def close_allocation(self, allocation: int) -> None:
        """Remove it with its relays and flows; what they counted comes from `take_closed_flows`."""

    def install_permission(
        self, allocation: int, peer_ip: bytes, expires_ns: int, own: int
    ) -> None:
        """Let packets of any port of `peer_ip` pass, and refresh that on the channels of the same
        address. Raises RelayUnavailable when no slot is left."""

    def install_channel(
        self, allocation: int, channel: int, peer: Address, expires_ns: int
    ) -> None:
        """Bind or refresh a channel; the permission of the same address stands already.
        Raises RelayUnavailable when no slot is left."""

    def remove_permission(self, allocation: int, peer_ip: bytes) -> None:
        """Remove an expired permission."""

    def remove_channel(self, allocation: int, channel: int) -> None:
        """Remove an expired channel."""

    def send_to_peer(
        self, allocation: int, peer: Address, payload: bytes, dont_fragment: bool
    ) -> None:
        """What a worker does with a Send indication, for one that came another way."""

    def flow_counters(self) -> Any:
        """A numpy structured array, one row a living flow (a permission, which counts Send and
        Data, or a channel): allocation, session, channel (0 for a permission), and packets and
        bytes to the peer and to the client, payload only."""

    def session_counters(self) -> Any:
        """A numpy structured array, one row a living session: session, active_seconds (seconds in
        which anything but a little STUN was relayed, counted once each, never reset)."""

    def take_closed_flows(self) -> Any:
        """The last counters of flows that no worker can still touch, each exactly once."""

    def take_closed_sessions(self) -> Any:
        """The last counters of sessions that no worker can still touch, each exactly once."""

    def totals(self) -> dict[str, int]:
        """Packets and bytes since the start, drops by cause, wake-ups and system calls, summed
        over the workers."""
