"""What the sans-I/O TURN server wishes to happen, as plain values.

`Server` returns a list of these, in order, from each call; the listener that drives it
carries them out: replies go to the network, the rest to the data plane. Identifiers
(`relay`, `allocation`) are chosen by the server, start at 1 and are never used again.
All times are `CLOCK_MONOTONIC` nanoseconds.
"""

from __future__ import annotations

from typing import NamedTuple

from core.stun.address import Address, FiveTuple


class Reply(NamedTuple):
    """Send `payload` to the client of `five_tuple`, from its server address."""

    five_tuple: FiveTuple
    payload: bytes


class OpenRelay(NamedTuple):
    """Bind a relayed transport address. The outcome comes back through
    `Server.relay_opened(relay)` or `Server.relay_failed(relay)`."""

    relay: int
    address: Address


class CloseRelay(NamedTuple):
    """Close a relay that no allocation owns (a reservation that ran out, a half-opened pair).
    Those of an allocation are closed by `RemoveRelay` and `CloseAllocation`."""

    relay: int


class RemoveRelay(NamedTuple):
    """Close an allocation's relay of one family (`ip_bytes` 4 or 16); it lives on with the other.

    What led to that family has been removed before."""

    allocation: int
    ip_bytes: int


class JoinSession(NamedTuple):
    """Ask whether `payer` pays for an allocation of `session`; None is the call that it is for,
    which has to be open.
    The outcome comes back, then or later, through `Server.session_joined(allocation)` or
    `Server.session_refused(allocation, code)`, which answers with that STUN error code.

    What has joined leaves by `LeaveSession`, or by `CloseAllocation` once it is open."""

    allocation: int
    session: str
    payer: str | None


class LeaveSession(NamedTuple):
    """An allocation that had joined its session has not come to be."""

    allocation: int


class OpenAllocation(NamedTuple):
    """Join the relays (one, or one of each address family) to a client's five-tuple, then send
    it `answer`. `account` is whose it is, by the name that was authenticated.

    When that can't be done, the relays are closed, nothing is sent and `Server.allocation_failed`
    is told: the client will ask again."""

    allocation: int
    five_tuple: FiveTuple
    relays: tuple[int, ...]
    session: str
    account: str
    expires_ns: int
    answer: bytes


class RefreshAllocation(NamedTuple):
    """The allocation now lives until `expires_ns`."""

    allocation: int
    expires_ns: int


class CloseAllocation(NamedTuple):
    """Forget the allocation with its relays, permissions and channels."""

    allocation: int
    reason: str


class InstallPermission(NamedTuple):
    """Packets between the allocation and any port of `peer_ip` may pass until `expires_ns`.

    Channels of the same `peer_ip` get the new time as well. `own` says what the address is
    to this node: `OWN_NO`, `OWN_RELAYS_ONLY` or `OWN_ALLOWED` of `relay.dataplane.interface`.
    """

    allocation: int
    peer_ip: bytes
    expires_ns: int
    own: int


class InstallChannel(NamedTuple):
    """ChannelData with `channel` is to reach `peer` and the other way round, until `expires_ns`.

    Always follows the `InstallPermission` of the same peer."""

    allocation: int
    channel: int
    peer: Address
    expires_ns: int


class RemovePermission(NamedTuple):
    """A permission that has ended: its slot may be used again."""

    allocation: int
    peer_ip: bytes


class RemoveChannel(NamedTuple):
    """A channel that has ended: its slot may be used again."""

    allocation: int
    channel: int


class RelayData(NamedTuple):
    """Send `payload` to `peer` from the allocation's relayed address: a Send indication that
    the data plane left to the server, since it holds what the packet path does not read (a
    DONT-FRAGMENT with a value)."""

    allocation: int
    peer: Address
    payload: bytes
    dont_fragment: bool


Effect = (
    Reply
    | OpenRelay
    | CloseRelay
    | RemoveRelay
    | JoinSession
    | LeaveSession
    | OpenAllocation
    | RefreshAllocation
    | CloseAllocation
    | InstallPermission
    | InstallChannel
    | RemovePermission
    | RemoveChannel
    | RelayData
)
