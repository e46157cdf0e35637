"""A data plane over real loopback sockets, with the control plane's part played by the test."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from core.stun.address import Address, FiveTuple
from relay.dataplane.interface import OWN_ALLOWED, OWN_RELAYS_ONLY, RelayUnavailable
from relay.dataplane.sockets import SocketDataPlane

FAR_NS = 10**18
TIMEOUT_S = 5.0
CHANNEL = 0x4000
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
