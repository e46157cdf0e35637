"""What servers of signaling are loaded with: pages in rooms that talk, and pages that do not."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from bench.process import cpu_time_ns, proportional_bytes, waited_ns
from bench.servers import MONTANA
from bench.signaling_client import (
    RECEIVE_BYTES,
    Connection,
    Crowd,
    client_frame,
    server_frame,
    source_addresses,
)
from bench.signaling_servers import ROOM_TOKEN, SignalingServer
from bench.turn_client import ClientError
from core.stun.address import Address
from core.units import NS_PER_S
from relay.signaling.messages import Description, Passed, Signal, encode

MESSAGE_BYTES: Final = 600
"""Of a Signal with a description."""
WARM_UP_S: Final = 0.5
DRAIN_S: Final = 10.0
ROOM: Final = 10
"""People of a room in which nobody talks."""
WARM_ROOMS: Final = 20
"""Come before memory is counted: what a server makes once is not a session's."""
_FIRST_SEQ: Final = 1_000_000
"""The first of a page may be any; from here on all have as many digits."""
_CONNECTION: Final = "bench"

OFFER: Final = "\r\n".join(
    (
        "v=0",
        "o=- 4611731400430051336 2 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0",
        "a=msid-semantic: WMS",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111",
        "c=IN IP4 0.0.0.0",
        "a=ice-ufrag:4ZcD",
        "a=ice-pwd:2/1muCWoOi3uLifh0NuRHlZs",
        "a=fingerprint:sha-256 " + ":".join(f"{byte:02X}" for byte in range(160, 192)),
        "a=setup:actpass",
        "a=mid:0",
        "a=sendrecv",
        "a=rtcp-mux",
        "a=rtpmap:111 opus/48000/2",
        "",
    )
)
"""Of sound alone, as short as there is."""


class Routed(NamedTuple):
    """What came of talking for a while.

    Attributes:
        messages: that arrived while it was measured.
        busy: the share of its core that the server used.
        waited: the share of the time in which it waited for its core.
    """

    messages: int
    elapsed_ns: int
    cpu_ns: int
    busy: float
    waited: float


