"""A page's WebSocket without a browser or a library, so that thousands of them cost little: a
plain socket, frames that are made once, what comes taken apart only as far as is needed (RFC 6455).
"""

from __future__ import annotations

import base64
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Final

import msgspec

from bench.turn_client import ClientError
from core.stun.address import Address

PATIENCE_S: Final = 30.0
CONNECTIONS_PER_ADDRESS: Final = 200
"""A node takes so many pages of one address, and some more."""
RECEIVE_BYTES: Final = 1 << 18
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_PING, _PONG, _TEXT, _CLOSE = 0x89, 0x8A, 0x81, 0x88
_MASKED = 0x80
_NO_KEY = bytes(4)
"""A mask of zeros is a mask (section 5.3), and leaves what it masks as it is."""

_buffer = bytearray(RECEIVE_BYTES)
_view = memoryview(_buffer)


def client_frame(payload: bytes, first: int = _TEXT) -> bytes:
    """A message as a page sends it."""
    return _head(first, len(payload), _MASKED) + _NO_KEY + payload


def server_frame(payload: bytes) -> bytes:
    """A message as a server sends it."""
    return _head(_TEXT, len(payload), 0) + payload


def _head(first: int, size: int, masked: int) -> bytes:
    if size < 126:
        return bytes((first, masked | size))
    if size < 1 << 16:
        return struct.pack(">BBH", first, masked | 126, size)
    return struct.pack(">BBQ", first, masked | 127, size)


def source_addresses() -> Iterable[str]:
    """Addresses of this machine alone, each for `CONNECTIONS_PER_ADDRESS` pages in turn."""
    for number in count(257):
        for _ in range(CONNECTIONS_PER_ADDRESS):
            yield f"127.0.{number // 256}.{number % 256}"


class Connection:
    """A page's connection, open and greeted by a node; `path` leads elsewhere.

    Attributes:
        origin: what the page says that it is of.
        seq: of the last message.
        socket: does not block; whoever counts what comes for itself reads from it.
        welcome: what a node has greeted with; empty where nobody greets (`is_greeted` False).
    """

    def __init__(
        self,
        server: Address,
        *,
        source: str = "127.0.0.1",
        path: str = "/ws",
        seq: int = 0,
        is_greeted: bool = True,
    ) -> None:
        self.origin = f"http://{server}"
        self.seq = seq
        self._unread = b""
        self._heard: deque[dict[str, Any]] = deque()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # The port is chosen when it is known where to: each address has all of them.
            self.socket.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            self.socket.bind((source, 0))
            self.socket.settimeout(PATIENCE_S)
            self.socket.connect((server.host, server.port))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open(server, path)
            self.socket.setblocking(False)
            self.welcome = self.expect("welcome") if is_greeted else {}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Be gone, without a word of parting."""
        self.socket.close()

    def _open(self, server: Address, path: str) -> None:
        """The opening handshake (section 4.1)."""
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {server}\r\nOrigin: {self.origin}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: montana.1\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = self.socket.recv(RECEIVE_BYTES)
            if not data:
                raise ClientError("a server has hung up in the opening handshake")
            answer += data
        head, _, self._unread = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ClientError(f"no WebSocket: {head.splitlines()[0].decode('latin-1')}")

    # ------------------------------------------------------------ messages

    def say(self, kind: str, **fields: Any) -> int:
        """Send a message; returns its number."""
        self.seq += 1
        self.send(client_frame(msgspec.json.encode({"type": kind, "seq": self.seq, **fields})))
        return self.seq

    def send(self, frames: bytes | memoryview) -> None:
        """Send frames, all of them."""
        try:
            sent = self.socket.send(frames)
        except BlockingIOError:
            sent = 0
        if sent != len(frames):
            raise ClientError("a server does not read what it is sent")

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have come; pings are answered."""
        if self._heard:
            heard = list(self._heard)
            self._heard.clear()
            return heard
        try:
            size = self.socket.recv_into(_buffer)
            if not size:
                raise ClientError("a server has hung up")
            self._unread += _view[:size]
        except BlockingIOError:
            pass
        except OSError as error:
            raise ClientError(f"a connection is lost: {error}") from error
        return self._take_frames()

    def _take_frames(self) -> list[dict[str, Any]]:
        data, at, found = self._unread, 0, []
        while len(data) - at >= 2:
            first, size = data[at], data[at + 1]
            start = at + 2
            if size == 126:
                start = at + 4
                size = int.from_bytes(data[at + 2 : start], "big")
            elif size == 127:
                start = at + 10
                size = int.from_bytes(data[at + 2 : start], "big")
            if len(data) < start + size:
                break
            payload, at = data[start : start + size], start + size
            if first == _TEXT:
                found.append(msgspec.json.decode(payload))
            elif first == _PING:
                self.send(client_frame(payload, _PONG))
            elif first == _CLOSE:
                raise ClientError(f"a server has closed a connection: {payload[2:].decode()}")
        self._unread = data[at:]
        return found

    # ------------------------------------------------------------ waiting

    def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send a message and wait for what answers it."""
        re = self.say(kind, **fields)
        return self._wait(lambda message: message.get("re") == re, f"answer to {kind}")

    def expect(self, kind: str, **values: Any) -> dict[str, Any]:
        """Wait for a message of a kind with these values; those before it are dropped."""
        wanted = {"type": kind, **values}
        return self._wait(lambda message: wanted.items() <= message.items(), kind)

    def _wait(self, fits: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        deadline_s = time.monotonic() + PATIENCE_S
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        while True:
            messages = deque(self.receive())
            while messages:
                message = messages.popleft()
                if message["type"] == "error":
                    raise ClientError(f"{what}: {message['code']}: {message['message']}")
                if fits(message):
                    self._heard = messages
                    return message
            if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
                raise ClientError(f"no {what} has come")


class Crowd:
    """Connections that stand idle: what they are told is read and dropped, pings are answered."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, connection: Connection) -> None:
        """Take a connection in."""
        # What came together with its handshake no poll tells of.
        connection.receive()
        self._connections[connection.socket.fileno()] = connection
        self._poll.register(connection.socket, select.EPOLLIN)

    def serve(self, duration_s: float = 0.0) -> None:
        """Read what comes within so long, at least what has come."""
        until_s = time.monotonic() + duration_s
        while True:
            ready = self._poll.poll(max(0.0, until_s - time.monotonic()), 1024)
            for descriptor, _ in ready:
                self._connections[descriptor].receive()
            if not ready and time.monotonic() >= until_s:
                return

    def close(self) -> None:
        """Be gone, all of them."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._poll.close()
