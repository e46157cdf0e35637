"""One measurement: allocations on a server, traffic through them, and what it cost."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from bench.generator import Generator, bucket_starts_ns
from bench.path import Path
from bench.process import cpu_time_ns, dropped_datagrams, waited_ns
from bench.servers import CREDENTIALS, Server
from bench.turn_client import Client, Credentials, open_socket, run_all
from core.stun.address import Address

CHANNEL = 0x4001
WARM_UP_S = 0.3
SERVER_BUSY = 0.95
"""A server that uses less of its core when saturated was not the bottleneck."""
QUIET = 0.02
"""A server that waits longer for its core shares it with something else."""


class Mode(StrEnum):
    """Who talks to whom."""

    CALL = "call"
    """Pairs of the server's clients, each sending to the other's relayed address."""
    TO_PEER = "client to peer"
    FROM_PEER = "peer to client"
    PEER_BOTH = "peer, both ways"
    PEER_ECHO = "peer, echoed"
    """The clients send, their peers echo."""
    CALL_ECHO = "call, echoed"
    """Half of the clients send, their partners echo."""

    @property
    def echoes(self) -> bool:
        """Whether latencies are those of round trips."""
        return self in (Mode.PEER_ECHO, Mode.CALL_ECHO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is offered to a server.

    Attributes:
        rate: packets a second over all clients, echoes included, 0 for flat out.
    """

    mode: Mode
    allocations: int
    payload_bytes: int = 172
    burst: int = 1
    rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What became of it.

    Attributes:
        sent: packets that the generator sent while it measured.
        delivered: of those, packets that arrived, late ones included.
        loss: the share that did not.
        sent_a_second, delivered_a_second: while it measured.
        missed: packets of the rate that the generator was too late for.
        strays: duplicates, misdirected and unreadable packets.
        cpu_ns: the server's CPU time a delivered packet.
        server_busy: the share of one core that the server used.
        server_waited: the share of the time that its threads waited for a core, more than some
            percent of which means that something else ran there.
        server_drops, generator_drops: datagrams that the kernel dropped at their sockets.
        latency_p50_us, ...: one way; there and back in a mode that echoes.
    """

    sent: int
    delivered: int
    loss: float
    sent_a_second: float
    delivered_a_second: float
    missed: int
    strays: int
    cpu_ns: float
    server_busy: float
    server_waited: float
    server_drops: int
    generator_drops: int
    latency_p50_us: float
    latency_p99_us: float
    latency_p999_us: float

    @property
    def lost(self) -> int:
        """Packets that did not arrive."""
        return self.sent - self.delivered

    @property
    def generator_was_late(self) -> bool:
        """Whether more than 1 % of the rate was never offered."""
        return self.missed > 0.01 * (self.sent + self.missed)

    @property
    def server_was_full(self) -> bool:
        """Whether the server, not the generator, was what more packets would have needed."""
        return self.server_busy >= SERVER_BUSY

    @property
    def disturbed(self) -> bool:
        """Whether the server had to share its core."""
        return self.server_waited > QUIET


class Traffic:
    """Open allocations of one mode, ready to carry any load.

    Args:
        users: who opens them, in turn.
    """

    def __init__(
        self,
        server: Server,
        mode: Mode,
        allocations: int,
        users: Sequence[Credentials] = (CREDENTIALS,),
    ) -> None:
        self._server = server
        self._users = users
        self.mode = mode
        self._clients: list[Client] = []
        self._peers: list[socket.socket] = []
        self.paths: list[Path] = []
        try:
            if mode in (Mode.CALL, Mode.CALL_ECHO):
                self._open_calls(allocations)
            else:
                self._open_peers(allocations)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the sockets, whatever becomes of the allocations."""
        for client in self._clients:
            client.close()
        for peer in self._peers:
            peer.close()

    def release(self) -> None:
        """Ask the server to close the allocations."""
        run_all((client, client.refresh(0)) for client in self._clients)

    def _open_calls(self, allocations: int) -> None:
        clients = open_clients(self._server.address, allocations + allocations % 2, self._users)
        self._clients = clients
        pairs = list(zip(clients[::2], clients[1::2], strict=True))
        run_all(
            (one, one.bind_channel(CHANNEL, other.relayed_address()))
            for pair in pairs
            for one, other in (pair, pair[::-1])
        )
        for one, other in pairs:
            self.paths += call_paths(one, other)
            if self.mode == Mode.CALL_ECHO:
                self.paths[-1] = self.paths[-1]._replace(answers=len(self.paths) - 2)

    def _open_peers(self, allocations: int) -> None:
        self._clients = open_clients(self._server.address, allocations, self._users)
        binds = []
        for client in self._clients:
            peer = open_socket(client.relayed_address())
            self._peers.append(peer)
            address = Address.from_text(*peer.getsockname()[:2])
            binds.append((client, client.bind_channel(CHANNEL, address)))
        run_all(binds)
        for client, peer in zip(self._clients, self._peers, strict=True):
            there = Path(client.socket.fileno(), peer.fileno(), send_channel=CHANNEL)
            back = Path(peer.fileno(), client.socket.fileno(), receive_channel=CHANNEL)
            if self.mode in (Mode.TO_PEER, Mode.PEER_BOTH):
                self.paths.append(there)
            if self.mode in (Mode.FROM_PEER, Mode.PEER_BOTH):
                self.paths.append(back)
            if self.mode == Mode.PEER_ECHO:
                self.paths += [there, back._replace(answers=len(self.paths))]

    def measure(self, load: Load, seconds: float) -> Measurement:
        """Offer a load for `seconds` after a warm-up, and count until the last packet is in."""
        assert load.mode == self.mode
        return measure_paths(self._server.pid, self.paths, load, seconds)


