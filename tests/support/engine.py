"""A data plane over real loopback sockets, with the control plane's part played by the test."""

from __future__ import annotations

import ctypes
import os
import random
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.stun.address import Address, FiveTuple
from core.stun.attributes import decode_xor_address_untrusted
from core.stun.constants import Attribute, MessageClass, Method
from core.stun.message import decode_message_untrusted
from relay.dataplane.interface import (
    OWN_ALLOWED,
    OWN_RELAYS_ONLY,
    ControlDatagram,
    IcmpError,
    RelayUnavailable,
)
from relay.dataplane.sockets import SocketDataPlane

FAR_NS = 10**18
PAST_NS = 1
TIMEOUT_S = 5.0
CHANNEL = 0x4000
# Of Linux; Python's socket module does not name it.
SO_ATTACH_FILTER = 26
_ports = random.Random()


def address(host: str, port: int = 0) -> Address:
    """An address from text."""
    return Address.from_text(host, port)


def udp_socket(host: str = "127.0.0.1") -> socket.socket:
    """A bound UDP socket that waits for a while."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind((host, 0))
    made.settimeout(TIMEOUT_S)
    return made


def address_of(bound: socket.socket) -> Address:
    """Where a socket is bound."""
    host, port = bound.getsockname()[:2]
    return address(host, port)


def gone_peer(host: str = "127.0.0.1") -> Address:
    """Where a peer was bound that is not there any more: what is sent there draws an error."""
    with udp_socket(host) as gone:
        return address_of(gone)


class Client:
    """A client with an allocation: a socket, and what the engine knows of it."""

    def __init__(
        self,
        engine: SocketDataPlane,
        session: int,
        *,
        host: str = "127.0.0.1",
        relay_hosts: Sequence[str] = ("127.0.0.1",),
        expires_ns: int = FAR_NS,
        rate_bytes_s: int = 0,
        server_host: str | None = None,
    ) -> None:
        self.engine = engine
        listener = next(one for one in engine.listening if len(one.ip) == len(address(host).ip))
        server = address(server_host or host, listener.port)
        self.socket = udp_socket(host)
        self.socket.connect((server.host, server.port))
        self.five_tuple = FiveTuple("udp", address_of(self.socket), server)
        self.relayed = []
        handles = []
        for relay_host in relay_hosts:
            handle, bound = open_relay(engine, relay_host)
            handles.append(handle)
            self.relayed.append(bound)
        self.allocation = engine.open_allocation(
            self.five_tuple, handles, session, expires_ns, rate_bytes_s
        )

    @property
    def relay(self) -> Address:
        """Its first relayed address."""
        return self.relayed[0]

    def permit(self, peer: Address, *, own: int = OWN_ALLOWED, expires_ns: int = FAR_NS) -> None:
        """Install a permission."""
        self.engine.install_permission(self.allocation, peer.ip, expires_ns, own)

    def bind(
        self,
        peer: Address,
        channel: int = CHANNEL,
        *,
        own: int = OWN_ALLOWED,
        expires_ns: int = FAR_NS,
    ) -> None:
        """Install a channel with its permission."""
        self.permit(peer, own=own)
        self.engine.install_channel(self.allocation, channel, peer, expires_ns)

    def send_channel(self, payload: bytes, channel: int = CHANNEL) -> None:
        """Send ChannelData."""
        self.socket.send(channel.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload)

    def receive(self) -> bytes:
        """The next datagram."""
        return self.socket.recv(70_000)

    def close(self) -> None:
        """End the allocation."""
        self.engine.close_allocation(self.allocation)
        self.socket.close()


def open_relay(engine: SocketDataPlane, host: str) -> tuple[int, Address]:
    """Bind a relay to a port that is free."""
    while True:
        bound = address(host, _ports.randrange(10_000, 32_000))
        try:
            return engine.open_relay(bound), bound
        except RelayUnavailable:
            continue


def join(one: Client, other: Client) -> None:
    """Bind channels both ways."""
    one.bind(other.relay, own=OWN_RELAYS_ONLY)
    other.bind(one.relay, own=OWN_RELAYS_ONLY)


@contextmanager
def running_engine(
    listen: Sequence[str] = ("127.0.0.1", "::1"),
    *,
    workers: int = 1,
    external: dict[bytes, bytes] | None = None,
    max_allocations: int = 100,
    start: bool = True,
    low_latency: bool = False,
) -> Iterator[SocketDataPlane]:
    """An engine on free ports."""
    engine = SocketDataPlane(
        [address(host) for host in listen],
        workers=workers,
        relay_addresses=[address("127.0.0.1").ip, address("::1").ip],
        external=external or {},
        max_allocations=max_allocations,
        flows_per_allocation=16,
        low_latency=low_latency,
    )
    try:
        if start:
            engine.start()
        yield engine
    finally:
        engine.close()


def wait_for_total(engine: SocketDataPlane, name: str, amount: int) -> None:
    """Return once the engine has counted so much."""
    until = time.monotonic() + TIMEOUT_S
    while engine.totals()[name] < amount:
        assert time.monotonic() < until, (name, amount, engine.totals())
        time.sleep(0.005)


def bind_again(engine: SocketDataPlane, bound: Address) -> int:
    """Bind a relay to an address whose last socket may still wait for a worker's batch to end."""
    for _ in range(100):
        try:
            return engine.open_relay(bound)
        except RelayUnavailable:
            time.sleep(0.01)
    raise AssertionError(f"{bound} stayed taken")


