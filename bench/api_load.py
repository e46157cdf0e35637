"""What the node's socket is loaded with: clients that ask, each with so many requests under way."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from bench.process import core_of, core_time_ns, cpu_time_ns
from bench.turn_client import ClientError
from core.api.connection import ClientConnection
from core.api.messages import Failure, Reply, ReplyBody, RequestBody
from core.units import NS_PER_S

WARM_UP_S: Final = 0.5
DRAIN_S: Final = 10.0
RECEIVE_BYTES: Final = 256 * 1024


class Asked(NamedTuple):
    """What came of asking for a while.

    Attributes:
        replies: that came while it was measured.
        busy: the share of its core that the node used.
        others: the share of the time in which that core worked for others.
    """

    replies: int
    elapsed_ns: int
    cpu_ns: int
    busy: float
    others: float


class _Client:
    """A connection, and what it asks."""

    def __init__(self, path: Path, bodies: Iterator[RequestBody], reply: type[ReplyBody]) -> None:
        self.under_way = 0
        self._bodies = bodies
        self._reply = reply
        self._protocol = ClientConnection("montana bench")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))

    def ask(self, count: int) -> None:
        """Send so many requests at once."""
        for _ in range(count):
            self._protocol.request(next(self._bodies))
        self.under_way += count
        self.socket.sendall(self._protocol.data_to_send())

    def receive(self) -> int:
        """Take what has come; returns how many replies.

        Raises:
            ClientError: one is not what it should be.
        """
        received = self._protocol.receive_untrusted(self.socket.recv(RECEIVE_BYTES))
        for message in received:
            assert isinstance(message, Reply)
            if not isinstance(message.body, self._reply):
                said = message.body.message if isinstance(message.body, Failure) else ""
                raise ClientError(f"a request was not carried out: {message.body} {said}")
        self.under_way -= len(received)
        return len(received)


class Askers:
    """Clients in one process, each of which asks again as soon as a reply comes."""

    def __init__(self, clients: list[_Client], window: int, pid: int) -> None:
        self._clients = {client.socket.fileno(): client for client in clients}
        self._window = window
        self._pid = pid
        self._poller = select.epoll()
        for client in clients:
            self._poller.register(client.socket, select.EPOLLIN)

    def measure(self, seconds: float) -> Asked:
        """Ask for so long, with all under way again after a warm-up, then wait for the last."""
        for client in self._clients.values():
            client.ask(self._window)
        self._go_on(time.monotonic_ns() + int(WARM_UP_S * NS_PER_S))
        started_ns = time.monotonic_ns()
        core = core_of(self._pid)
        cpu_ns, core_ns = cpu_time_ns(self._pid), core_time_ns(core)
        replies = self._go_on(started_ns + int(seconds * NS_PER_S))
        elapsed_ns = time.monotonic_ns() - started_ns
        cpu_ns, core_ns = cpu_time_ns(self._pid) - cpu_ns, core_time_ns(core) - core_ns
        self._drain()
        others = max(0.0, (core_ns - cpu_ns) / elapsed_ns)
        return Asked(replies, elapsed_ns, cpu_ns, cpu_ns / elapsed_ns, others)

    def _go_on(self, end_ns: int) -> int:
        replies = 0
        while time.monotonic_ns() < end_ns:
            for descriptor, _ in self._poller.poll(0.1):
                client = self._clients[descriptor]
                count = client.receive()
                client.ask(count)
                replies += count
        return replies

    def _drain(self) -> None:
        end_ns = time.monotonic_ns() + int(DRAIN_S * NS_PER_S)
        while any(client.under_way for client in self._clients.values()):
            if time.monotonic_ns() > end_ns:
                raise ClientError(f"requests were not answered within {DRAIN_S:.0f} s")
            for descriptor, _ in self._poller.poll(0.1):
                self._clients[descriptor].receive()


@contextmanager
def asking(
    path: Path,
    pid: int,
    *,
    clients: int,
    window: int,
    bodies: Callable[[int], Iterator[RequestBody]],
    reply: type[ReplyBody],
) -> Iterator[Askers]:
    """Connect so many clients to the socket of the node with the process id `pid`.

    Args:
        bodies: what a client asks, by its number; without an end.
        reply: what it has to be told.
    """
    opened: list[_Client] = []
    try:
        for number in range(clients):
            opened.append(_Client(path, bodies(number), reply))
        yield Askers(opened, window, pid)
    finally:
        for client in opened:
            client.socket.close()
