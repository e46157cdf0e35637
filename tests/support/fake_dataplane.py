"""A data plane in memory: it forwards for real, in whatever time its clock shows.

Clients and peers are addresses that tests send from (`client_sends`, `peer_sends`); what reaches
them is in `to_clients` and `to_peers`. It does by dictionaries what the compiled engine does by
hash tables, so that simulations can run thousands of calls without a socket.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.clock import Clock
from core.errors import StunError
from core.stun.address import Address, FiveTuple
from core.stun.attributes import decode_xor_address_untrusted, encode_xor_address
from core.stun.channel_data import decode_channel_data_untrusted, encode_channel_data
from core.stun.constants import Attribute, MessageClass, Method
from core.stun.message import decode_message_untrusted, encode_message
from core.units import NS_PER_S
from relay.dataplane.interface import (
    OWN_NO,
    OWN_RELAYS_ONLY,
    UNLIMITED_SECONDS,
    ControlDatagram,
    IcmpError,
    RelayUnavailable,
)

FLOW_TYPE = np.dtype(
    [
        ("allocation", "u4"),
        ("session", "u4"),
        ("channel", "u2"),
        ("packets_to_peer", "u8"),
        ("bytes_to_peer", "u8"),
        ("packets_to_client", "u8"),
        ("bytes_to_client", "u8"),
    ]
)
SESSION_TYPE = np.dtype([("session", "u4"), ("active_seconds", "u8")])


@dataclass
class Flow:
    """A permission (channel 0) or a channel."""

    allocation: int
    session: int
    channel: int
    expires_ns: int
    own: int = OWN_NO
    counters: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    def row(self) -> tuple[int, ...]:
        return (self.allocation, self.session, self.channel, *self.counters)


@dataclass
class Allocation:
    """What an allocation forwards."""

    five_tuple: FiveTuple
    relays: list[int]
    session: int
    expires_ns: int
    rate_bytes_s: int
    permissions: dict[bytes, Flow] = field(default_factory=dict)
    channels: dict[int, Flow] = field(default_factory=dict)
    peers: dict[int, Address] = field(default_factory=dict)

    def channel_to(self, peer: Address) -> int:
        return next((channel for channel, other in self.peers.items() if other == peer), 0)


class FakeDataPlane:
    """Implements `relay.dataplane.interface.DataPlane` in memory."""

    def __init__(self, clock: Clock) -> None:
        self.control_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.clock = clock
        self.relays: dict[int, Address] = {}
        self.bound: dict[Address, int] = {}
        self.owners: dict[int, int] = {}
        self.allocations: dict[int, Allocation] = {}
        self.by_client: dict[FiveTuple, int] = {}
        self.sessions: dict[int, set[int]] = {}
        self.granted: dict[int, int] = {}
        self.joined: Counter[int] = Counter()
        self.closing: set[int] = set()
        self.to_clients: deque[tuple[FiveTuple, bytes]] = deque()
        self._replies: list[tuple[FiveTuple, bytes]] = []
        self.to_peers: deque[tuple[Address, Address, bytes]] = deque()
        self.unavailable: set[Address] = set()
        self.closed = False
        self._next = 1
        self._control: deque[ControlDatagram | IcmpError] = deque()
        self._closed_flows: list[tuple[int, ...]] = []
        self._closed_sessions: list[tuple[int, int]] = []
        self._totals: Counter[str] = Counter()

    # What a test does.

    def client_sends(self, five_tuple: FiveTuple, datagram: bytes) -> None:
        """A datagram from a client reaches the node."""
        handle = self.by_client.get(five_tuple)
        allocation = self.allocations.get(handle) if handle is not None else None
        if datagram and 0x40 <= datagram[0] <= 0x7F:
            try:
                channel, payload = decode_channel_data_untrusted(datagram)
            except StunError:
                self._totals["drop_malformed"] += 1
                return
            if allocation is None or channel not in allocation.channels:
                self._totals["drop_no_channel"] += 1
                return
            assert handle is not None
            self._forward(handle, allocation.peers[channel], payload, allocation.channels[channel])
            return
        if allocation is not None:
            try:
                message = decode_message_untrusted(datagram)
            except StunError:
                self._totals["drop_malformed"] += 1
                return
            peer = message.first(Attribute.XOR_PEER_ADDRESS)
            data = message.first(Attribute.DATA)
            if (
                message.method == Method.SEND
                and message.message_class == MessageClass.INDICATION
                and peer is not None
                and data is not None
                and message.first(Attribute.DONT_FRAGMENT) in (None, b"")
            ):
                assert handle is not None
                self.send_to_peer(
                    handle, decode_xor_address_untrusted(peer, message.transaction_id), data, False
                )
                return
        self.put(ControlDatagram(five_tuple, datagram))

    def put(self, item: ControlDatagram | IcmpError) -> None:
        """Something for the control plane."""
        self._control.append(item)
        os.eventfd_write(self.control_fd, 1)

    def peer_sends(self, peer: Address, relay: Address, payload: bytes) -> None:
        """A datagram from `peer` reaches a relayed transport address."""
        handle = self.owners.get(self.bound.get(relay, 0))
        if handle is None:
            self._totals["drop_no_allocation"] += 1
            return
        allocation = self.allocations[handle]
        now_ns = self.clock.monotonic_ns()
        permission = allocation.permissions.get(peer.ip)
        if permission is None or min(permission.expires_ns, allocation.expires_ns) <= now_ns:
            self._totals["drop_no_permission"] += 1
            return
        channel = allocation.channel_to(peer)
        flow = allocation.channels[channel] if channel else permission
        if channel and flow.expires_ns > now_ns:
            datagram = encode_channel_data(channel, payload)
        else:
            flow = permission
            transaction_id = self.clock.random_bytes(12)
            datagram = encode_message(
                Method.DATA,
                MessageClass.INDICATION,
                transaction_id,
                [
                    (Attribute.XOR_PEER_ADDRESS, encode_xor_address(peer, transaction_id)),
                    (Attribute.DATA, payload),
                ],
            )
        self._count(flow, "client", payload)
        self.to_clients.append((allocation.five_tuple, datagram))

    # What the interface asks for.

    def start(self) -> None:
        pass

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        os.close(self.control_fd)

    def receive(self, limit: int) -> list[ControlDatagram | IcmpError]:
        items = [self._control.popleft() for _ in range(min(limit, len(self._control)))]
        if not self._control:
            try:
                os.eventfd_read(self.control_fd)
            except BlockingIOError:
                assert not items
        return items

    def reply(self, five_tuple: FiveTuple, payload: bytes) -> None:
        self._replies.append((five_tuple, payload))

    def flush_replies(self) -> None:
        self.to_clients.extend(self._replies)
        self._replies.clear()

    def open_session(self, granted_seconds: int = UNLIMITED_SECONDS) -> int:
        self.granted[self._next] = granted_seconds
        self.sessions[self._next] = set()
        return self._take_number()

    def close_session(self, session: int) -> None:
        assert session in self.sessions
        assert session not in self.closing
        self.closing.add(session)
        self._end_session(session)

    def grant_sessions(self, sessions: Any, granted_seconds: Any) -> None:
        for session, granted in zip(sessions.tolist(), granted_seconds.tolist(), strict=True):
            assert session in self.sessions
            self.granted[session] = granted

    def open_relay(self, address: Address) -> int:
        if address in self.bound or address in self.unavailable:
            raise RelayUnavailable(str(address))
        self.bound[address] = self._next
        self.relays[self._next] = address
        return self._take_number()

    def close_relay(self, relay: int) -> None:
        assert relay not in self.owners
        del self.bound[self.relays.pop(relay)]

    def open_allocation(
        self,
        five_tuple: FiveTuple,
        relays: Sequence[int],
        session: int,
        expires_ns: int,
        rate_bytes_s: int,
    ) -> int:
        assert five_tuple not in self.by_client
        assert 1 <= len(relays) <= 2
        assert session in self.sessions
        assert session not in self.closing
        handle = self._take_number()
        self.allocations[handle] = Allocation(
            five_tuple, list(relays), session, expires_ns, rate_bytes_s
        )
        self.by_client[five_tuple] = handle
        for relay in relays:
            assert relay in self.relays
            assert relay not in self.owners
            self.owners[relay] = handle
        self.joined[session] += 1
        return handle

    def refresh_allocation(self, allocation: int, expires_ns: int) -> None:
        self.allocations[allocation].expires_ns = expires_ns

    def set_rate(self, allocation: int, rate_bytes_s: int) -> None:
        self.allocations[allocation].rate_bytes_s = rate_bytes_s

    def remove_relay(self, allocation: int, ip_bytes: int) -> None:
        entry = self.allocations[allocation]
        assert {len(self.relays[relay].ip) for relay in entry.relays} == {4, 16}
        assert all(len(ip) != ip_bytes for ip in entry.permissions)
        assert all(len(peer.ip) != ip_bytes for peer in entry.peers.values())
        (given_up,) = (relay for relay in entry.relays if len(self.relays[relay].ip) == ip_bytes)
        entry.relays.remove(given_up)
        del self.owners[given_up]
        self.close_relay(given_up)

    def close_allocation(self, allocation: int) -> None:
        closed = self.allocations.pop(allocation)
        del self.by_client[closed.five_tuple]
        for relay in closed.relays:
            del self.owners[relay]
            self.close_relay(relay)
        for flow in (*closed.permissions.values(), *closed.channels.values()):
            self._closed_flows.append(flow.row())
        self.joined[closed.session] -= 1
        self._end_session(closed.session)

    def install_permission(
        self, allocation: int, peer_ip: bytes, expires_ns: int, own: int
    ) -> None:
        entry = self.allocations[allocation]
        flow = entry.permissions.setdefault(peer_ip, Flow(allocation, entry.session, 0, expires_ns))
        flow.expires_ns = expires_ns
        flow.own = own

    def install_channel(
        self, allocation: int, channel: int, peer: Address, expires_ns: int
    ) -> None:
        entry = self.allocations[allocation]
        assert peer.ip in entry.permissions
        assert entry.peers.get(channel, peer) == peer
        entry.peers[channel] = peer
        flow = entry.channels.setdefault(
            channel, Flow(allocation, entry.session, channel, expires_ns)
        )
        flow.expires_ns = expires_ns

    def remove_permission(self, allocation: int, peer_ip: bytes) -> None:
        flow = self.allocations[allocation].permissions.pop(peer_ip)
        self._closed_flows.append(flow.row())

    def remove_channel(self, allocation: int, channel: int) -> None:
        entry = self.allocations[allocation]
        del entry.peers[channel]
        self._closed_flows.append(entry.channels.pop(channel).row())

    def send_to_peer(
        self, allocation: int, peer: Address, payload: bytes, dont_fragment: bool
    ) -> None:
        del dont_fragment
        permission = self.allocations[allocation].permissions.get(peer.ip)
        if permission is None:
            self._totals["drop_no_permission"] += 1
            return
        self._forward(allocation, peer, payload, permission)

    def flow_counters(self) -> Any:
        rows = [
            flow.row()
            for allocation in self.allocations.values()
            for flow in (*allocation.permissions.values(), *allocation.channels.values())
        ]
        return np.array(rows, dtype=FLOW_TYPE)

    def session_counters(self) -> Any:
        rows = [(handle, len(seconds)) for handle, seconds in self.sessions.items()]
        return np.array(rows, dtype=SESSION_TYPE)

    def take_closed_flows(self) -> Any:
        rows, self._closed_flows = self._closed_flows, []
        return np.array(rows, dtype=FLOW_TYPE)

    def take_closed_sessions(self) -> Any:
        rows, self._closed_sessions = self._closed_sessions, []
        return np.array(rows, dtype=SESSION_TYPE)

    def totals(self) -> dict[str, int]:
        return dict(self._totals)

    # Inside.

    def _take_number(self) -> int:
        self._next += 1
        return self._next - 1

    def _end_session(self, session: int) -> None:
        if session in self.closing and not self.joined[session]:
            self._closed_sessions.append((session, len(self.sessions.pop(session))))
            self.closing.remove(session)

    def _count(self, flow: Flow, direction: str, payload: bytes) -> None:
        first = 0 if direction == "peer" else 2
        flow.counters[first] += 1
        flow.counters[first + 1] += len(payload)
        self._totals[f"packets_to_{direction}"] += 1
        self._totals[f"bytes_to_{direction}"] += len(payload)
        self.sessions[flow.session].add(self.clock.monotonic_ns() // NS_PER_S)

    def _forward(self, handle: int, peer: Address, payload: bytes, flow: Flow) -> None:
        allocation = self.allocations[handle]
        now_ns = self.clock.monotonic_ns()
        permission = allocation.permissions.get(peer.ip)
        if min(flow.expires_ns, allocation.expires_ns) <= now_ns:
            self._totals["drop_expired"] += 1
            return
        if permission is None or permission.expires_ns <= now_ns:
            self._totals["drop_no_permission"] += 1
            return
        family = len(peer.ip)
        source = next(
            (
                self.relays[relay]
                for relay in allocation.relays
                if len(self.relays[relay].ip) == family
            ),
            None,
        )
        if source is None or (permission.own == OWN_RELAYS_ONLY and peer not in self.bound):
            self._totals["drop_forbidden"] += 1
            return
        self._count(flow, "peer", payload)
        if peer in self.bound:
            self.peer_sends(source, peer, payload)
        else:
            self.to_peers.append((source, peer, payload))