def data_of(datagram: bytes) -> tuple[Address, bytes]:
    """Peer and payload of a Data indication."""
    message = decode_message_untrusted(datagram)
    assert (message.method, message.message_class) == (Method.DATA, MessageClass.INDICATION)
    peer, data = message.first(Attribute.XOR_PEER_ADDRESS), message.first(Attribute.DATA)
    assert peer is not None
    assert data is not None
    return decode_xor_address_untrusted(peer, message.transaction_id), data


@contextmanager
def socket_at(bound: Address) -> Iterator[socket.socket]:
    """Another descriptor of this process's socket that is bound to an address."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:
            continue
        with found:
            if found.type == socket.SOCK_DGRAM and address_of(found) == bound:
                yield found
                return
    raise AssertionError(f"no socket at {bound}")


def only_with_df(bound: socket.socket, wanted: bool) -> None:
    """Have the kernel discard what comes over IPv4 with another DF than this."""
    load, test, give = 0x28, 0x45, 0x06
    whole, nothing = 0xFFFF_FFFF, 0
    instructions = [
        (load, 0, 0, 0xFFF0_0000 + 6),  # 16 bits of the IP header, counted from its begin
        (test, 0, 1, 0x4000),
        (give, 0, 0, whole if wanted else nothing),
        (give, 0, 0, nothing if wanted else whole),
    ]
    program = ctypes.create_string_buffer(
        b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    )
    pointed = struct.pack("@HP", len(instructions), ctypes.addressof(program))
    bound.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointed)


def fragmentation_needed(sender: Address, receiver: Address, *, mtu_bytes: int) -> bytes:
    """An ICMP message as a router sends it for a UDP packet with DF (RFC 792, RFC 1191)."""
    udp = struct.pack("!HHHH", sender.port, receiver.port, 1408, 0)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 1428, 1, 0x4000, 64, socket.IPPROTO_UDP, 0)
    quoted = ip + sender.ip + receiver.ip + udp
    total = sum(struct.unpack(f"!{len(quoted) // 2}H", quoted)) + 0x0304 + mtu_bytes
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBHHH", 3, 4, 0xFFFF - total, 0, mtu_bytes) + quoted


def wait_control(engine: SocketDataPlane) -> list[ControlDatagram | IcmpError]:
    """What comes to the control plane next."""
    assert select.select([engine.control_fd], [], [], 5)[0]
    return engine.receive(100)


def datagrams_of(engine: SocketDataPlane) -> list[ControlDatagram]:
    """All that waits for the control plane."""
    return [one for one in engine.receive(100_000) if isinstance(one, ControlDatagram)]


def wakeups_of(engine: SocketDataPlane) -> int:
    """How often its workers wake up while nothing is asked of them."""
    time.sleep(0.05)
    before = engine.totals()["wakeups"]
    time.sleep(0.2)
    return engine.totals()["wakeups"] - before
