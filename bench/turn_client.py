"""A minimal TURN client (RFC 8656) that opens thousands of allocations at once.

A `Client` is one allocation on one socket. What it says to the server is written as Python
generators, which yield a request and are sent its reply; `run_all` carries many of them over
their sockets, a bounded number at a time, with retransmissions (RFC 8489 section 6.2.1).
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from core.errors import MontanaError, StunError
from core.stun.address import Address
from core.stun.attributes import (
    decode_error_code_untrusted,
    decode_xor_address_untrusted,
    encode_channel_number,
    encode_requested_transport,
    encode_uint32,
    encode_xor_address,
)
from core.stun.constants import Attribute, MessageClass, Method
from core.stun.credentials import long_term_key
from core.stun.message import Message, check_integrity, decode_message_untrusted, encode_message

RETRANSMIT_S = 0.5
ATTEMPTS = 7
DATAGRAM_BYTES = 2048
UDP = 17
"""REQUESTED-TRANSPORT's protocol number."""
RECEIVE_BUFFER_BYTES = 4 << 20
SO_RCVBUFFORCE = 33
SO_SNDBUFFORCE = 32

Script = Generator[bytes, Message, None]
"""Yields requests, is sent their replies."""


class ClientError(MontanaError):
    """A server refused what a benchmark needs, or did not answer."""


class Credentials(NamedTuple):
    """A long-term credential (RFC 8489 section 9.2)."""

    username: str
    password: str


def open_socket(remote: Address | None, local_ip: bytes | None = None) -> socket.socket:
    """A non-blocking UDP socket with big buffers, connected to `remote` where there is one.

    Args:
        local_ip: packed address to bind to, with a free port; for a socket that is not connected.
    """
    ip = remote.ip if remote is not None else local_ip
    assert ip is not None
    family = socket.AF_INET6 if len(ip) == 16 else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    enlarge_buffers(udp)
    if remote is not None:
        _bind_to_own_port(udp)
        udp.connect((remote.host, remote.port))
    else:
        udp.bind((Address(ip, 0).host, 0))
    return udp


def _bind_to_own_port(udp: socket.socket) -> None:
    """A port that none of the last thousands has had: coturn keeps an allocation's five-tuple for a
    while after its end, and answers 437 to who comes from it."""
    for _ in range(len(CLIENT_PORTS)):
        try:
            udp.bind(("", next(_client_ports)))
        except OSError:
            continue
        return
    raise ClientError("no port is left for a client")


def enlarge_buffers(udp: socket.socket) -> None:
    """Ask for buffers past the system's limit where the process may, else for what it grants."""
    for forced, plain in (
        (SO_RCVBUFFORCE, socket.SO_RCVBUF),
        (SO_SNDBUFFORCE, socket.SO_SNDBUF),
    ):
        try:
            udp.setsockopt(socket.SOL_SOCKET, forced, RECEIVE_BUFFER_BYTES)
        except PermissionError:
            udp.setsockopt(socket.SOL_SOCKET, plain, RECEIVE_BUFFER_BYTES)


CLIENT_PORTS = range(22_000, 32_768)
"""Below those that the system gives out, so that nobody else's is taken, nor a relay's."""
_client_ports = itertools.cycle(CLIENT_PORTS)


class Client:
    """One allocation, on a socket of its own that is connected to the server."""

    def __init__(self, server: Address, credentials: Credentials) -> None:
        self.socket = open_socket(server)
        self.relayed: Address | None = None
        self._credentials = credentials
        self._realm = b""
        self._nonce = b""
        self._key = b""

    def close(self) -> None:
        """Give the allocation up, without waiting for an answer, and close the socket.

        An allocation that is left behind would answer 437 to whoever gets this port next.
        """
        if self.relayed is not None:
            with suppress(OSError):
                self.socket.send(next(self.refresh(0)))
        self.socket.close()

    def relayed_address(self) -> Address:
        """Where peers reach this client, once `allocate` is through."""
        assert self.relayed is not None
        return self.relayed

    def allocate(self) -> Script:
        """Open the allocation: the challenge, then the request that answers it."""
        reply = yield from self._request(
            Method.ALLOCATE,
            lambda _: [(Attribute.REQUESTED_TRANSPORT, encode_requested_transport(UDP))],
        )
        relayed = reply.first(Attribute.XOR_RELAYED_ADDRESS)
        if relayed is None:
            raise ClientError("Allocate: no XOR-RELAYED-ADDRESS in the answer")
        self.relayed = decode_xor_address_untrusted(relayed, reply.transaction_id)

    def bind_channel(self, channel: int, peer: Address) -> Script:
        """Bind or refresh a channel, which installs the permission too (RFC 8656 section 12)."""

        yield from self._request(
            Method.CHANNEL_BIND,
            lambda transaction_id: [
                (Attribute.CHANNEL_NUMBER, encode_channel_number(channel)),
                (Attribute.XOR_PEER_ADDRESS, encode_xor_address(peer, transaction_id)),
            ],
        )

    def refresh(self, lifetime_s: int) -> Script:
        """Move the allocation's end; 0 closes it."""
        yield from self._request(
            Method.REFRESH, lambda _: [(Attribute.LIFETIME, encode_uint32(lifetime_s))]
        )
        if not lifetime_s:
            self.relayed = None

    def _request(
        self, method: Method, attributes: Callable[[bytes], list[tuple[int, bytes]]]
    ) -> Generator[bytes, Message, Message]:
        """One request until it succeeds; a challenge (401) or a stale nonce (438) is answered
        once each, by a new transaction. `attributes` is given the transaction ID."""
        answered: set[int] = set()
        while True:
            transaction_id = os.urandom(12)
            credentials: list[tuple[int, bytes]] = [
                (Attribute.USERNAME, self._credentials.username.encode()),
                (Attribute.REALM, self._realm),
                (Attribute.NONCE, self._nonce),
            ]
            request = encode_message(
                method,
                MessageClass.REQUEST,
                transaction_id,
                attributes(transaction_id) + (credentials if self._key else []),
                integrity_key=self._key or None,
            )
            reply = yield request
            if reply.message_class == MessageClass.SUCCESS:
                if not check_integrity(reply, self._key):
                    raise ClientError(f"{method.name}: the answer's integrity is wrong")
                return reply
            code, reason = decode_error_code_untrusted(reply.first(Attribute.ERROR_CODE) or b"")
            if code not in (401, 438) or code in answered:
                raise ClientError(f"{method.name}: {code} {reason}")
            answered.add(code)
            self._take_challenge(reply)

    def _take_challenge(self, reply: Message) -> None:
        realm = reply.first(Attribute.REALM) or b""
        self._nonce = reply.first(Attribute.NONCE) or b""
        if realm != self._realm:
            self._realm = realm
            self._key = _key(self._credentials, realm.decode())


