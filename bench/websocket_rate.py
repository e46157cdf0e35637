"""The node's WebSocket beside aiohttp's: messages a second on one core, memory a connection.

Run as ``python -m bench.websocket_rate``. Pairs of connections pass messages of 600 bytes on to one
another through the server, which has a core for itself; a connection has so many on their way at
once. Frames are made beforehand and counted, not read, so that the client costs less than a server.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from bench.process import (
    GENERATOR_CORE,
    SERVER_CORE,
    allow_many_descriptors,
    cpu_time_ns,
    proportional_bytes,
    use_core,
)
from bench.table import Table
from bench.websocket_servers import AIOHTTP, MONTANA
from core.units import KIB, NS_PER_S, NS_PER_US

CONNECTIONS = 50
MESSAGE_BYTES = 600
ON_THEIR_WAY = (1, 8)
WARM_UP_S = 0.5
CLIENTS_PER_ADDRESS = 200

_MASK = b"\x5a\xc3\x17\x88"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What one run gave.

    Attributes:
        on_their_way: messages of each connection that are under way at once.
        cpu_us: of the server's, a message.
        server_busy: the share of its core; well below one, the rate is not the server's limit.
        client_busy: the same of the client's.
    """

    server: str
    on_their_way: int
    messages_per_s: float
    cpu_us: float
    server_busy: float
    client_busy: float


@contextmanager
def running(server: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server on its core, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.websocket_servers", server],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        use_core(SERVER_CORE, process.pid)
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def open_websocket(port: int, number: int = 0) -> socket.socket:
    """The `number`-th connection; each 200 come from an address of their own."""
    host = number // CLIENTS_PER_ADDRESS
    connection = socket.socket()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.bind((f"127.0.{1 + host // 250}.{1 + host % 250}", 0))
    connection.connect(("127.0.0.1", port))
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"Origin: http://127.0.0.1:{port}\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
        "Accept-Encoding: gzip, deflate\r\nAccept-Language: en\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return connection


def message_of(size: int) -> bytes:
    """JSON of `size` bytes, such as a page sends."""
    empty = json.dumps({"type": "signal", "seq": 1, "to": "b", "sdp": ""})
    return (empty[:-2] + "v" * (size - len(empty)) + empty[-2:]).encode()


def client_frame(message: bytes) -> bytes:
    """A masked text frame of 126 to 65,535 bytes."""
    masked = bytes(byte ^ _MASK[place % 4] for place, byte in enumerate(message))
    return b"\x81\xfe" + len(message).to_bytes(2) + _MASK + masked


class Load:
    """Connections of which each sends as many messages as have come to it."""

    def __init__(self, connections: Sequence[socket.socket], message: bytes) -> None:
        self._connections = {one.fileno(): one for one in connections}
        self._frame = client_frame(message)
        self._answer_bytes = len(message) + 4
        self._partial = dict.fromkeys(self._connections, 0)
        self._many = {count: self._frame * count for count in range(1, 129)}
        self._buffer = bytearray(256 * KIB)
        self._poller = select.epoll()
        for one in connections:
            self._poller.register(one, select.EPOLLIN)
        self.passed = 0
        """Messages that have come so far."""

    def begin(self, on_their_way: int) -> None:
        """Send the first ones."""
        for connection in self._connections.values():
            connection.sendall(self._many[on_their_way])

    def run(self, seconds: float) -> None:
        """Keep them on their way."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for descriptor, _ in self._poller.poll(1):
                connection = self._connections[descriptor]
                size = connection.recv_into(self._buffer)
                assert size, "the server has closed a connection"
                count, self._partial[descriptor] = divmod(
                    self._partial[descriptor] + size, self._answer_bytes
                )
                if count:
                    self.passed += count
                    connection.sendall(self._many[count])


def measure_rate(server: str, on_their_way: int, seconds: float) -> Rate:
    """One run."""
    with running(server) as (process, port):
        connections = [open_websocket(port) for _ in range(CONNECTIONS)]
        load = Load(connections, message_of(MESSAGE_BYTES))
        load.begin(on_their_way)
        load.run(WARM_UP_S)
        passed, cpu_ns, begun_ns = load.passed, cpu_time_ns(process.pid), time.monotonic_ns()
        client_ns = time.process_time_ns()
        load.run(seconds)
        passed = load.passed - passed
        cpu_ns = cpu_time_ns(process.pid) - cpu_ns
        client_ns = time.process_time_ns() - client_ns
        took_ns = time.monotonic_ns() - begun_ns
        for one in connections:
            one.close()
    return Rate(
        server=server,
        on_their_way=on_their_way,
        messages_per_s=passed * NS_PER_S / took_ns,
        cpu_us=cpu_ns / passed / NS_PER_US,
        server_busy=cpu_ns / took_ns,
        client_busy=client_ns / took_ns,
    )


def measure_idle_bytes(server: str, count: int) -> float:
    """Memory of the server's own (its proportional set size) that an idle connection takes."""
    with running(server) as (process, port):
        # What the first ones cost is the server's, not theirs.
        first = [open_websocket(port) for _ in range(10)]
        before = proportional_bytes(process.pid)
        connections = [open_websocket(port, number) for number in range(count)]
        taken = proportional_bytes(process.pid) - before
        for one in first + connections:
            one.close()
    return taken / count


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.websocket_rate", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of each run")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is told")
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections, 0 for none")
    asked = parser.parse_args()
    allow_many_descriptors()
    use_core(GENERATOR_CORE)
    runs = [
        measure_rate(server, on_their_way, asked.seconds)
        for _ in range(asked.rounds)
        for on_their_way in ON_THEIR_WAY
        for server in (MONTANA, AIOHTTP)
    ]
    lines = []
    for on_their_way in ON_THEIR_WAY:
        for server in (MONTANA, AIOHTTP):
            same = [run for run in runs if (run.server, run.on_their_way) == (server, on_their_way)]
            lines.append(
                [
                    server,
                    str(on_their_way),
                    f"{median(run.messages_per_s for run in same):,.0f}",
                    f"{median(run.cpu_us for run in same):.1f}",
                    f"{median(run.server_busy for run in same):.0%}",
                    f"{median(run.client_busy for run in same):.0%}",
                ]
            )
    print(
        Table(
            title=f"Messages of {MESSAGE_BYTES} bytes between pairs of {CONNECTIONS} connections",
            headings=["", "on their way", "messages/s", "CPU us/message", "its core", "client's"],
            lines=lines,
        ).as_text()
    )
    if asked.idle:
        print()
        print(
            Table(
                title=f"{asked.idle:,} idle connections",
                headings=["", "KiB each"],
                lines=[
                    [server, f"{measure_idle_bytes(server, asked.idle) / KIB:.2f}"]
                    for server in (MONTANA, AIOHTTP)
                ],
            ).as_text()
        )


if __name__ == "__main__":
    main()
