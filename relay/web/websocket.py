"""WebSocket connections after their opening handshake (RFC 6455), all of a server's in one task.

    class Echo:
        def __init__(self, websocket: WebSocket) -> None: ...
        def received(self, message: bytes) -> None: self.websocket.send(message)
        def closed(self) -> None: ...

    HttpServer(..., websockets={"/ws": WebSocketRoute(open_app=Echo, is_allowed=...)})

A task and a buffer for each connection would cost most of what a connection costs. So the sockets
lie in an epoll instance of their own, in which they stay registered, and one task reads those that
have something. What is sent meanwhile is gathered and leaves with one call for each connection. A
turn of a connection is one read and so many messages, and after a slice of time everything else in
the process has its own turn.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from core.clock import Clock
from core.units import KIB, NS_PER_S
from relay.web.frames import (
    GOING_AWAY,
    INTERNAL_ERROR,
    NORMAL,
    Close,
    FrameDecoder,
    FrameError,
    Ping,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)
from relay.web.tls_stream import end_tls

RECEIVE_BYTES: Final = 64 * KIB
"""Of one connection in one turn."""
MESSAGES_PER_TURN: Final = 64
"""Smaller ones could keep everybody else waiting; what is over comes in the next turn."""
SLICE_NS: Final = 500_000
"""After that long the other tasks of the process have their turn."""
UNSENT_MAXIMUM_BYTES: Final = 256 * KIB
"""For one connection, over what the kernel takes; who reads too slowly for that is dropped."""
PING_AFTER_S: Final = 15
SILENCE_S: Final = 30
"""Who has sent nothing for so long, not even a pong, is gone."""
MESSAGE_S: Final = 15
"""How long a message may take to arrive, from its first byte on."""
CLOSE_S: Final = 5
"""How long the closing handshake may take."""
SWEEP_S: Final = 1
SWEEP_CONNECTIONS: Final = 500
"""Looked at for their deadlines without a pause."""
POLL_MAXIMUM: Final = 1024

_LINGER_NOT = struct.pack("ii", 1, 0)

_log = logging.getLogger("montana.web")


class Receiver(Protocol):
    """What an app makes of a connection."""

    def received(self, message: bytes) -> None:
        """A text message has come, valid UTF-8."""

    def closed(self) -> None:
        """The connection is over; called exactly once, and nothing is received after it. Where
        the app has closed it, that is when the peer agrees or its time is up."""


OpenApp = Callable[["WebSocket"], Receiver]
"""Takes up a new connection; it may send already."""
OriginRule = Callable[[str | None, str, str], bool]
"""Whether a page of this origin (None: not said) may connect: (origin, host, scheme) -> bool, the
latter two as the request has them, with ``http`` or ``https``. Nothing is validated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketRoute:
    """What stands behind a path.

    Attributes:
        message_maximum_bytes: of a message that comes; a larger one ends its connection (1009).
        subprotocol: selected where a client offers it.
    """

    open_app: OpenApp
    is_allowed: OriginRule
    message_maximum_bytes: int = 128 * KIB
    subprotocol: str = "montana.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketLimits:
    """How many there may be at once.

    Attributes:
        connections_per_client: of one IPv4 address or IPv6 /64 network.
    """

    connections: int = 20_000
    connections_per_client: int = 256


class WebSocket:
    """One connection, as its app sees it.

    Attributes:
        client: whose it is, an IP address as text.
        origin: of the page, as its browser says.
        is_closed: nothing can be sent any more.
    """

    __slots__ = (
        "_all",
        "_asked_ns",
        "_both_closed",
        "_decoder",
        "_end_by_ns",
        "_heard_ns",
        "_is_blocked",
        "_is_gone",
        "_midway_ns",
        "_place",
        "_receiver",
        "_socket",
        "_unsent",
        "_waiting",
        "client",
        "is_closed",
        "origin",
    )

    def __init__(
        self,
        owner: WebSockets,
        connection: socket.socket,
        place: Place,
        *,
        client: str,
        origin: str,
        message_maximum_bytes: int,
        now_ns: int,
    ) -> None:
        self.client = client
        self.origin = origin
        self.is_closed = False
        self._all = owner
        self._socket = connection
        self._place = place
        self._receiver: Receiver | None = None
        # None when what comes is not worth reading any more.
        self._decoder: FrameDecoder | None = FrameDecoder(message_maximum_bytes)
        self._unsent = bytearray()
        self._waiting: list[bytes | Ping | Close | FrameError] = []
        # Whether the kernel takes no more for now; its buffer is watched then.
        self._is_blocked = False
        # Whether both sides have said that they close, and whether the socket is closed.
        self._both_closed = False
        self._is_gone = False
        # When something came last, since when a message is incomplete, since when who was asked
        # by a ping had been silent, and when the closing handshake has to be over.
        self._heard_ns = now_ns
        self._midway_ns: int | None = None
        self._asked_ns: int | None = None
        self._end_by_ns: int | None = None

    def send(self, message: bytes) -> None:
        """Send a text message, valid UTF-8. Never blocks; a closed connection takes nothing."""
        if not self.is_closed:
            self._all._put(self, text_frame(message))

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """End the connection; what was sent before still goes out. `reason` has at most 123 bytes
        of UTF-8. Nothing is received after that."""
        if not self.is_closed:
            self._all._begin_close(self, code, reason)