@lru_cache(maxsize=64)
def _key(credentials: Credentials, realm: str) -> bytes:
    """The key, made once: preparing strings is slow and a benchmark has few users."""
    return long_term_key(credentials.username, realm, credentials.password)


@dataclass(slots=True)
class _Job:
    """A script under way."""

    client: Client
    script: Script
    request: bytes = b""
    attempts: int = 0
    resend_at_s: float = 0.0


def run_all(jobs: Iterable[tuple[Client, Script]], *, window: int = 32) -> None:
    """Carry scripts through, at most `window` at a time; a client has one script at a time.

    Raises:
        ClientError: a request was refused, or not answered after seven attempts.
    """
    waiting: Iterator[tuple[Client, Script]] = iter(jobs)
    running: dict[int, _Job] = {}
    more = True
    with select.epoll() as poll:
        while more or running:
            while more and len(running) < window:
                job_or_none = next(waiting, None)
                if job_or_none is None:
                    more = False
                    break
                job = _Job(*job_or_none)
                fd = job.client.socket.fileno()
                assert fd not in running, "a client has one script at a time"
                running[fd] = job
                poll.register(fd, select.EPOLLIN)
                _send(job, next(job.script))
            for fd, _ in poll.poll(RETRANSMIT_S / 4 if running else 0):
                if _advance(running[fd]):
                    poll.unregister(fd)
                    del running[fd]
            now_s = time.monotonic()
            for job in running.values():
                if now_s >= job.resend_at_s:
                    _resend(job)


def run_one(client: Client, script: Script) -> None:
    """Carry one script through.

    Raises:
        ClientError: as `run_all`.
    """
    run_all([(client, script)])


def _send(job: _Job, request: bytes) -> None:
    job.request = request
    job.attempts = 0
    _resend(job)


def _resend(job: _Job) -> None:
    if job.attempts >= ATTEMPTS:
        raise ClientError(f"no answer after {ATTEMPTS} attempts")
    job.attempts += 1
    job.resend_at_s = time.monotonic() + RETRANSMIT_S * 2 ** (job.attempts - 1)
    try:
        job.client.socket.send(job.request)
    except (ConnectionRefusedError, BlockingIOError):
        return  # the next attempt may find the server up, or room in the buffer


def _advance(job: _Job) -> bool:
    """Read what has arrived; whether the script is through."""
    while True:
        try:
            datagram = job.client.socket.recv(DATAGRAM_BYTES)
        except (BlockingIOError, ConnectionRefusedError):
            return False
        if not datagram or datagram[0] > 0x3F:
            continue  # relayed data
        try:
            reply = decode_message_untrusted(datagram)
        except StunError:
            continue
        if reply.transaction_id != job.request[8:20] or reply.message_class in (
            MessageClass.REQUEST,
            MessageClass.INDICATION,
        ):
            continue
        try:
            request = job.script.send(reply)
        except StopIteration:
            return True
        except StunError as error:
            raise ClientError(f"an answer can't be read: {error}") from error
        _send(job, request)


def wait_until_answering(server: Address, timeout_s: float) -> None:
    """Return once the server answers a Binding request.

    Raises:
        ClientError: it has not within `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    with open_socket(server) as udp:
        while time.monotonic() < deadline_s:
            request = encode_message(Method.BINDING, MessageClass.REQUEST, os.urandom(12), [])
            try:
                udp.send(request)
                if select.select([udp], [], [], 0.1)[0]:
                    udp.recv(DATAGRAM_BYTES)
                    return
            except ConnectionRefusedError:
                time.sleep(0.05)
    raise ClientError(f"{server} has not answered within {timeout_s:.0f} s")