def measure_paths(pid: int, paths: Sequence[Path], load: Load, seconds: float) -> Measurement:
    """Offer a load to the server of this process id for `seconds` after a warm-up, and count until
    the last packet is in."""
    generator = Generator(
        paths,
        payload_bytes=load.payload_bytes,
        burst=load.burst,
        rate=load.rate / 2 if load.mode.echoes else load.rate,
    )
    generator.run(WARM_UP_S)
    # What is late would count as delivered and not as sent.
    generator.drain()
    generator.reset()
    server_drops, own_drops = dropped_datagrams(pid), dropped_datagrams(os.getpid())
    waited_before_ns = waited_ns(pid)
    started_ns, cpu_started_ns = time.monotonic_ns(), cpu_time_ns(pid)
    generator.run(seconds)
    ended_ns, cpu_ended_ns = time.monotonic_ns(), cpu_time_ns(pid)
    waited_after_ns = waited_ns(pid)
    during = generator.counters()
    generator.drain()
    after = generator.counters()
    elapsed_s = (ended_ns - started_ns) / 1e9
    cpu_ns = cpu_ended_ns - cpu_started_ns
    sent, delivered = after["sent"], after["delivered"]
    p50, p99, p999 = percentiles_us(generator.latency_histogram(), (0.5, 0.99, 0.999))
    return Measurement(
        sent=sent,
        delivered=delivered,
        loss=(sent - delivered) / sent if sent else 0.0,
        sent_a_second=during["sent"] / elapsed_s,
        delivered_a_second=during["delivered"] / elapsed_s,
        missed=after["missed"],
        strays=sum(after[name] for name in ("duplicates", "beyond_window", "misdirected", "other")),
        cpu_ns=cpu_ns / max(1, during["delivered"]),
        server_busy=cpu_ns / (ended_ns - started_ns),
        server_waited=(waited_after_ns - waited_before_ns) / (ended_ns - started_ns),
        server_drops=dropped_datagrams(pid) - server_drops,
        generator_drops=dropped_datagrams(os.getpid()) - own_drops,
        latency_p50_us=p50,
        latency_p99_us=p99,
        latency_p999_us=p999,
    )


@contextmanager
def traffic(
    server: Server,
    mode: Mode,
    allocations: int,
    users: Sequence[Credentials] = (CREDENTIALS,),
) -> Iterator[Traffic]:
    """Allocations of this mode on a running server, released in the end; see `Traffic`."""
    opened = Traffic(server, mode, allocations, users)
    try:
        yield opened
        opened.release()
    finally:
        opened.close()


def open_clients(
    server: Address, count: int, users: Sequence[Credentials] = (CREDENTIALS,)
) -> list[Client]:
    """So many clients, each with its allocation; `users` open them in turn."""
    clients = [Client(server, user) for user in islice(cycle(users), count)]
    try:
        run_all((client, client.allocate()) for client in clients)
    except BaseException:
        for client in clients:
            client.close()
        raise
    return clients


def call_paths(one: Client, other: Client) -> list[Path]:
    """Both directions of a call whose channels are bound."""
    here, there = one.socket.fileno(), other.socket.fileno()
    return [
        Path(here, there, send_channel=CHANNEL, receive_channel=CHANNEL),
        Path(there, here, send_channel=CHANNEL, receive_channel=CHANNEL),
    ]


def percentiles_us(histogram: NDArray[np.uint64], shares: Sequence[float]) -> list[float]:
    """Latencies in microseconds that these shares of the packets do not exceed; zeros without a
    packet."""
    total = int(histogram.sum())
    if total == 0:
        return [0.0] * len(shares)
    cumulative = histogram.cumsum()
    starts_ns = bucket_starts_ns()
    return [
        float(starts_ns[int(np.searchsorted(cumulative, share * total))]) / 1000 for share in shares
    ]