class Place:
    """One of those that the limits leave for connections."""

    __slots__ = ("_all", "_is_taken", "_network")

    def __init__(self, owner: WebSockets) -> None:
        self._all = owner
        self._network = ""
        self._is_taken = False

    def take(self, network: str) -> bool:
        """Take it for a connection of a client's `network`; whether there is one."""
        assert not self._is_taken
        self._network = network
        self._is_taken = self._all._reserve(network)
        return self._is_taken

    def release(self) -> None:
        """Give it back, where it was taken."""
        if self._is_taken:
            self._is_taken = False
            self._all._release(self._network)


class WebSockets:
    """All connections of a server: `run` reads and writes them.

    Their app's callbacks run in its task, one at a time.
    """

    def __init__(self, clock: Clock, limits: WebSocketLimits | None = None) -> None:
        self._clock = clock
        self._limits = limits or WebSocketLimits()
        self._poller = select.epoll()
        self._open: dict[int, WebSocket] = {}
        self._by_network: Counter[str] = Counter()
        self._reserved = 0
        self._buffer = bytearray(RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._now_ns = clock.monotonic_ns()
        # Those that have something to send, and whether whoever gathers it sends it, too.
        self._is_gathering = False
        self._has_unsent = trio.Event()
        self._to_flush: list[WebSocket] = []
        # Those that have messages which wait for their next turn.
        self._unfinished: list[WebSocket] = []

    def __len__(self) -> int:
        return len(self._open)

    def place(self) -> Place:
        """A place for a connection, which is still to be taken."""
        return Place(self)

    def adopt(
        self,
        connection: socket.socket,
        route: WebSocketRoute,
        place: Place,
        *,
        client: str,
        origin: str,
        received: bytes,
    ) -> None:
        """Take over a connection whose opening handshake is done, with the `place` that it took.

        `connection` is a non-blocking socket or SSLSocket; `received` has come on it already.
        """
        self._begin_slice()
        websocket = WebSocket(
            self,
            connection,
            place,
            client=client,
            origin=origin,
            message_maximum_bytes=route.message_maximum_bytes,
            now_ns=self._now_ns,
        )
        self._open[connection.fileno()] = websocket
        self._poller.register(connection, select.EPOLLIN)
        try:
            websocket._receiver = route.open_app(websocket)
        except Exception:
            # The app's failures are our own mistakes; they must not end the others' connections.
            _log.exception("a WebSocket could not be taken up")
            self._begin_close(websocket, INTERNAL_ERROR)
        if received:
            # All of it at once: nothing may come any more that would have the rest looked at.
            self._take(websocket, memoryview(received), messages=len(received))
        self._flush_all()

    def _reserve(self, network: str) -> bool:
        if (
            self._reserved >= self._limits.connections
            or self._by_network[network] >= self._limits.connections_per_client
        ):
            return False
        self._reserved += 1
        self._by_network[network] += 1
        return True

    def _release(self, network: str) -> None:
        self._reserved -= 1
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]

    async def run(self) -> None:
        """Serve until cancelled; all connections end then with code 1001."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve)
                nursery.start_soon(self._sweep)
                nursery.start_soon(self._send_gathered)
        finally:
            self._stop()

    # ------------------------------------------------------------ reading

    async def _serve(self) -> None:
        while True:
            if self._unfinished:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._poller.fileno())
            end_ns = self._begin_slice()
            for websocket, events in self._due():
                if self._now_ns >= end_ns:
                    self._flush_all()
                    await trio.lowlevel.checkpoint()
                    end_ns = self._begin_slice()
                try:
                    self._turn(websocket, events)
                except Exception:
                    _log.exception("a WebSocket failed")
                    self._hang_up(websocket)
                self._now_ns = self._clock.monotonic_ns()
            self._flush_all()

    def _begin_slice(self) -> int:
        """Gather from now on; returns when the slice is over."""
        self._is_gathering = True
        self._now_ns = self._clock.monotonic_ns()
        return self._now_ns + SLICE_NS

    def _due(self) -> list[tuple[WebSocket, int]]:
        """Whose turn it is, with what epoll says of them."""
        unfinished, self._unfinished = self._unfinished, []
        due = [(websocket, 0) for websocket in unfinished]
        for descriptor, events in self._poller.poll(0, POLL_MAXIMUM):
            websocket = self._open[descriptor]
            if not websocket._waiting or events & select.EPOLLOUT:
                due.append((websocket, events))
        return due

    def _turn(self, websocket: WebSocket, events: int) -> None:
        if websocket._is_gone:
            return
        if not events:
            self._deliver(websocket, MESSAGES_PER_TURN)
            return
        if events & select.EPOLLOUT:
            self._flush(websocket)
        if events == select.EPOLLOUT or websocket._waiting or websocket._is_gone:
            return
        try:
            size = websocket._socket.recv_into(self._buffer)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except ssl.SSLWantWriteError:
            self._watch(websocket, for_output=True)
            return
        except OSError:
            size = 0
        if not size:
            self._hang_up(websocket)
            return
        self._take(websocket, self._view[:size], MESSAGES_PER_TURN)

    def _take(self, websocket: WebSocket, data: memoryview, messages: int) -> None:
        decoder = websocket._decoder
        websocket._heard_ns = self._now_ns
        if decoder is None:
            return
        events = decoder.feed(data)
        if decoder.is_midway:
            if events or websocket._midway_ns is None:
                websocket._midway_ns = self._now_ns
        else:
            websocket._midway_ns = None
        websocket._waiting = events
        self._deliver(websocket, messages)

    def _deliver(self, websocket: WebSocket, count: int) -> None:
        """Hand on what waits, so many at most."""
        events = websocket._waiting
        if len(events) > count:
            websocket._waiting = events[count:]
            del events[count:]
            self._unfinished.append(websocket)
        else:
            websocket._waiting = []
        receiver = websocket._receiver
        for event in events:
            if type(event) is bytes:
                if websocket.is_closed:
                    continue
                assert receiver is not None
                try:
                    receiver.received(event)
                except Exception:
                    _log.exception("a message over a WebSocket has met with a mistake of ours")
                    self._begin_close(websocket, INTERNAL_ERROR)
                    self._tell_closed(websocket)
            elif isinstance(event, Ping):
                if not websocket.is_closed:
                    self._put(websocket, pong_frame(event.payload))
            elif isinstance(event, Close):
                websocket._both_closed = True
                self._begin_close(websocket, event.code)
                self._tell_closed(websocket)
                self._flush(websocket)
            elif isinstance(event, FrameError):
                websocket._both_closed = websocket.is_closed
                websocket._decoder = None
                self._begin_close(websocket, event.close_code, str(event))
                self._tell_closed(websocket)
                self._flush(websocket)

    # ------------------------------------------------------------ writing

    def _put(self, websocket: WebSocket, frame: bytes) -> None:
        unsent = websocket._unsent
        if not unsent:
            self._to_flush.append(websocket)
            if not self._is_gathering:
                # Others may say more before the one who sends it has its turn.
                self._has_unsent.set()
        unsent += frame
        if len(unsent) > UNSENT_MAXIMUM_BYTES:
            self._flush(websocket)
        if len(unsent) > UNSENT_MAXIMUM_BYTES:
            self._drop(websocket)

    async def _send_gathered(self) -> None:
        """Send what was said outside of `_serve`, by those who had waited for something."""
        while True:
            await self._has_unsent.wait()
            self._has_unsent = trio.Event()
            self._flush_all()

    def _flush_all(self) -> None:
        """The end of gathering."""
        # What is flushed can close a connection, whose app may send to others: the list grows.
        for websocket in self._to_flush:
            self._flush(websocket)
        self._to_flush.clear()
        self._is_gathering = False

    def _flush(self, websocket: WebSocket) -> None:
        """Give the kernel what it takes now; where that was the last of a connection, end it."""
        if websocket._is_gone:
            return
        unsent = websocket._unsent
        try:
            while unsent:
                sent = websocket._socket.send(unsent)
                if sent == len(unsent):
                    # Half the price of the slice.
                    unsent.clear()
                else:
                    del unsent[:sent]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self._watch(websocket, for_output=True)
            return
        except OSError:
            self._drop(websocket)
            return
        if websocket._is_blocked:
            self._watch(websocket, for_output=False)
        if websocket._both_closed:
            self._hang_up(websocket)
        elif websocket._decoder is None:
            # Whoever sends what is no WebSocket may know the end of a connection nevertheless.
            # To close it at once would have the kernel throw away what was said last.
            end_tls(websocket._socket)
            with suppress(OSError):
                websocket._socket.shutdown(socket.SHUT_WR)

    def _watch(self, websocket: WebSocket, *, for_output: bool) -> None:
        if for_output != websocket._is_blocked:
            websocket._is_blocked = for_output
            events = select.EPOLLIN | (select.EPOLLOUT if for_output else 0)
            self._poller.modify(websocket._socket, events)

    # ------------------------------------------------------------ the end

    def _begin_close(self, websocket: WebSocket, code: int, reason: str = "") -> None:
        """Say that the connection ends, unless that was said (RFC 6455 section 7.1.2)."""
        if websocket.is_closed:
            return
        websocket._end_by_ns = self._clock.monotonic_ns() + CLOSE_S * NS_PER_S
        self._put(websocket, close_frame(code, reason))
        websocket.is_closed = True

    def _drop(self, websocket: WebSocket) -> None:
        """Break a connection off. Anybody's call may have led here: its app is told when epoll
        says that there is nothing more to read."""
        websocket.is_closed = True
        websocket._decoder = None
        websocket._unsent.clear()
        with suppress(OSError):
            # Else the kernel would keep for minutes what nobody reads.
            websocket._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            websocket._socket.shutdown(socket.SHUT_RDWR)

    def _hang_up(self, websocket: WebSocket) -> None:
        """Close the socket."""
        if websocket._is_gone:
            return
        websocket._is_gone = True
        websocket.is_closed = True
        connection = websocket._socket
        self._poller.unregister(connection)
        del self._open[connection.fileno()]
        end_tls(connection)
        connection.close()
        websocket._place.release()
        self._tell_closed(websocket)

    def _tell_closed(self, websocket: WebSocket) -> None:
        receiver, websocket._receiver = websocket._receiver, None
        if receiver is None:
            return
        try:
            receiver.closed()
        except Exception:
            _log.exception("the end of a WebSocket has met with a mistake of ours")

    async def _sweep(self) -> None:
        """Look at all deadlines, again and again."""
        while True:
            await trio.sleep(SWEEP_S)
            everyone = tuple(self._open.values())
            for first in range(0, len(everyone), SWEEP_CONNECTIONS):
                self._begin_slice()
                for websocket in everyone[first : first + SWEEP_CONNECTIONS]:
                    self._look_at_deadlines(websocket)
                self._flush_all()
                await trio.lowlevel.checkpoint()

    def _look_at_deadlines(self, websocket: WebSocket) -> None:
        if websocket._is_gone:
            return
        now_ns, midway_ns, end_by_ns = self._now_ns, websocket._midway_ns, websocket._end_by_ns
        silent_ns = now_ns - websocket._heard_ns
        if (
            silent_ns >= SILENCE_S * NS_PER_S
            or (midway_ns is not None and now_ns - midway_ns >= MESSAGE_S * NS_PER_S)
            or (end_by_ns is not None and now_ns >= end_by_ns)
        ):
            self._hang_up(websocket)
        elif (
            silent_ns >= PING_AFTER_S * NS_PER_S
            and websocket._asked_ns != websocket._heard_ns
            and not websocket.is_closed
        ):
            websocket._asked_ns = websocket._heard_ns
            self._put(websocket, ping_frame(b""))

    def _stop(self) -> None:
        for websocket in tuple(self._open.values()):
            self._begin_close(websocket, GOING_AWAY)
            self._flush(websocket)
            self._hang_up(websocket)
        self._poller.close()