class _Flow:
    """One direction between two people of a room: so many messages are always under way."""

    def __init__(self, sender: Connection, receiver: Connection, ids: tuple[str, str]) -> None:
        self.receiver = receiver.socket
        self.arrived = 0
        self._sender = sender
        here, there = ids
        padding = MESSAGE_BYTES - len(_signal(there, OFFER))
        description = Description("offer", f"{OFFER}a={'x' * (padding - 6)}\r\n")
        message = _signal(there, description.sdp)
        assert len(message) == MESSAGE_BYTES
        self._frame = client_frame(message)
        self._seq_at = self._frame.index(b"%d" % _FIRST_SEQ)
        self._digits = len(b"%d" % _FIRST_SEQ)
        self._expected = server_frame(encode(Passed(here, _CONNECTION, description)))
        self._pattern = self._expected * (RECEIVE_BYTES // len(self._expected) + 2)
        self._bytes = 0
        self.sent = 0

    def send(self, messages: int) -> None:
        """Send the next so many with one call."""
        frames = bytearray(self._frame * messages)
        sender, at = self._sender, self._seq_at
        for _ in range(messages):
            sender.seq += 1
            frames[at : at + self._digits] = b"%d" % sender.seq
            at += len(self._frame)
        sender.send(memoryview(frames))
        self.sent += messages

    def take(self, data: bytes) -> int:
        """Count what has arrived, all of which has to be as it was sent; how many messages are
        whole now that were not before."""
        start = self._bytes % len(self._expected)
        if data != self._pattern[start : start + len(data)]:
            raise ClientError(f"something else than was sent has come: {data[:2000]!r}")
        self._bytes += len(data)
        whole = self._bytes // len(self._expected) - self.arrived
        self.arrived += whole
        return whole


def _signal(to: str, sdp: str) -> bytes:
    return msgspec.json.encode(Signal(_FIRST_SEQ, to, _CONNECTION, Description("offer", sdp)))


class Talk:
    """Rooms of two, whose people send descriptions to each other without a pause.

    Args:
        window: messages of each that are under way; the next is sent when one has arrived.
    """

    def __init__(self, server: SignalingServer, rooms: int, window: int) -> None:
        self._server = server
        self._window = window
        self._connections: list[Connection] = []
        self._flows: dict[int, _Flow] = {}
        try:
            for _ in range(rooms):
                self._open_room(server.address)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave."""
        for connection in self._connections:
            connection.close()

    def _open_room(self, address: Address) -> None:
        pair: list[Connection] = []
        for _ in range(2):
            pair.append(Connection(address, seq=_FIRST_SEQ - 1))
            self._connections.append(pair[-1])
        host, guest = pair
        made = host.ask("create", token=ROOM_TOKEN)
        joined = guest.ask("join", invitation=made["invitation"])
        host.expect("peer_joined")
        ids = made["you"], joined["you"]
        for sender, receiver, names in ((host, guest, ids), (guest, host, ids[::-1])):
            self._flows[receiver.socket.fileno()] = _Flow(sender, receiver, names)

    def measure(self, seconds: float) -> Routed:
        """Talk for `seconds` after a warm-up; every message that was sent has to arrive as it was,
        once and in its order.

        Raises:
            ClientError: one has not.
        """
        pid = self._server.pid
        with select.epoll() as poll:
            for descriptor in self._flows:
                poll.register(descriptor, select.EPOLLIN)
            for flow in self._flows.values():
                flow.send(self._window)
            self._run(poll, WARM_UP_S)
            waited = waited_ns(pid)
            started_ns, cpu_ns = time.monotonic_ns(), cpu_time_ns(pid)
            messages = self._run(poll, seconds)
            elapsed_ns, cpu_ns = time.monotonic_ns() - started_ns, cpu_time_ns(pid) - cpu_ns
            waited = waited_ns(pid) - waited
            self._drain(poll)
        return Routed(messages, elapsed_ns, cpu_ns, cpu_ns / elapsed_ns, waited / elapsed_ns)

    def _run(self, poll: select.epoll, seconds: float) -> int:
        """Answer each message that arrives by the next one; how many arrived."""
        flows, messages = self._flows, 0
        until_ns = time.monotonic_ns() + int(seconds * NS_PER_S)
        while time.monotonic_ns() < until_ns:
            for descriptor, _ in poll.poll(0.1):
                flow = flows[descriptor]
                whole = flow.take(_read(flow.receiver))
                if whole:
                    flow.send(whole)
                    messages += whole
        return messages

    def _drain(self, poll: select.epoll) -> None:
        """Wait for what is under way."""
        until_s = time.monotonic() + DRAIN_S
        while any(flow.arrived < flow.sent for flow in self._flows.values()):
            if time.monotonic() > until_s:
                raise ClientError("messages were lost")
            for descriptor, _ in poll.poll(0.1):
                flow = self._flows[descriptor]
                flow.take(_read(flow.receiver))


def _read(receiver: socket.socket) -> bytes:
    data = receiver.recv(RECEIVE_BYTES)
    if not data:
        raise ClientError("a server has hung up")
    return data


@contextmanager
def talk(server: SignalingServer, rooms: int, window: int) -> Iterator[Talk]:
    """See `Talk`; all leave in the end."""
    opened = Talk(server, rooms, window)
    try:
        yield opened
    finally:
        opened.close()


def session_bytes(server: SignalingServer, sessions: int, settle_s: float) -> float:
    """Memory (PSS) that each of so many idle sessions takes: on the node people in rooms of ten,
    on its rival bare WebSockets. `settle_s` is waited before each reading, until the server has
    stored what came last and freed what that took."""
    sources = iter(source_addresses())
    crowd = Crowd()
    enter = _enter_rooms if server.name == MONTANA else _enter_nothing
    try:
        enter(server, crowd, list(islice(sources, WARM_ROOMS * ROOM)))
        crowd.serve(settle_s)
        before = proportional_bytes(server.pid)
        enter(server, crowd, list(islice(sources, sessions)))
        crowd.serve(settle_s)
        return (proportional_bytes(server.pid) - before) / sessions
    finally:
        crowd.close()


def _enter_rooms(server: SignalingServer, crowd: Crowd, sources: list[str]) -> None:
    assert len(sources) % ROOM == 0
    for first in range(0, len(sources), ROOM):
        invitation = ""
        for source in sources[first : first + ROOM]:
            connection = Connection(server.address, source=source)
            if invitation:
                connection.ask("join", invitation=invitation)
            else:
                invitation = connection.ask("create", token=ROOM_TOKEN)["invitation"]
            crowd.add(connection)
        # Those who came first are asked whether they are there while the others come.
        crowd.serve()


def _enter_nothing(server: SignalingServer, crowd: Crowd, sources: list[str]) -> None:
    for source in sources:
        crowd.add(Connection(server.address, source=source, path="/idle", is_greeted=False))
